"""The merge in the cells of the feature map: each pixel goes to one of the kernels that win the cells around it.

Enlarging N masks to the pixels of the map, to look which is highest there, takes most of the time of the exact merge
(model/merge.py). Between cells masks are interpolated, so that the highest at a pixel is nearly always one that is
highest in one of the four cells around. So kernels compete in the cells, N of them, and in the pixels, four.

B batch, N kernels, (h, w) cells, f pixels a cell along each side, (H, W) = f (h, w) the output map. The pixels between
four cell centres are a quad: f x f of them, of which those at the rim of the map lie outside and are cut off.
"""

import torch
from torch import Tensor

from model.merge import Candidates, Merged, count_owned, number_segments, paint_segments


def merge_cells(
    mask_logits: Tensor,
    candidates: Candidates,
    overlap_threshold: Tensor,
    factor: int,
    valid: Tensor,
    valid_pixels: Tensor,
    *,
    interpolate_logits: bool,
) -> Merged:
    """As `model.merge.merge`, from the masks in cells.

    Args:
        mask_logits: (B, N, h, w).
        candidates: of the rule's kernels.
        overlap_threshold: (B,); shares are of areas in cells.
        factor: f, 1 or an even number.
        valid: (B, 1, h, w) bool, cells of the content.
        valid_pixels: (B, 1, H, W) bool.
        interpolate_logits: between cells, and not probabilities. So the paper's code enlarges masks to its mask stride.
    """
    num_kernels = mask_logits.shape[1]
    probs = mask_logits.sigmoid()
    winner = (probs * candidates.weights[:, :, None, None]).argmax(dim=1)
    inside = (mask_logits >= 0) & valid
    area = count_owned(torch.where(valid[:, 0], winner, num_kernels), num_kernels)
    segment_id = number_segments(candidates, area, inside.sum(dim=(2, 3), dtype=torch.int32), overlap_threshold)
    owner = winner
    if factor > 1:
        values = mask_logits if interpolate_logits else probs
        owner = _owners_of_pixels(winner, values, candidates.weights, factor, valid, interpolate_logits)
    owner = torch.where(valid_pixels[:, 0], owner, num_kernels)
    area = torch.where(segment_id > 0, count_owned(owner, num_kernels), 0)
    return Merged(paint_segments(owner, segment_id), segment_id, area)


def _owners_of_pixels(
    winner: Tensor, values: Tensor, weights: Tensor, factor: int, valid: Tensor, are_logits: bool
) -> Tensor:
    """(B, H, W): of the winners (B, h, w) of the cells around each pixel, the one with the highest product there.

    Args:
        winner: of each cell.
        values: (B, N, h, w), what is interpolated.
        weights: (B, N), what each kernel's probability is multiplied by.
        factor: f.
        valid: (B, 1, h, w) bool; other cells have no influence.
        are_logits: so are the values.
    """
    batch, _, height, width = values.shape
    corner = _corners(height, width, winner.device)  # (4, Q), the cells of each quad
    quads = corner.shape[1]
    rivals = winner.flatten(1).index_select(1, corner.flatten()).reshape(batch, 4, quads)
    place = rivals[:, :, None] * (height * width) + corner  # (B, rival, cell, Q)
    around = values.flatten(1).gather(1, place.flatten(1)).reshape(batch, 4, 4, quads)
    known = valid.flatten(1).index_select(1, corner.flatten()).reshape(batch, 1, 4, quads).to(values.dtype)

    shares = _shares(factor).to(values)  # (f f, 4)
    here = shares @ (around * known)  # (B, rival, f f, Q)
    if are_logits:
        here = (here / (shares @ known).clamp(min=1e-6)).sigmoid()
    # Probabilities need no such division: it is the same for all four.
    best = (here * weights.gather(1, rivals.flatten(1)).reshape(batch, 4, 1, quads)).argmax(dim=1)
    owner = rivals.gather(1, best)  # (B, f f, Q)
    pixels = owner.reshape(batch, factor, factor, height + 1, width + 1).permute(0, 3, 1, 4, 2)
    pixels = pixels.reshape(batch, (height + 1) * factor, (width + 1) * factor)
    half = factor // 2
    return pixels[:, half : half + height * factor, half : half + width * factor]


def _corners(height: int, width: int, device: torch.device) -> Tensor:
    """(4, (h + 1) (w + 1)): flat index of each quad's cells: upper left, upper right, lower left, lower right."""
    rows, columns = torch.arange(height, device=device), torch.arange(width, device=device)
    above, below = torch.cat((rows[:1], rows)), torch.cat((rows, rows[-1:]))
    left, right = torch.cat((columns[:1], columns)), torch.cat((columns, columns[-1:]))
    return torch.stack([(y[:, None] * width + x).flatten() for y in (above, below) for x in (left, right)])


def _shares(factor: int) -> Tensor:
    """(f f, 4): bilinear weights of the four cells at each pixel of a quad, row by row."""
    far = (torch.arange(factor) + 0.5) / factor
    axis = torch.stack((1 - far, far))  # (2, f)
    return (axis[:, None, :, None] * axis[None, :, None, :]).reshape(4, factor * factor).T
