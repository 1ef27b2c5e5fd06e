"""Ways to merge masks into one map, each a module in place of `model.panoptic.PanopticMerge`."""

import dataclasses

import torch
from torch import Tensor, nn

from model.config import KNetConfig
from model.knet import KNetOutput
from model.merge import Candidates, Merged
from model.panoptic import PanopticMerge

SELECTED, STRIPS = 100, 4


class Way(nn.Module):
    """Around the merge of a config."""

    def __init__(self, config: KNetConfig) -> None:
        super().__init__()
        self.merge = PanopticMerge(config)


class SelectedMerge(Way):
    """As PanopticMerge, for the kernels of the highest scores."""

    def forward(
        self, output: KNetOutput, candidates: Candidates, overlap: Tensor, valid_size: Tensor, size: tuple[int, int]
    ) -> Merged:
        """Kernels that are not selected have no segment."""
        index = candidates.scores.topk(SELECTED, dim=1).indices
        masks = output.mask_logits[-1]
        chosen = masks.gather(1, index[:, :, None, None].expand(-1, -1, *masks.shape[2:]))
        few = Candidates(candidates.scores.gather(1, index), candidates.passes.gather(1, index), candidates.rule)
        merged = self.merge(dataclasses.replace(output, mask_logits=(chosen,)), few, overlap, valid_size, size)
        none = torch.zeros_like(candidates.scores, dtype=torch.int32)
        area, segment_id = (none.scatter(1, index, value) for value in (merged.area, merged.segment_id))
        return Merged(merged.id_map, segment_id, area)


class CellsAlone(Way):
    """As PanopticMerge, of the masks before they are enlarged at all."""

    def forward(
        self, output: KNetOutput, candidates: Candidates, overlap: Tensor, valid_size: Tensor, size: tuple[int, int]
    ) -> Merged:
        """The map has the feature stride."""
        masks = (output.feature_mask_logits,)
        merged: Merged = self.merge(
            dataclasses.replace(output, mask_logits=masks), candidates, overlap, valid_size, size
        )
        return merged


class StripsMerge(Way):
    """As PanopticMerge at every pixel, but for the count of areas; strips meet without the cells beyond their seams."""

    def forward(
        self, output: KNetOutput, candidates: Candidates, overlap: Tensor, valid_size: Tensor, size: tuple[int, int]
    ) -> Merged:
        """For time alone: each strip is a map of its own, and the first one's segments are given back."""
        masks = output.mask_logits[-1]
        strips = [
            self.merge(
                dataclasses.replace(output, mask_logits=(strip,)),
                candidates,
                overlap,
                valid_size // valid_size.new_tensor([STRIPS, 1]),
                (size[0] // STRIPS, size[1]),
            )
            for strip in masks.chunk(STRIPS, dim=2)
        ]
        return Merged(torch.cat([strip.id_map for strip in strips], dim=1), strips[0].segment_id, strips[0].area)


def choices(config: KNetConfig) -> dict[str, tuple[KNetConfig, nn.Module]]:
    """Each way that a network can be merged in: its config, and the module in place of PanopticMerge."""
    at_pixels = dataclasses.replace(config, merge_at="pixels", output_stride=1)
    in_cells = dataclasses.replace(at_pixels, merge_at="cells")
    found = {"pixels": (at_pixels, PanopticMerge(at_pixels)), "cells": (in_cells, PanopticMerge(in_cells))}
    found["strips"] = (at_pixels, StripsMerge(at_pixels))
    found["selected"] = (at_pixels, SelectedMerge(at_pixels))
    for stride in (2, 4, 8):
        if config.mask_stride % stride == 0:
            coarse = dataclasses.replace(at_pixels, output_stride=stride)
            found[f"stride {stride}"] = (coarse, PanopticMerge(coarse))
        elif stride == config.feature_stride:
            coarse = dataclasses.replace(at_pixels, mask_upsample=1, output_stride=stride)
            found[f"stride {stride}"] = (coarse, CellsAlone(coarse))
    return found
