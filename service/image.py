"""Bytes of an image file to RGB pixels, with limits checked before any pixel is decoded.

One policy for training and serving: EXIF orientation applied; transparent pixels over black; gray, palette
and CMYK converted; samples of more than 8 bits scaled by the smallest of 10, 12, 14 and 16 bits that holds
the image's maximum (12-bit microscopy in a 16-bit file divided by 256 would be nearly black). 32-bit integers
are taken when they lie in 0..65535, floats when they lie in 0..1.
"""

import io
import warnings
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, PngImagePlugin, UnidentifiedImageError

from service.errors import RequestError, UndecodableImageError, UnsupportedImageError
from service.file_checks import check_file, check_size
from service.pixels import decode_16_bits, decode_jpeg

FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "BMP")
_MAGIC = (b"\xff\xd8\xff", b"\x89PNG", b"II*\0", b"MM\0*", b"II+\0", b"MM\0+", b"BM")  # and WebP's RIFF
_SAMPLE_DEPTHS = (10, 12, 14, 16)
_BITS_PER_SAMPLE = 258  # TIFF tag

# Pillow's own guard only warns at 89 megapixels; `decode` has a limit of its own, checked on the header.
Image.MAX_IMAGE_PIXELS = None
# Python remembers each warning that it has shown, and those of damaged files name what is in the file.
warnings.filterwarnings("ignore", module=r"PIL\.")
PngImagePlugin.MAX_TEXT_MEMORY = 4 * 1024 * 1024  # of all text chunks once decompressed; Pillow takes 64 MB


def decode(data: bytes, *, max_pixels: int = 100_000_000, max_side: int = 32_768) -> NDArray[np.uint8]:
    """Decode JPEG, PNG, WebP, TIFF (first page) or BMP to RGB (H, W, 3), C-contiguous and writable.

    Raises UnsupportedImageError for other formats, ImageTooLargeError above `max_pixels` or `max_side`, and
    UndecodableImageError for damaged files and for those made to cost much.
    """
    return EncodedImage(data, max_pixels=max_pixels, max_side=max_side).decode()


class EncodedImage:
    """An image file whose header has been read and kept to the limits; raises what the function `decode` does.

    `size` is (width, height) before its orientation.
    """

    def __init__(self, data: bytes, *, max_pixels: int, max_side: int) -> None:
        self._data = data
        try:
            check_file(data, max_pixels=max_pixels, max_side=max_side)
            self._image = Image.open(io.BytesIO(data), formats=FORMATS)
            self.size = self._image.size
            check_size(*self.size, max_pixels=max_pixels, max_side=max_side)
        except RequestError:
            raise
        except Exception as error:  # on damaged files Pillow raises nearly anything, struct.error and KeyError included
            raise _explain(data, error) from error

    def decode(self) -> NDArray[np.uint8]:
        """Its pixels, RGB (H, W, 3); once."""
        try:
            with self._image as image:
                pixels = _decode_jpeg(image, self._data)
                if pixels is None:
                    image.load()
                    pixels = _to_rgb(image, self._data)
        except RequestError:
            raise
        except Exception as error:
            raise _explain(self._data, error) from error
        return np.require(pixels, requirements=["C_CONTIGUOUS", "WRITEABLE"])


def _explain(data: bytes, error: Exception) -> RequestError:
    if not data:
        return UndecodableImageError("the image has no bytes")
    if not data.startswith(_MAGIC) and not (data.startswith(b"RIFF") and data[8:12] == b"WEBP"):
        return UnsupportedImageError(f"the bytes are no image of a format taken: {', '.join(FORMATS)}")
    words = "the image is truncated, damaged or of a kind not supported"
    if isinstance(error, UnidentifiedImageError):  # which names an address in memory
        return UndecodableImageError(words)
    return UndecodableImageError(f"{words}: {error}")


