"""uint8 pixels -> what the backbone sees. Inside the exported graph, and the same in training."""

import torch
from torch import Tensor

from model.config import Normalisation

# Of ImageNet, for pixels 0..255, RGB.
IMAGENET_MEAN = (123.675, 116.28, 103.53)
IMAGENET_STD = (58.395, 57.12, 57.375)


def normalise(
    images: Tensor, valid: Tensor | None, mode: Normalisation, mean: Tensor | None, std: Tensor | None
) -> Tensor:
    """Pixels (B, 3, H, W), any dtype, 0..255 -> float (B, 3, H, W), 0 outside the content.

    Args:
        images: RGB.
        valid: (B, 1, H, W) bool, pixels of the content; None: all.
        mode: "imagenet": by the mean and deviation of ImageNet; "image": by those of the image, then asinh, for images
            whose brightness differs by orders of magnitude.
        mean, std: (B,) of all samples of the whole image, for "image".

    Raises:
        ValueError: "image" without mean and std.
    """
    pixels = images.float()
    if mode == "imagenet":
        shape = (1, 3, 1, 1)
        centre = torch.tensor(IMAGENET_MEAN, device=pixels.device).reshape(shape)
        scale = torch.tensor(IMAGENET_STD, device=pixels.device).reshape(shape)
        pixels = (pixels - centre) / scale
    else:
        if mean is None or std is None:
            raise ValueError("normalisation by the image's own statistics needs its mean and std")
        # + 1: an image of one gray value stays finite.
        pixels = ((pixels - mean[:, None, None, None]) / (std[:, None, None, None] + 1)).asinh()
    return pixels if valid is None else torch.where(valid, pixels, 0.0)
