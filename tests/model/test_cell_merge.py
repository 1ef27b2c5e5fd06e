import numpy as np
import pytest
import torch

from model.cell_merge import merge_cells
from model.knet import enlarge
from model.merge import count_owned, make_candidates, merge


def make_case(batch=2, num_kernels=7, height=6, width=9, seed=0):
    """Soft masks at random, scores, and which kernels are stuff."""
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(batch, num_kernels, height, width, generator=generator)
    scores = torch.rand(batch, num_kernels, generator=generator)
    return logits, scores, torch.arange(num_kernels) >= num_kernels - 2


def all_cells(logits, factor=1, valid_size=None):
    """(B, 1, f h, f w) bool."""
    batch, _, height, width = logits.shape
    valid = torch.ones(batch, 1, height * factor, width * factor, dtype=torch.bool)
    if valid_size is not None:
        valid[-1, :, valid_size[0] * factor :] = False
        valid[-1, :, :, valid_size[1] * factor :] = False
    return valid


def candidates_of(scores, is_stuff, rule, threshold=0.3):
    return make_candidates(scores, is_stuff, torch.full((len(scores),), threshold), rule)


@pytest.mark.parametrize("rule", ["official", "confident"])
@pytest.mark.parametrize("valid_size", [None, (4, 5)])
def test_with_a_cell_a_pixel_it_is_the_exact_merge(rule, valid_size):
    logits, scores, is_stuff = make_case()
    candidates, overlap = candidates_of(scores, is_stuff, rule), torch.tensor([0.2, 0.1])
    valid = all_cells(logits, 1, valid_size)
    ours = merge_cells(logits, candidates, overlap, 1, valid, valid, interpolate_logits=False)
    exact = merge(logits.sigmoid(), candidates, overlap, valid)
    assert ours.id_map.max() > 2
    for one, other in zip(vars(ours).values(), vars(exact).values(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("logits_between", [False, True])
@pytest.mark.parametrize("factor", [2, 4])
@pytest.mark.parametrize("valid_size", [None, (4, 5)])
def test_a_pixel_goes_to_the_best_of_the_winners_around_it(factor, logits_between, valid_size):
    logits, scores, is_stuff = make_case()
    candidates = candidates_of(scores, is_stuff, "official")
    valid = all_cells(logits, 1, valid_size)
    ours = merge_cells(
        logits,
        candidates,
        torch.zeros(2),
        factor,
        valid,
        all_cells(logits, factor, valid_size),
        interpolate_logits=logits_between,
    )
    if logits_between:
        fine = enlarge(logits, factor, valid, outside=-1e4).sigmoid()
    else:
        fine = enlarge(logits.sigmoid(), factor, valid, outside=0.0)
    weighted = (fine * scores[:, :, None, None]).numpy()
    winner = (logits.sigmoid() * scores[:, :, None, None]).argmax(dim=1).numpy()
    num_rows, num_columns = winner.shape[1:]
    for i in range(2):
        rows, columns = valid_size if valid_size is not None and i == 1 else (num_rows, num_columns)
        for y in range(num_rows * factor):
            for x in range(num_columns * factor):
                if y >= rows * factor or x >= columns * factor:
                    assert ours.id_map[i, y, x] == 0
                    continue
                above, left = (int(np.floor((p + 0.5) / factor - 0.5)) for p in (y, x))
                cells = {
                    (min(max(a, 0), num_rows - 1), min(max(b, 0), num_columns - 1))
                    for a in (above, above + 1)
                    for b in (left, left + 1)
                }
                # Cells in the padding may win, too; what they hold counts for nothing.
                rivals = sorted({int(winner[i, a, b]) for a, b in cells})
                best = max(rivals, key=lambda n: weighted[i, n, y, x])
                assert ours.id_map[i, y, x] == ours.segment_id[i, best]


def test_areas_are_the_pixels_of_the_map():
    logits, scores, is_stuff = make_case(height=16, width=16)
    valid = all_cells(logits, 1, (13, 9))
    merged = merge_cells(
        logits,
        candidates_of(scores, is_stuff, "official"),
        torch.full((2,), 0.1),
        2,
        valid,
        all_cells(logits, 2, (13, 9)),
        interpolate_logits=False,
    )
    for id_map, segment_id, area in zip(merged.id_map, merged.segment_id, merged.area, strict=True):
        for number, pixels in zip(segment_id.tolist(), area.tolist(), strict=True):
            assert pixels == (int((id_map == number).sum()) if number else 0)


def test_smooth_masks_are_decided_as_by_the_exact_merge():
    """Discs, as objects are: where no kernel is highest between cells without being so in one of them."""
    y, x = torch.meshgrid(torch.arange(24.0), torch.arange(24.0), indexing="ij")
    rng = np.random.default_rng(2)
    discs = [(4 - torch.hypot(y - a, x - b)) / 1.2 for a, b in rng.uniform(0, 24, (12, 2))]
    logits = torch.stack(discs)[None]
    candidates = candidates_of(torch.linspace(0.5, 0.9, 12)[None], torch.zeros(12, dtype=torch.bool), "official")
    overlap, valid, pixels = torch.tensor([0.5]), all_cells(logits), all_cells(logits, 4)
    ours = merge_cells(logits, candidates, overlap, 4, valid, pixels, interpolate_logits=False)
    exact = merge(enlarge(logits.sigmoid(), 4, valid, outside=0.0), candidates, overlap, pixels)
    assert torch.equal(ours.segment_id, exact.segment_id)
    assert (ours.id_map != exact.id_map).float().mean() < 2e-3


@pytest.mark.parametrize("num_kernels", [1, 3, 8, 9, 401])
def test_counts_are_those_of_a_histogram(num_kernels):
    generator = torch.Generator().manual_seed(num_kernels)
    owner = torch.randint(0, num_kernels + 1, (2, 13, 31), generator=generator)
    counts = count_owned(owner, num_kernels)
    assert counts.dtype == torch.int32
    expected = [torch.bincount(one.flatten(), minlength=num_kernels + 1)[:num_kernels] for one in owner]
    assert torch.equal(counts, torch.stack(expected).int())