def _decode_jpeg(image: Image.Image, data: bytes) -> NDArray[np.uint8] | None:
    """Pixels of a colour JPEG, bit for bit Pillow's, in less time.

    None for other kinds, and wherever libjpeg has anything to complain of: Pillow tells that better.
    """
    if image.format != "JPEG" or image.mode != "RGB":
        return None
    pixels = decode_jpeg(data)
    return _upright(pixels, image) if pixels is not None and pixels.shape == (image.height, image.width, 3) else None


def _to_rgb(image: Image.Image, data: bytes) -> NDArray[np.uint8]:
    if image.mode in ("I", "F") or image.mode.startswith("I;"):
        return _upright(_wide_gray_to_rgb(np.asarray(image)), image)
    if _is_16_bit_colour(image, data):
        return _wide_colour_to_rgb(image, data)
    if image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info:
        coloured = image.convert("RGBA")
        black = Image.new("RGBA", coloured.size, (0, 0, 0, 255))
        return _upright(np.asarray(Image.alpha_composite(black, coloured))[..., :3], image)
    return _upright(np.asarray(image if image.mode == "RGB" else image.convert("RGB")), image)


def _is_16_bit_colour(image: Image.Image, data: bytes) -> bool:
    """Pillow drops the low byte of 16-bit RGB(A) and gray with alpha: ask the file's header."""
    if image.format == "PNG":
        return bool(data[24] == 16)  # IHDR's bit depth
    if image.format == "TIFF":
        tags: Any = getattr(image, "tag_v2", {})
        return bool(max(tags.get(_BITS_PER_SAMPLE, (8,))) == 16)
    return False


def _wide_gray_to_rgb(samples: NDArray[Any]) -> NDArray[np.uint8]:
    """Samples (H, W) of 16 or 32 bits to RGB."""
    if samples.dtype.kind == "f":
        if not (np.isfinite(samples).all() and samples.min() >= 0 and samples.max() <= 1):
            raise UndecodableImageError(
                "floating-point samples must lie in 0..1; rescale the image, or save it as 16 bits"
            )
        gray = np.rint(samples * 255).astype(np.uint8)
    else:
        if samples.min() < 0 or samples.max() > 65535:
            raise UndecodableImageError("integer samples must lie in 0..65535; rescale the image")
        gray = _scale_depth(samples)
    return np.repeat(gray[..., None], 3, axis=2)


def _wide_colour_to_rgb(image: Image.Image, data: bytes) -> NDArray[np.uint8]:
    """16-bit colour, which Pillow does not keep; it has decoded the same bytes before, so they are whole."""
    decoded = decode_16_bits(data)
    if decoded is None or decoded.shape[:2] != (image.height, image.width):
        raise UndecodableImageError("16-bit colour of this kind is not supported; save it as PNG")
    if decoded.ndim == 2:
        colour = np.repeat(decoded[..., None], 3, axis=2)
    else:
        colour = decoded[..., :3]
        if decoded.shape[2] == 4:
            alpha = decoded[..., 3:].astype(np.uint32)
            colour = ((colour * alpha + 32767) // 65535).astype(np.uint16)
    rgb = _scale_depth(colour)
    # TIFFs have been turned, and Pillow has forgotten the tag of those that it has turned.
    return rgb if image.format == "TIFF" else _upright(rgb, image)


def _scale_depth(samples: NDArray[Any]) -> NDArray[np.uint8]:
    """Samples in 0..65535 to 0..255 by the smallest depth that holds their maximum."""
    maximum = int(samples.max())
    depth = next(bits for bits in _SAMPLE_DEPTHS if maximum < 1 << bits)
    top = (1 << depth) - 1
    table = ((np.arange(top + 1) * 255 + top // 2) // top).astype(np.uint8)
    return np.asarray(table[samples])


def _upright(pixels: NDArray[np.uint8], image: Image.Image) -> NDArray[np.uint8]:
    """Apply the EXIF orientation 1..8; an unreadable EXIF block counts as none."""
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # a damaged EXIF block is no reason to refuse good pixels
        orientation = 1
    if orientation in (5, 6, 7, 8):
        pixels = pixels.transpose(1, 0, 2)
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return pixels
