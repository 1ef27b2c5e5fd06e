"""Masks, scores and classes of kernels -> one panoptic id-map, without a loop (section 3.4; appendix A).

Training validates with this very code and export puts it into the graph. Equal to the official loop over segments in
descending score; written with comparisons and sums, so that the graph needs no Loop, If, NonZero or Sort.

B batch, N kernels, (H, W) the output map.
"""

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


def merge(
    mask_probs: Tensor,
    scores: Tensor,
    is_stuff: Tensor,
    score_threshold: Tensor,
    overlap_threshold: Tensor,
    valid: Tensor | None = None,
    rule: Merge = "official",
) -> Merged:
    """Give each pixel to the kernel with the highest score x probability, then drop weak and hidden segments.

    Args:
        mask_probs: (B, N, H, W), 0..1.
        scores: (B, N), 0..1.
        is_stuff: (N,) bool; stuff has no score threshold.
        score_threshold: (B,), things with a lower score are dropped.
        overlap_threshold: (B,), segments that keep a smaller share of their mask are dropped.
        valid: (B, 1, H, W) bool, pixels of the content; the others are void and count in no area.
        rule: "official" lets every kernel compete: what a dropped kernel has won becomes void. "confident" lets only
            kernels compete that pass the score threshold.
    """
    batch, num_kernels, height, width = mask_probs.shape
    passes = is_stuff | (scores >= score_threshold[:, None])
    weight = torch.where(passes, scores, 0.0) if rule == "confident" else scores
    owner = (mask_probs * weight[:, :, None, None]).argmax(dim=1, keepdim=True)
    inside = mask_probs >= 0.5
    if valid is not None:
        owner = torch.where(valid, owner, num_kernels)  # a kernel that does not exist
        inside = inside & valid

    index = torch.arange(num_kernels, device=scores.device)
    area = (owner == index[:, None, None]).sum(dim=(2, 3), dtype=torch.int32)
    mask_area = inside.sum(dim=(2, 3), dtype=torch.int32)
    # Both as float32 and divided, so that 3 of 5 pixels pass a threshold of 0.6 as they do in the official code.
    share = area.float() / mask_area.clamp(min=1).float()
    keep = passes & (area > 0) & (mask_area > 0) & (share >= overlap_threshold[:, None])

    higher = scores[:, :, None] < scores[:, None, :]  # [n, m]: m has a higher score than n
    earlier = (scores[:, :, None] == scores[:, None, :]) & (index[None, :] < index[:, None])
    rank = ((higher | earlier) & keep[:, None, :]).sum(dim=2, dtype=torch.int32)
    segment_id = torch.where(keep, rank + 1, 0)

    lookup = torch.cat((segment_id, segment_id.new_zeros(batch, 1)), dim=1)
    id_map = lookup.gather(1, owner.flatten(1)).reshape(batch, height, width)
    return Merged(id_map, segment_id, torch.where(keep, area, 0))
