"""The importer on files that are made here: the published ones cannot be had."""

import json
import os
import pickle
import subprocess
import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from timm.models.swin_transformer import PatchMerging

from export.official import IMPORTED, Imported, OfficialFile, import_official, read_official, recognise
from export.official_names import expected_tensors, to_official, to_ours
from model.checkpoint import load
from model.official import OFFICIAL

R50 = "knet_s3_r50_fpn_1x_coco"
R50_3X = "knet_s3_r50_fpn_ms-3x_coco"
R101 = "knet_s3_r101_fpn_ms-3x_coco"
SWIN = "knet_s3_upernet_swin-t_80k_adamw_ade20k"
TWINS = [
    (R50, R50_3X),
    ("knet_s3_r50_fpn_1x_coco-panoptic", "knet_s3_r50_fpn_ms-3x_coco-panoptic"),
    ("knet_s3_upernet_swin-l_80k_adamw_ade20k", "knet_s3_upernet_swin-l_80k_adamw_640x640_ade20k"),
    ("knet_s3_upernet_swin-l_8x2_512x512_adamw_80k_ade20k", "knet_s3_upernet_swin-l_8x2_640x640_adamw_80k_ade20k"),
]


def shapes_alone(name: str, swin="mmcv") -> dict[str, torch.Tensor]:
    """A state dict of a configuration that takes no memory."""
    return {
        official: torch.zeros((), dtype=torch.float32 if one.is_float else torch.int64).expand(one.shape)
        for official, one in expected_tensors(OFFICIAL[name](), swin).items()
    }


def random_state(name: str, swin="mmcv") -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        official: torch.randn(one.shape, generator=generator)
        if not official.endswith("num_batches_tracked")
        else torch.tensor(7)
        for official, one in expected_tensors(OFFICIAL[name](), swin).items()
    }


@pytest.mark.parametrize("name", [name for name in OFFICIAL if "_8x2_" not in name])  # the authors' own
def test_names_and_shapes_are_those_of_the_official_code(name, official_weights, parity_folder):
    table = official_weights.read_keys(parity_folder / "keys" / f"{name}.tsv")
    theirs = {key: shape for key, shape in table.items() if not key.endswith("relative_position_index")}
    assert {key: one.shape for key, one in expected_tensors(OFFICIAL[name]()).items()} == theirs


@pytest.mark.parametrize("name", OFFICIAL)
def test_each_configuration_is_recognised(name):
    twins = next((pair for pair in TWINS if name in pair), (name,))
    found = recognise(OfficialFile(shapes_alone(name), {"exp_name": f"{name}.py"}))
    assert (found.name, found.fitting, found.unused) == (name, twins, {})


@pytest.mark.parametrize(("name", "swin"), [(R50, "mmcv"), (SWIN, "mmcv"), (SWIN, "original")])
def test_names_lead_there_and_back(name, swin):
    config, state = OFFICIAL[name](), random_state(name, swin)
    back = to_official(to_ours(state, config, swin), config, swin)
    assert list(back) == list(state)
    assert all(torch.equal(back[key], state[key]) for key in state)


