"""Masks, scores and classes of kernels -> one panoptic id-map, without a loop (section 3.4; appendix A).

Training validates with this very code and export puts it into the graph. `merge` is equal to the official loop over
segments in descending score; model/cell_merge.py gives nearly the same for a fraction of the time. Written with
comparisons and sums, so that the graph needs no Loop, If, NonZero or Sort.

B batch, N kernels, (H, W) the output map.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from model.config import Merge


@dataclass(frozen=True)
class Merged:
    """A panoptic map and what is known of each kernel's segment."""

    id_map: Tensor  # (B, H, W) int32, 0 = void, ids from 1 by descending score
    segment_id: Tensor  # (B, N) int32, 0 = the kernel has no segment
    area: Tensor  # (B, N) int32, pixels of the kernel's segment, 0 without one


@dataclass(frozen=True)
class Candidates:
    """The kernels of a batch as the merge sees them."""

    scores: Tensor  # (B, N), 0..1
    passes: Tensor  # (B, N) bool: stuff, and things whose score reaches the threshold
    rule: Merge  # "official": every kernel competes for pixels; "confident": those that pass

    @property
    def weights(self) -> Tensor:
        """(B, N): what a kernel's mask is multiplied by where kernels compete."""
        return torch.where(self.passes, self.scores, 0.0) if self.rule == "confident" else self.scores


def make_candidates(scores: Tensor, is_stuff: Tensor, score_threshold: Tensor, rule: Merge) -> Candidates:
    """Kernels by scores (B, N), is_stuff (N,) bool and score_threshold (B,); stuff has no threshold."""
    return Candidates(scores, is_stuff | (scores >= score_threshold[:, None]), rule)


def merge(
    mask_probs: Tensor,
    candidates: Candidates,
    overlap_threshold: Tensor,
    valid: Tensor | None = None,
) -> Merged:
    """Give each pixel to the kernel with the highest score x probability, then drop weak and hidden segments.

    Args:
        mask_probs: (B, N, H, W), 0..1.
        candidates: with rule "official" what a dropped kernel has won becomes void.
        overlap_threshold: (B,), segments that keep a smaller share of their mask are dropped.
        valid: (B, 1, H, W) bool, pixels of the content; the others are void and count in no area.
    """
    num_kernels = mask_probs.shape[1]
    owner = (mask_probs * candidates.weights[:, :, None, None]).argmax(dim=1)
    inside = mask_probs >= 0.5
    if valid is not None:
        owner = torch.where(valid[:, 0], owner, num_kernels)  # a kernel that does not exist
        inside = inside & valid
    area = count_owned(owner, num_kernels)
    segment_id = number_segments(candidates, area, inside.sum(dim=(2, 3), dtype=torch.int32), overlap_threshold)
    return Merged(paint_segments(owner, segment_id), segment_id, torch.where(segment_id > 0, area, 0))


def number_segments(candidates: Candidates, area: Tensor, mask_area: Tensor, overlap_threshold: Tensor) -> Tensor:
    """(B, N) int32: ids from 1 by descending score of the kernels that keep a segment, 0 for the others.

    Args:
        candidates: the kernels.
        area: (B, N), what each has won.
        mask_area: (B, N), of the whole mask of each, in the same unit.
        overlap_threshold: (B,).
    """
    # Both as float32 and divided, so that 3 of 5 pixels pass a threshold of 0.6 as they do in the official code.
    share = area.float() / mask_area.float().clamp(min=1.0)
    keep = candidates.passes & (area > 0) & (mask_area > 0) & (share >= overlap_threshold[:, None])
    scores = candidates.scores
    index = torch.arange(scores.shape[1], device=scores.device)
    higher = scores[:, :, None] < scores[:, None, :]  # [n, m]: m has a higher score than n
    earlier = (scores[:, :, None] == scores[:, None, :]) & (index[None, :] < index[:, None])
    rank = ((higher | earlier) & keep[:, None, :]).sum(dim=2, dtype=torch.int32)
    return torch.where(keep, rank + 1, 0)


def paint_segments(owner: Tensor, segment_id: Tensor) -> Tensor:
    """(B, H, W) int32: the id of each pixel's owner, a kernel 0..N - 1 or N for none, by segment_id (B, N)."""
    lookup = torch.cat((segment_id, segment_id.new_zeros(segment_id.shape[0], 1)), dim=1)
    return lookup.gather(1, owner.flatten(1)).reshape(owner.shape)


def count_owned(owner: Tensor, num_kernels: int) -> Tensor:
    """(B, N) int32: pixels of owner (B, H, W) that each kernel 0..N - 1 has; other values are not counted.

    A histogram as a matrix product: owners are written with two digits, and digits are compared instead of numbers,
    which takes 2 sqrt(N) comparisons a pixel in place of N. Rows are counted one by one: an engine may compute the
    product in a half precision, which holds numbers up to 256 (bfloat16) or 2048 (float16) exactly.
    """
    base = math.isqrt(num_kernels) + 1
    digits = torch.arange(base, device=owner.device)[:, None]
    high = torch.div(owner, base, rounding_mode="floor")
    is_high, is_low = ((digit.unsqueeze(2) == digits).float() for digit in (high, owner - high * base))
    counts = (is_high @ is_low.transpose(2, 3)).to(torch.int32).sum(dim=1, dtype=torch.int32)
    return counts.flatten(1)[:, :num_kernels]
