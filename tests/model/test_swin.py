import pytest
import torch
import torch.nn.functional as F

from model.backbone import make_backbone
from model.config import BackboneConfig
from model.swin import SwinBackbone, _PaddedBlock, _shift_mask

TINY = BackboneConfig(name="swin_tiny_patch4_window7_224")


@pytest.fixture(scope="module")
def swin():
    torch.manual_seed(0)
    return make_backbone(TINY).eval()


def test_levels_have_the_strides_and_a_norm_each(swin):
    assert isinstance(swin, SwinBackbone)
    assert (swin.channels, swin.strides) == ([96, 192, 384, 768], [4, 8, 16, 32])
    with torch.inference_mode():
        maps = swin(torch.randn(1, 3, 64, 96))
    assert [tuple(x.shape) for x in maps] == [(1, 96, 16, 24), (1, 192, 8, 12), (1, 384, 4, 6), (1, 768, 2, 3)]
    for x in maps:  # fresh norms: mean 0 and variance 1 over the channels
        torch.testing.assert_close(x.mean(dim=1), torch.zeros_like(x[:, 0]), atol=1e-5, rtol=0)
        torch.testing.assert_close(x.var(dim=1, correction=0), torch.ones_like(x[:, 0]), atol=1e-2, rtol=0)


def test_blocks_pad_shift_and_attend_as_the_port_does(swin):
    """One block, window by window and token by token, on a map smaller than two windows: 9x10, padded to 14x14."""
    block = swin.body.layers_0.blocks[1]
    assert isinstance(block, _PaddedBlock)
    x = torch.randn(1, 9, 10, 96)
    with torch.inference_mode():
        ours = block._attn(x)
        padded = F.pad(x, (0, 0, 0, 4, 0, 5))
        shifted = padded.roll((-3, -3), (1, 2))
        # Which tokens were neighbours before the shift: the rows and columns that wrapped around are others.
        group = torch.zeros(14, 14, dtype=torch.long)
        group[11:] += 1
        group[:, 11:] += 2
        result = torch.zeros_like(shifted)
        for top in (0, 7):
            for left in (0, 7):
                tokens = shifted[:, top : top + 7, left : left + 7].reshape(1, 49, 96)
                groups = group[top : top + 7, left : left + 7].flatten()
                mask = torch.where(groups[:, None] == groups[None], 0.0, -100.0)
                attended = block.attn(tokens, mask[None])
                result[:, top : top + 7, left : left + 7] = attended.reshape(1, 7, 7, 96)
        expected = result.roll((3, 3), (1, 2))[:, :9, :10]
    torch.testing.assert_close(ours, expected, atol=1e-5, rtol=1e-5)  # float32


def test_windows_stay_shifted_on_maps_smaller_than_one(swin):
    block = swin.body.layers_3.blocks[1]
    assert block.shift_size == (3, 3)
    mask = _shift_mask(7, 7, 7, 3, torch.zeros(1))
    assert mask.shape == (1, 49, 49)
    assert (mask == -100).any()


@pytest.mark.parametrize(
    "change", [{"max_stride": 8}, {"frozen_level": 1}, {"deformable_levels": (2,)}, {"levels": (0, 1)}]
)
def test_what_swin_does_not_have_is_refused(change):
    with pytest.raises(ValueError, match=r"swin_tiny_patch4_window7_224|levels of a Swin"):
        make_backbone(BackboneConfig(name=TINY.name, **change))
