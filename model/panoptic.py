"""A K-Net with everything around it that is served: pixels in, id-map out. Export makes this module the graph."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from model.knet import KNet, KNetOutput, enlarge, valid_cells
from model.merge import merge
from model.normalise import normalise


class PanopticOutput(NamedTuple):
    """Outputs of the graph, in order. s is the output stride, N the kernels."""

    id_map: Tensor  # (B, H / s, W / s) int32, 0 = void
    segment_id: Tensor  # (B, N) int32, a kernel's value in the id-map; 0: it has no segment
    class_index: Tensor  # (B, N) int32
    score: Tensor  # (B, N) float32
    area: Tensor  # (B, N) int32, pixels of the id-map


class PanopticModel(nn.Module):
    """Normalisation, network and merge.

    Args:
        network: the K-Net.
        output_stride: image pixels per pixel of the id-map; a divisor of the network's mask stride.

    Raises:
        ValueError: output_stride does not fit.
    """

    def __init__(self, network: KNet, output_stride: int) -> None:
        super().__init__()
        mask_stride = network.config.mask_stride
        if output_stride < 1 or mask_stride % output_stride:
            raise ValueError(f"output_stride is {output_stride}; legal: divisors of the mask stride {mask_stride}")
        self.network = network
        self.output_stride = output_stride

    def forward(
        self,
        image: Tensor,
        valid_size: Tensor,
        score_threshold: Tensor,
        overlap_threshold: Tensor,
        pixel_mean: Tensor | None = None,
        pixel_std: Tensor | None = None,
    ) -> PanopticOutput:
        """See the graph inputs in docs/design.md.

        Args:
            image: (B, H, W, 3) uint8 RGB, content at the top left, H and W multiples of `config.size_multiple`.
            valid_size: (B, 2) int32, height and width of the content.
            score_threshold, overlap_threshold: (B,) float32.
            pixel_mean, pixel_std: (B,) float32, for networks that normalise by the image's own statistics.
        """
        config = self.network.config
        _, height, width, _ = image.shape
        pixels = normalise(
            image.permute(0, 3, 1, 2),
            valid_cells(valid_size, height, width, 1),
            config.normalisation,
            pixel_mean,
            pixel_std,
        )
        stride = config.feature_stride
        output = self.network(pixels, valid_cells(valid_size, height // stride, width // stride, stride))
        class_index, score, is_stuff = classify(self.network, output)
        mask_probs = output.mask_logits[-1].float().sigmoid()
        s, mask_stride = self.output_stride, config.mask_stride
        valid_masks = valid_cells(valid_size, height // mask_stride, width // mask_stride, mask_stride)
        mask_probs = enlarge(mask_probs, mask_stride // s, valid_masks, outside=0.0)
        merged = merge(
            mask_probs,
            score,
            is_stuff,
            score_threshold,
            overlap_threshold,
            valid_cells(valid_size, height // s, width // s, s),
            config.competitors,
        )
        return PanopticOutput(merged.id_map, merged.segment_id, class_index, score, merged.area)


def classify(network: KNet, output: KNetOutput) -> tuple[Tensor, Tensor, Tensor]:
    """Class index (B, N) int32 and score (B, N) of every kernel by the last stage; which kernels are stuff (N,)."""
    config = network.config
    probs = output.class_logits[-1].float().sigmoid()
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
    if output.active is not None:
        score = torch.where(output.active, score, 0.0)
    return class_index.to(torch.int32), score, is_stuff