def test_patch_merging_equals_the_ports_after_reordering():
    """The port unfolds 2x2 neighbours channel by channel."""
    torch.manual_seed(0)
    key, config = "backbone.stages.0.downsample.", OFFICIAL[SWIN]()
    state = random_state(SWIN)
    x = torch.randn(1, 6, 8, 96)
    unfolded = F.unfold(x.permute(0, 3, 1, 2), 2, stride=2).transpose(1, 2)
    normed = F.layer_norm(unfolded, (384,), state[f"{key}norm.weight"], state[f"{key}norm.bias"])
    expected = normed @ state[f"{key}reduction.weight"].T
    ours = PatchMerging(96)
    prefix = "backbone.body.layers_1.downsample."
    renamed = to_ours(state, config)
    ours.load_state_dict({k.removeprefix(prefix): v for k, v in renamed.items() if k.startswith(prefix)})
    # The same sums in another order.
    torch.testing.assert_close(ours(x).flatten(1, 2), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("pair", TWINS)
def test_twins_are_told_apart_by_metadata_or_by_name(pair):
    state = shapes_alone(pair[0])
    with pytest.raises(ValueError, match=rf"{pair[0]} and {pair[1]}, which have the same tensors.*--config"):
        recognise(OfficialFile(state, {}))
    with pytest.raises(ValueError, match="names several"):
        recognise(OfficialFile(state, {"config": f"{pair[0]} {pair[1]}"}))
    for name in pair:
        assert recognise(OfficialFile(state, {"config": f"work_dir = './work_dirs/{name}'\n"})).name == name
        assert recognise(OfficialFile(state, {}), name).chosen_by == "as asked for"
    started = {"exp_name": f"{pair[1]}.py", "config": f"load_from = '{pair[0]}.pth'", ("a", "tuple"): {(1, 2): 3}}
    assert recognise(OfficialFile(state, started)).name == pair[1]
    other = pair[1]
    assert recognise(OfficialFile(state, {"exp_name": f"{pair[0]}.py"}), other).name == other


def test_a_configuration_that_is_asked_for_must_fit_and_exist():
    with pytest.raises(ValueError, match=r"the file does not fit knet_s3_r101.*missing: backbone\.layer3\.6\.conv1"):
        recognise(OfficialFile(shapes_alone(R50), {}), R101)
    with pytest.raises(ValueError, match=r"no official configuration 'knet_s4'; legal: knet_s3_r50_fpn_1x_coco,"):
        recognise(OfficialFile(shapes_alone(R50), {}), "knet_s4")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda s: s.pop("rpn_head.conv_seg.bias"), r"1 missing: rpn_head\.conv_seg\.bias"),
        (lambda s: s.update(ballast=torch.zeros(2)), r"1 unknown: ballast"),
        (
            lambda s: s.update({"rpn_head.init_kernels.weight": torch.zeros(99, 256, 1, 1)}),
            r"1 of another shape: rpn_head\.init_kernels\.weight \(99x256x1x1, not 100x256x1x1\)",
        ),
        (
            lambda s: [s.pop(name) for name in list(s) if name.startswith("neck.")],
            r"16 missing: neck\.lateral_convs\.0\.conv\.weight.* and 11 more",
        ),
    ],
)
def test_wrong_missing_and_extra_tensors_are_named(change, words):
    state = shapes_alone(R50)
    change(state)
    with pytest.raises(ValueError, match=rf"fits no official configuration: the nearest, {R50}, {words}"):
        recognise(OfficialFile(state, {"exp_name": R50}))


@pytest.mark.parametrize("kind", [torch.bool, torch.int32, torch.uint8, torch.complex64, torch.float8_e4m3fn])
def test_tensors_of_another_type_are_named(kind):
    state = shapes_alone(R50)
    state["backbone.conv1.weight"] = torch.zeros(64, 3, 7, 7).to(kind)
    with pytest.raises(ValueError, match=rf"1 of another type: backbone\.conv1\.weight \({kind}, not one of"):
        recognise(OfficialFile(state, {}), R50)


def test_counters_are_integers():
    state = shapes_alone(R50)
    state["backbone.bn1.num_batches_tracked"] = torch.zeros(())
    with pytest.raises(
        ValueError, match=r"1 of another type: backbone\.bn1\.num_batches_tracked \(torch\.float32, not"
    ):
        recognise(OfficialFile(state, {}), R50)


def test_a_renamed_tensor_is_both_missing_and_unknown():
    state = shapes_alone(SWIN)
    state["backbone.norm4.weight"] = state.pop("backbone.norm3.weight")
    with pytest.raises(ValueError, match=r"1 missing: backbone\.norm3\.weight; 1 unknown: backbone\.norm4\.weight"):
        recognise(OfficialFile(state, {}))


