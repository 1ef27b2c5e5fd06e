"""One stage: group feature assembling, adaptive kernel update, kernel interaction, prediction (section 3.2).

B batch, N kernels, C channels, K classes, (h, w) the feature map.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.config import KNetConfig
from model.kernels import Kernels, Place, assemble_group_features, filter_features

REACH = 1.13  # of attention between kernels at the start, in radii of a typical object


class AdaptiveKernelUpdate(nn.Module):
    """Two gates mix the group features and the old kernels (section 3.2, eq. 4 to 6).

    Args:
        channels: of a kernel, or of each of the equal parts that it is cut into.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels
        self.group_layer = nn.Linear(channels, 2 * channels)
        self.kernel_layer = nn.Linear(channels, 2 * channels)
        self.group_gate = nn.Linear(channels, channels)
        self.kernel_gate = nn.Linear(channels, channels)
        self.group_gate_norm = nn.LayerNorm(channels)
        self.kernel_gate_norm = nn.LayerNorm(channels)
        self.group_norm = nn.LayerNorm(channels)
        self.kernel_norm = nn.LayerNorm(channels)
        self.output = nn.Linear(channels, channels)
        self.output_norm = nn.LayerNorm(channels)

    def forward(self, group_features: Tensor, kernels: Tensor) -> Tensor:
        """Group features and kernels (B, N, C) -> updated kernels (B, N, C); C a multiple of `channels`."""
        shape = kernels.shape
        if shape[-1] != self.channels:
            group_features, kernels = (x.reshape(shape[0], -1, self.channels) for x in (group_features, kernels))
        group_in, group_out = self.group_layer(group_features).chunk(2, dim=-1)
        kernel_in, kernel_out = self.kernel_layer(kernels).chunk(2, dim=-1)
        gate = group_in * kernel_in
        group_gate = self.group_gate_norm(self.group_gate(gate)).sigmoid()
        kernel_gate = self.kernel_gate_norm(self.kernel_gate(gate)).sigmoid()
        mixed = group_gate * self.group_norm(group_out) + kernel_gate * self.kernel_norm(kernel_out)
        return F.relu(self.output_norm(self.output(mixed))).reshape(shape)


class KernelInteraction(nn.Module):
    """Multi-head attention and FFN over all kernels of an image (section 3.2, eq. 7).

    Kernels that hold to a place attend less to distant ones: a bias of -softplus(w) |distance|^2 a head.

    Args:
        reach: cells over which kernels that hold to a place attend to each other at the start; None: they hold to none.
    """

    def __init__(self, channels: int, num_heads: int, ffn_channels: int, reach: float | None) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.in_proj = nn.Linear(channels, 3 * channels)
        self.out_proj = nn.Linear(channels, channels)
        self.attention_norm = nn.LayerNorm(channels)
        self.ffn = nn.Sequential(
            nn.Linear(channels, ffn_channels), nn.ReLU(inplace=True), nn.Linear(ffn_channels, channels)
        )
        self.ffn_norm = nn.LayerNorm(channels)
        self.distance_weight: nn.Parameter | None = None
        if reach is not None:
            # softplus of it is 1 / reach^2
            self.distance_weight = nn.Parameter(torch.full((num_heads,), math.log(math.expm1(reach**-2))))

    def forward(self, kernels: Tensor, place: Place | None, active: Tensor | None) -> Tensor:
        """Kernels (B, N, C), their places, and active (B, N) bool: slots that may be attended to."""
        kernels = self.attention_norm(kernels + self._attend(kernels, self._attention_bias(place, active)))
        return self.ffn_norm(kernels + self.ffn(kernels))  # type: ignore[no-any-return]

    def _attend(self, kernels: Tensor, bias: Tensor | None) -> Tensor:
        # Explicit products: the reshapes of nn.MultiheadAttention and of fused attention do not survive export.
        batch, num_kernels, channels = kernels.shape
        head_channels = channels // self.num_heads
        query, key, value = (
            x.reshape(batch, num_kernels, self.num_heads, head_channels).transpose(1, 2)
            for x in self.in_proj(kernels).chunk(3, dim=-1)
        )
        logits = query @ key.transpose(2, 3) * head_channels**-0.5
        weights = (logits if bias is None else logits + bias).softmax(dim=-1)
        attended = weights.to(value.dtype) @ value
        return self.out_proj(attended.transpose(1, 2).reshape(batch, num_kernels, channels))  # type: ignore[no-any-return]

    def _attention_bias(self, place: Place | None, active: Tensor | None) -> Tensor | None:
        """(B, heads or 1, N, N) added to the attention logits."""
        if place is None or self.distance_weight is None:
            return None if active is None else torch.where(active, 0.0, -1e4)[:, None, None, :]
        bias = -F.softplus(self.distance_weight)[:, None, None] * place.distance()[:, None]
        return bias if active is None else torch.where(active[:, None, None, :], bias, -1e4)


