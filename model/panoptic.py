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
        self.merge = PanopticMerge(network.config)

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
        merged = self.merge(output, candidates, overlap_threshold, valid_size, (height, width))
        return PanopticOutput(merged.id_map, merged.segment_id, class_index.to(torch.int32), score, merged.area)


class PanopticMerge(nn.Module):
    """The merge where the config wants it; a module, so that it has a name in the graph."""

    def __init__(self, config: KNetConfig) -> None:
        super().__init__()
        self.config = config

    def forward(
        self,
        output: KNetOutput,
        candidates: Candidates,
        overlap_threshold: Tensor,
        valid_size: Tensor,
        size: tuple[int, int],
    ) -> Merged:
        """Masks of the last stage -> id-map.

        Args:
            overlap_threshold: (B,).
            valid_size: (B, 2), height and width of the content in pixels.
            size: of the images.
        """
        config = self.config
        s = config.output_stride

        def content(stride: int) -> Tensor:
            return valid_cells(valid_size, size[0] // stride, size[1] // stride, stride)

        if config.merge_at == "cells":
            return merge_cells(
                output.feature_mask_logits.float(),
                candidates,
                overlap_threshold,
                config.feature_stride // s,
                content(config.feature_stride),
                content(s),
                interpolate_logits=config.mask_upsample > 1,
            )
        mask_probs = output.mask_logits[-1].float().sigmoid()
        valid = None if config.padding_in_masks else content(config.mask_stride)
        mask_probs = enlarge(mask_probs, config.mask_stride // s, valid, outside=0.0)
        return merge(mask_probs, candidates, overlap_threshold, content(s))


def classify(config: KNetConfig, output: KNetOutput) -> tuple[Tensor, Tensor, Tensor]:
    """Class index (B, N) and score (B, N) of every kernel by the last stage; which kernels are stuff (N,)."""
    probs = at_least_float32(output.class_logits[-1]).sigmoid()
    num_kernels = probs.shape[1]
    is_stuff = torch.arange(num_kernels, device=probs.device) >= num_kernels - config.num_stuff
    things, stuff = probs[:, : num_kernels - config.num_stuff], probs[:, num_kernels - config.num_stuff :]

    thing_score, thing_class = things[:, :, : config.num_things].max(dim=2)
    if config.fixed_stuff_score is None:
        # The diagonal, by a product with constants: TensorRT takes no other.
        own = torch.eye(config.num_stuff, dtype=probs.dtype, device=probs.device)
        stuff_score = (stuff[:, :, config.num_things :] * own).sum(dim=2)
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