@pytest.mark.parametrize(("swin", "attention"), [("mmcv", "attn.w_msa"), ("original", "attn")])
def test_the_index_of_swins_windows_is_checked_and_not_used(swin, attention):
    state = shapes_alone(SWIN, swin)
    stages = "stages" if swin == "mmcv" else "layers"
    name = f"backbone.{stages}.0.blocks.0.{attention}.relative_position_index"
    from timm.models.swin_transformer import get_relative_position_index

    state[name] = get_relative_position_index(7, 7)
    found = recognise(OfficialFile(state, {}))
    assert (found.name, found.swin) == (SWIN, swin)
    assert found.unused == {name: "follows from the size of the windows"}
    for wrong in (state[name].float(), state[name][:1], torch.zeros(())):
        with pytest.raises(ValueError, match=r"1 unknown: .*relative_position_index"):
            recognise(OfficialFile(state | {name: wrong}, {}))
    state[name] = state[name].T.contiguous()
    with pytest.raises(ValueError, match=r"1 unknown: .*relative_position_index"):
        recognise(OfficialFile(state, {}))


def test_weights_before_averaging_are_named_and_not_used():
    state = shapes_alone(R50)
    state["ema_rpn_head_conv_seg_bias"] = state["ema_module_rpn_head_conv_seg_bias"] = torch.zeros(80)
    found = recognise(OfficialFile(state, {}, ("optimizer", "ema_state_dict")), R50)
    averaged = ["ema_rpn_head_conv_seg_bias", "ema_module_rpn_head_conv_seg_bias"]
    assert list(found.unused) == [*averaged, "optimizer", "ema_state_dict"]
    state["ema_rpn_head_conv_seg_bias"] = torch.zeros(81)
    with pytest.raises(ValueError, match="1 unknown: ema_rpn_head_conv_seg_bias"):
        recognise(OfficialFile(state, {}), R50)
    del state["ema_rpn_head_conv_seg_bias"]
    state["ema_rpn_head_conv_seg_bios"] = torch.zeros(80)
    with pytest.raises(ValueError, match="unknown: ema_rpn_head_conv_seg_bios"):
        recognise(OfficialFile(state, {}), R50)


def test_a_file_in_mmcvs_wrapping_becomes_a_checkpoint(tmp_path):
    state = random_state(R50)
    meta = {
        "mmdet_version": "2.17.0",
        "config": f"work_dir = './work_dirs/{R50_3X}'",
        "CLASSES": ("person", "bicycle"),
        "lr": np.float64(1e-4),
        "epoch_sizes": np.arange(3),
        "seed": np.int64(5),
        "host": np.str_("gpu01"),
        "names": np.array(["person", "bicycle"]),
        ("a", "tuple"): {(1, 2): 3},
    }
    state["neck.fpn_convs.0.conv.bias"] = state["neck.fpn_convs.0.conv.bias"].half()
    path = tmp_path / "epoch_36.pth"
    optimizer = {"param_groups": [{"lr": 1e-4}], "state": {}}
    torch.save({"meta": meta, "state_dict": {f"module.{k}": v for k, v in state.items()}, "optimizer": optimizer}, path)

    found = import_official(path, tmp_path / "checkpoint").recognised
    assert (found.name, found.chosen_by) == (R50_3X, "named by the file's metadata")
    network = load(tmp_path / "checkpoint")
    assert network.config == OFFICIAL[R50_3X]()
    theirs = to_official(network.state_dict(), network.config)
    assert all(torch.equal(theirs[name], state[name]) for name in state)
    origin = json.loads((tmp_path / "checkpoint" / IMPORTED).read_text())
    assert (origin["file"], origin["recognised"]["fitting"]) == ("epoch_36.pth", [R50, R50_3X])
    assert origin["recognised"]["unused"] == {"optimizer": "no part of the network"}

    with pytest.raises(ValueError, match="is not empty; name a new folder"):
        import_official(path, tmp_path / "checkpoint")


@pytest.mark.parametrize("value", [torch.tensor(torch.nan), torch.tensor(1e300, dtype=torch.float64)])
def test_values_that_float32_cannot_hold_are_refused(tmp_path, value):
    state = random_state(R50)
    state["rpn_head.conv_seg.bias"] = value.expand(80).clone()
    torch.save({"state_dict": state}, tmp_path / "x.pth")
    with pytest.raises(ValueError, match=r"not finite, or too large for float32, in kernel_head\.conv_seg\.bias"):
        import_official(tmp_path / "x.pth", tmp_path / "checkpoint", R50)
    assert [path.name for path in tmp_path.iterdir()] == ["x.pth"]


