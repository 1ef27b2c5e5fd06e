"""The graph of a panoptic K-Net: pixels in, id-map out."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from model.cell_merge import merge_cells
from model.config import KNetConfig
from model.inputs import network_inputs
from model.knet import KNet, KNetOutput, enlarge, valid_cells
from model.merge import Candidates, Merged, make_candidates, merge
from model.precision import at_least_float32


class PanopticOutput(NamedTuple):
    """Outputs of the graph, in order. s is the output stride, N the kernels."""

    id_map: Tensor  # (B, H / s, W / s) int32, 0 = void
    segment_id: Tensor  # (B, N) int32, a kernel's value in the id-map; 0: it has no segment
    class_index: Tensor  # (B, N) int32
    score: Tensor  # (B, N) float32
    area: Tensor  # (B, N) int32, pixels of the id-map


class PanopticModel(nn.Module):
    """Normalisation, network and merge."""

    output_names = PanopticOutput._fields

    def __init__(self, network: KNet) -> None:
        super().__init__()
        self.network = network

    def forward(
        self,
        image: Tensor,
        valid_size: Tensor,
        score_threshold: Tensor,
        overlap_threshold: Tensor,
        pixel_mean: Tensor | None = None,
        pixel_std: Tensor | None = None,
    ) -> PanopticOutput:
        """Images, their valid sizes and statistics as in `model.inputs.network_inputs`.

        Args:
            score_threshold, overlap_threshold: (B,) float32.
        """
        config = self.network.config
        _, height, width, _ = image.shape
        pixels, valid = network_inputs(config, image, valid_size, pixel_mean, pixel_std)
        output = self.network(pixels, valid)
        class_index, score, is_stuff = classify(config, output)
        candidates = make_candidates(score, is_stuff, score_threshold, config.merge)
        if config.merge_at == "cells":
            merged = self._merge_cells(output, candidates, overlap_threshold, valid_size, height, width)
        else:
            merged = self._merge_pixels(output, candidates, overlap_threshold, valid_size, height, width)
        return PanopticOutput(merged.id_map, merged.segment_id, class_index.to(torch.int32), score, merged.area)

    def _merge_pixels(
        self,
        output: KNetOutput,
        candidates: Candidates,
        overlap_threshold: Tensor,
        valid_size: Tensor,
        height: int,
        width: int,
    ) -> Merged:
        """All kernels compete at each pixel of the map."""
        config = self.network.config
        s, mask_stride = config.output_stride, config.mask_stride
        valid_masks = None
        if not config.padding_in_masks:
            valid_masks = valid_cells(valid_size, height // mask_stride, width // mask_stride, mask_stride)
        mask_probs = output.mask_logits[-1].float().sigmoid()
        mask_probs = enlarge(mask_probs, mask_stride // s, valid_masks, outside=0.0)
        return merge(mask_probs, candidates, overlap_threshold, valid_cells(valid_size, height // s, width // s, s))

    def _merge_cells(
        self,
        output: KNetOutput,
        candidates: Candidates,
        overlap_threshold: Tensor,
        valid_size: Tensor,
        height: int,
        width: int,
    ) -> Merged:
        """All kernels compete in the cells of the feature map, the winners around a pixel there."""
        config = self.network.config
        s, stride = config.output_stride, config.feature_stride
        return merge_cells(
            output.feature_mask_logits.float(),
            candidates,
            overlap_threshold,
            stride // s,
            valid_cells(valid_size, height // stride, width // stride, stride),
            valid_cells(valid_size, height // s, width // s, s),
            interpolate_logits=config.mask_upsample > 1,
        )


def classify(config: KNetConfig, output: KNetOutput) -> tuple[Tensor, Tensor, Tensor]:
    """Class index (B, N) and score (B, N) of every kernel by the last stage; which kernels are stuff (N,)."""
    probs = at_least_float32(output.class_logits[-1]).sigmoid()
    num_kernels = probs.shape[1]
    is_stuff = torch.arange(num_kernels, device=probs.device) >= num_kernels - config.num_stuff
    things, stuff = probs[:, : num_kernels - config.num_stuff], probs[:, num_kernels - config.num_stuff :]

    thing_score, thing_class = things[:, :, : config.num_things].max(dim=2)
    if config.fixed_stuff_score is None:
        stuff_score = stuff[:, :, config.num_things :].diagonal(dim1=1, dim2=2)
    else:
        stuff_score = torch.full_like(stuff[:, :, 0], config.fixed_stuff_score)
    stuff_class = torch.arange(config.num_things, config.num_classes, device=probs.device)
    class_index = torch.cat((thing_class, stuff_class.expand(probs.shape[0], -1)), dim=1)
    score = torch.cat((thing_score, stuff_score), dim=1)
    if config.mask_quality:
        score = score * mask_quality(output.mask_logits[-1])
    if output.active is not None:
        score = torch.where(output.active, score, 0.0)
    return class_index, score, is_stuff


def mask_quality(mask_logits: Tensor) -> Tensor:
    """(B, N): mean probability of the pixels inside each mask (B, N, h, w), 0 for an empty one (Mask2Former)."""
    probs = at_least_float32(mask_logits).sigmoid()
    inside = (probs > 0.5).to(probs.dtype)
    return (probs * inside).sum(dim=(2, 3)) / inside.sum(dim=(2, 3)).clamp(min=1)
