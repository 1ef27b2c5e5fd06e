"""What OpenCV does for the service, in numpy and Pillow: bundles take this file in place of `service/pixels.py`.

The sizes of images are changed by OpenCV's own arithmetic, so that a bundle answers to the bit what a server on x86-64
answers. (OpenCV has other code for some processors, whose roundings differ.)
"""

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from service.errors import UnsupportedImageError

_COEFFICIENT = np.float32(2048)  # 8-bit images are mixed in fixed point, of 11 bits
_LEAST_COVERED = 1e-3  # of a pixel that is covered less, area means take no notice


def resize_image(image: NDArray[np.uint8], size: tuple[int, int], *, by_area: bool) -> NDArray[np.uint8]:
    """Image (H, W, 3) at another size (h, w): bilinear, or `by_area`, for shrinking, means of what a pixel covers."""
    return _mean_areas(image, size) if by_area else _interpolate(image, size)


def resize_map(values: NDArray[np.float32], size: tuple[int, int]) -> NDArray[np.float32]:
    """Map (H, W) at another size, bilinear, without regard to corners: as torch does with align_corners=False."""
    height, width = size
    wide = _mix_columns(values, width)
    return np.ascontiguousarray(_mix_columns(wide.T, height).T)


def mean_and_std(image: NDArray[np.uint8]) -> tuple[float, float]:
    """Mean and population standard deviation over all samples (H, W, 3) together; sums are exact."""
    counts = np.bincount(image.ravel(), minlength=256)
    values = np.arange(256)
    mean = int(counts @ values) / image.size
    square = int(counts @ values**2) / image.size
    return mean, max(0.0, square - mean * mean) ** 0.5


def blend(image: NDArray[np.uint8], tint: NDArray[np.uint8], weight: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Image (H, W, 3) with `weight` (H, W) of `tint` (H, W, 3) in each pixel."""
    part = weight[..., None]
    return np.rint(image * (1 - part) + tint * part).astype(np.uint8)


def decode_jpeg(data: bytes) -> NDArray[np.uint8] | None:
    """None: Pillow decodes them, to the same bits."""
    return None


def decode_16_bits(data: bytes) -> NDArray[np.uint16] | None:
    """Raises UnsupportedImageError: Pillow keeps 8 bits of colour."""
    raise UnsupportedImageError(
        "colour of 16 bits a sample is more than this runner reads; save the image with 8 bits, or as gray"
    )


def png(image: NDArray[np.uint8]) -> bytes:
    """PNG file of an RGB image (H, W, 3)."""
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG", compress_level=1)
    return file.getvalue()


def _interpolate(image: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    (height, width), (new_height, new_width) = image.shape[:2], size
    column, part = _places(width, new_width, np.float32)
    part[(column < 0) | (column >= width - 1)] = 0
    column = column.clip(0, width - 1)
    left, right = _fixed(1 - part)[:, None], _fixed(part)[:, None]
    rows = image[:, column] * left + image[:, np.minimum(column + 1, width - 1)] * right
    rows >>= 4  # leaves 16 bits of each product below
    row, part = _places(height, new_height, np.float32)
    above, below = rows[row.clip(0, height - 1)], rows[(row + 1).clip(0, height - 1)]
    above *= _fixed(1 - part)[:, None, None]
    below *= _fixed(part)[:, None, None]
    return np.asarray(((above >> 16) + (below >> 16) + 2) >> 2, np.uint8)


def _mix_columns(values: NDArray[np.float32], new_width: int) -> NDArray[np.float32]:
    """Map (H, W) of another width; the sums are made in fp64, as a fused multiply and add rounds once."""
    width = values.shape[1]
    if new_width == width:
        return values
    column, part = _places(width, new_width, np.float64)
    part[(column < 0) | (column >= width - 1)] = 0
    column = column.clip(0, width - 1)
    left = values[:, column]
    step = values[:, np.minimum(column + 1, width - 1)] - left
    return (left + step.astype(np.float64) * part).astype(np.float32)


def _places(
    length: int, new_length: int, dtype: type[np.float32] | type[np.float64]
) -> tuple[NDArray[np.intp], NDArray[np.float32]]:
    """For each new pixel: the old one at or before its centre (-1 before the first), and how far it lies beyond it."""
    centre = ((np.arange(new_length) + 0.5) * (1 / (new_length / length)) - 0.5).astype(dtype)
    first = np.floor(centre)
    return first.astype(np.intp), (centre - first).astype(np.float32)


def _fixed(part: NDArray[np.float32]) -> NDArray[np.int32]:
    return np.asarray(np.rint(part * _COEFFICIENT), np.int32)


def _mean_areas(image: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    (height, width), (new_height, new_width) = image.shape[:2], size
    if height % new_height == 0 and width % new_width == 0:
        return _mean_blocks(image, height // new_height, width // new_width)
    rows = np.zeros((height, new_width, 3), np.float32)
    for column, weight in _covered(width, new_width):
        rows += image[:, column] * weight[:, None]
    result = np.zeros((new_height, new_width, 3), np.float32)
    for row, weight in _covered(height, new_height):
        result += rows[row] * weight[:, None, None]
    return np.rint(result).astype(np.uint8)


def _mean_blocks(image: NDArray[np.uint8], rows: int, columns: int) -> NDArray[np.uint8]:
    height, width = image.shape[:2]
    total = image.reshape(height // rows, rows, width // columns, columns, 3).sum((1, 3), dtype=np.int32)
    if rows == columns == 2:
        return np.asarray((total + 2) >> 2, np.uint8)
    return np.asarray(np.rint(total * np.float32(1 / (rows * columns))), np.uint8)


def _covered(length: int, new_length: int) -> list[tuple[NDArray[np.intp], NDArray[np.float32]]]:
    """Old pixels that each new one covers, first to last, one of each at a time, with their weights."""
    scale = 1 / (new_length / length)
    begin = np.arange(new_length) * scale
    end = begin + scale
    share = np.minimum(scale, length - begin)
    last = np.minimum(np.floor(end).astype(np.intp), length - 1)
    first = np.minimum(np.ceil(begin).astype(np.intp), last)
    before, after = first - begin, end - last
    pixels = [(np.maximum(first - 1, 0), np.where(before > _LEAST_COVERED, before / share, 0))]
    pixels += [
        (np.minimum(first + step, length - 1), np.where(first + step < last, 1 / share, 0))
        for step in range(int((last - first).max()))
    ]
    pixels.append((last, np.where(after > _LEAST_COVERED, np.minimum(np.minimum(after, 1), share) / share, 0)))
    return [(index, weight.astype(np.float32)) for index, weight in pixels]
