"""What a served graph is given -> what the network takes."""

from torch import Tensor

from model.config import KNetConfig
from model.knet import valid_cells
from model.normalise import normalise


def network_inputs(
    config: KNetConfig, image: Tensor, valid_size: Tensor, pixel_mean: Tensor | None, pixel_std: Tensor | None
) -> tuple[Tensor, Tensor | None]:
    """Normalised pixels (B, 3, H, W), 0 outside the content, and the valid cells (B, 1, h, w) of the feature map.

    Args:
        image: (B, H, W, 3) uint8 RGB, content at the top left, H and W multiples of `config.size_multiple`.
        valid_size: (B, 2) int32, height and width of the content.
        pixel_mean, pixel_std: (B,) float32, for networks that normalise by the image's own statistics.

    Returns:
        None for the valid cells where masks may reach into the padding.
    """
    _, height, width, _ = image.shape
    content = valid_cells(valid_size, height, width, 1)
    pixels = normalise(image.permute(0, 3, 1, 2), content, config.normalisation, pixel_mean, pixel_std)
    stride = config.feature_stride
    valid = None if config.padding_in_masks else valid_cells(valid_size, height // stride, width // stride, stride)
    return pixels, valid