def test_a_checkpoint_that_cannot_be_written_leaves_nothing_behind(tmp_path):
    """The process may write files of 20 MB at most, as on a disk that is full."""
    torch.save({"state_dict": random_state(R50)}, tmp_path / "x.pth")
    code = (
        "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (20_000_000,) * 2); from knet.cli import app; app()"
    )
    command = ["import", str(tmp_path / "x.pth"), "--out", str(tmp_path / "checkpoint"), "--config", R50]
    done = subprocess.run([sys.executable, "-c", code, *command], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1), done.stderr
    assert "cannot write" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["x.pth"]


def test_a_file_that_fits_nothing_leaves_no_checkpoint(tmp_path):
    torch.save({"weight": torch.zeros(3)}, tmp_path / "other.pth")
    with pytest.raises(ValueError, match="of no official K-Net; the first of its tensors: weight"):
        import_official(tmp_path / "other.pth", tmp_path / "checkpoint")
    assert not (tmp_path / "checkpoint").exists()


def test_a_digest_in_the_name_that_is_not_the_files_is_pointed_out():
    found = recognise(OfficialFile(shapes_alone(R101), {}))
    digest = "12345678" + 56 * "0"
    assert Imported("knet-12345678.pth", digest, found).warning is None
    assert Imported("epoch_12.pth", digest, found).warning is None
    assert "begins with 87654321, which it does not" in Imported("knet-87654321.pth", digest, found).warning


class Malicious:
    """Unpickling it would make a file."""

    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return os.mknod, (str(self.target),)


@pytest.mark.parametrize("wrap", [lambda x: {"state_dict": {"w": torch.zeros(1)}, "meta": x}, lambda x: x])
@pytest.mark.parametrize("legacy", [False, True])
def test_code_in_a_file_is_not_run(tmp_path, wrap, legacy):
    path, target = tmp_path / "bad.pth", tmp_path / "target"
    torch.save(wrap(Malicious(target)), path, _use_new_zipfile_serialization=not legacy)
    with pytest.raises(ValueError, match="mknod; only tensors, numbers, text and arrays of them are read"):
        read_official(path)
    assert not target.exists()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "no readable PyTorch file"),
        (b"PK\x03\x04 not a zip", "no readable PyTorch file"),
        (b"<html>Not found</html>", "no readable PyTorch file"),
        (pickle.dumps({"a": 1}), "no readable PyTorch file"),
    ],
)
def test_a_file_that_is_none_is_refused(tmp_path, content, words):
    (tmp_path / "x.pth").write_bytes(content)
    with pytest.raises(ValueError, match=words):
        read_official(tmp_path / "x.pth")


@pytest.mark.parametrize("share", [0.1, 0.5, 0.99])
def test_a_truncated_file_is_refused(tmp_path, share):
    path = tmp_path / "x.pth"
    torch.save({"state_dict": {"w": torch.zeros(1000)}}, path)
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(ValueError, match="no readable PyTorch file"):
        read_official(path)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ([1, 2], "holds no state dict, neither itself nor under 'state_dict'; it has: list"),
        ({"epoch": 3, "model": 4}, "it has: epoch, model"),
        ({"state_dict": {"w": torch.zeros(1), "v": 3}}, "no plain tensors: v"),
        ({"state_dict": None}, "it has: state_dict"),
        ({"state_dict": [torch.zeros(1)]}, "it has: state_dict"),
        ({"state_dict": torch.zeros(2), "epoch": 1}, "it has: state_dict, epoch"),
        ({"state_dict": {1: torch.zeros(1), ("a", "b"): torch.zeros(1)}}, r"no plain tensors: 1, \('a', 'b'\)"),
        ({"w": torch.zeros(2, 2).to_sparse()}, "no plain tensors: w"),
        ({"w": torch.zeros(2, device="meta")}, "no plain tensors: w"),
        ({"w": torch.zeros(1), "module.w": torch.zeros(1)}, "both with and without `module.`"),
    ],
)
def test_content_that_is_no_state_dict_is_refused(tmp_path, content, words):
    torch.save(content, tmp_path / "x.pth")
    with pytest.raises(ValueError, match=words):
        read_official(tmp_path / "x.pth")