class Branch(nn.Module):
    """One linear layer without bias, LayerNorm, ReLU, and a linear layer to the outputs."""

    def __init__(self, channels: int, out_channels: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(channels, channels, bias=False)
        self.norm = nn.LayerNorm(channels)
        self.output = nn.Linear(channels, out_channels)

    def forward(self, kernels: Tensor) -> Tensor:
        """(B, N, C) -> (B, N, out_channels)."""
        return self.output(F.relu(self.norm(self.hidden(kernels))))  # type: ignore[no-any-return]


class PlaceUpdate(nn.Module):
    """Moves each kernel's place to the centroid of its mask and lets the kernel say how near 'near' is."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.falloff_and_bias = nn.Linear(channels, 2)
        nn.init.zeros_(self.falloff_and_bias.weight)
        nn.init.zeros_(self.falloff_and_bias.bias)

    def forward(self, kernels: Tensor, place: Place, hard_masks: Tensor) -> Place:
        """Updated kernels (B, N, C), their old places, and masks (B, N, h, w) -> new places."""
        log_factor, bias = self.falloff_and_bias(kernels).float().unbind(dim=2)
        # At most a factor of e^2 a stage. A falloff of 0 stays 0: such a kernel holds to no place.
        falloff = place.falloff * (2 * log_factor.tanh()).exp()
        return Place(place.moved_to(hard_masks), falloff, place.bias + bias, place.votes)


class KernelUpdateHead(nn.Module):
    """Kernels and masks -> better kernels, their classes and better masks."""

    def __init__(self, config: KNetConfig) -> None:
        super().__init__()
        channels = config.channels
        placed = config.first_kernels == "seeded"
        reach = REACH * config.seed_radius if placed else None
        self.is_semantic = config.kind == "semantic"
        self.feature_transform = nn.Conv2d(channels, channels, 1)
        self.adaptive_update = AdaptiveKernelUpdate(config.update_channels or channels)
        self.interaction = KernelInteraction(channels, config.num_heads, config.ffn_channels, reach)
        self.class_branch = None if self.is_semantic else Branch(channels, config.num_classes)
        self.mask_branch = Branch(channels, channels)
        self.place_update = PlaceUpdate(channels) if placed else None
        if self.class_branch is not None:
            nn.init.constant_(self.class_branch.output.bias, -4.6)  # every class starts at a probability of 0.01

    def forward(self, kernels: Kernels, features: Tensor, valid: Tensor | None = None) -> tuple[Kernels, Tensor | None]:
        """Kernels and the feature map (B, C, h, w) -> updated kernels with new masks; class logits (B, N, K).

        Semantic kernels are classes: masks share the pixels between them, and there are no class logits.
        """
        features = self.feature_transform(features)
        masks = kernels.class_shares(valid) if self.is_semantic else kernels.hard_masks
        group_features = assemble_group_features(masks, features)
        updated = self.adaptive_update(group_features, kernels.weights)
        updated = self.interaction(updated, kernels.place, kernels.active)

        place = kernels.place
        if place is not None and self.place_update is not None:
            place = self.place_update(updated, place, masks)
        mask_logits = filter_features(self.mask_branch(updated), features, place, valid)
        class_logits = None if self.class_branch is None else self.class_branch(updated)
        return Kernels(updated, mask_logits, kernels.active, place), class_logits
