"""What OpenCV and libjpeg-turbo do for the service: scaling, sums, blending and files. Nothing else imports them."""

import cv2
import numpy as np
import simplejpeg  # type: ignore[import-untyped]
from numpy.typing import NDArray


def resize_image(image: NDArray[np.uint8], size: tuple[int, int], *, by_area: bool) -> NDArray[np.uint8]:
    """Image (H, W, 3) at another size (h, w): bilinear, or `by_area`, for shrinking, means of what a pixel covers."""
    height, width = size
    method = cv2.INTER_AREA if by_area else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(image, (width, height), interpolation=method), np.uint8)


def resize_map(values: NDArray[np.float32], size: tuple[int, int]) -> NDArray[np.float32]:
    """Map (H, W) at another size, bilinear, without regard to corners: as torch does with align_corners=False."""
    height, width = size
    return np.asarray(cv2.resize(values, (width, height), interpolation=cv2.INTER_LINEAR), np.float32)


def mean_and_std(image: NDArray[np.uint8]) -> tuple[float, float]:
    """Mean and population standard deviation over all samples (H, W, 3) together; sums are exact."""
    mean, std = cv2.meanStdDev(image.reshape(image.shape[0], -1))
    return float(mean[0, 0]), float(std[0, 0])


def blend(image: NDArray[np.uint8], tint: NDArray[np.uint8], weight: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Image (H, W, 3) with `weight` (H, W) of `tint` (H, W, 3) in each pixel."""
    return np.asarray(cv2.blendLinear(image, tint, 1 - weight, weight), np.uint8)


def decode_jpeg(data: bytes) -> NDArray[np.uint8] | None:
    """Pixels (H, W, 3) of a colour JPEG; None where libjpeg has anything to complain of."""
    try:
        return np.asarray(simplejpeg.decode_jpeg(data, "RGB", fastdct=False, fastupsample=False, strict=True), np.uint8)
    except ValueError:
        return None


def decode_16_bits(data: bytes) -> NDArray[np.uint16] | None:
    """Samples (H, W) or (H, W, C), colour as RGB(A), of a file of 16 bits; None for a kind that is not known.

    TIFFs are turned by their orientation, other formats are not.
    """
    decoded = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if decoded is None or decoded.dtype != np.uint16:
        return None
    if decoded.ndim == 3:
        decoded = decoded[..., [2, 1, 0, 3][: decoded.shape[2]]]
    return np.asarray(decoded, np.uint16)


def png(image: NDArray[np.uint8]) -> bytes:
    """PNG file of an RGB image (H, W, 3)."""
    _, encoded = cv2.imencode(".png", cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    return encoded.tobytes()


def gray_png(image: NDArray[np.uint8] | NDArray[np.uint16]) -> bytes:
    """PNG file of a gray image (H, W)."""
    _, encoded = cv2.imencode(".png", image)
    return encoded.tobytes()
