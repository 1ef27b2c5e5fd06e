"""Label images: the numbers or colours as they are stored, where a picture viewer would show something else."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

_LABEL_FORMATS = ("PNG", "TIFF", "BMP", "GIF")  # lossless; JPEG changes labels
_BIT_DEPTH = 24  # its offset in a PNG file; the colour type follows
_GRAY = 0  # colour type


def read_label_image(path: Path, *, palette_as_colours: bool = False) -> NDArray[np.integer]:
    """Numbers (H, W), of 8, 16 or 32 bits, or colours (H, W, 3), uint8 RGB.

    Of a palette image the numbers are the indices, unless its colours are asked for. Transparency is dropped.

    Raises:
        ValueError: names the file: no label image, several pages, colours of 16 bits, samples that are not whole.
    """
    try:
        with Image.open(path, formats=_LABEL_FORMATS) as image:
            if getattr(image, "n_frames", 1) > 1:
                raise ValueError(f"{path} has {image.n_frames} pages; legal: one, so split the file")  # type: ignore[attr-defined]
            image.load()
            is_palette = image.mode in ("P", "PA")
            labels = np.asarray(image.convert("RGB")) if palette_as_colours and is_palette else _as_stored(image, path)
    except ValueError as error:
        if str(path) in str(error):
            raise
        raise ValueError(f"{path} is damaged ({error}): write or download it again") from error
    except Exception as error:  # on damaged files Pillow raises nearly anything
        raise ValueError(f"{path} is not a readable PNG, TIFF, BMP or GIF ({error}): replace the file") from error
    if labels.dtype.kind == "f":
        if not (labels == np.floor(labels)).all():
            raise ValueError(f"{path} holds fractions; legal: whole numbers, so save it as 8 or 16 bit integers")
        return labels.astype(np.int64)
    return labels


def unique_codes(labels: NDArray[np.integer]) -> tuple[list[int], NDArray[np.intp]]:
    """The different numbers in `labels` (H, W), ascending, and the place of each pixel's among them (H * W)."""
    flat = labels.ravel()
    starts = np.concatenate(
        [[0], np.flatnonzero(flat[1:] != flat[:-1]) + 1]
    )  # of runs, which are far fewer than pixels
    codes, number_of_run = np.unique(flat[starts], return_inverse=True)
    return codes.tolist(), np.repeat(number_of_run, np.diff(starts, append=flat.size))


def _as_stored(image: Image.Image, path: Path) -> NDArray[np.integer]:
    if image.mode == "1":
        return np.asarray(image, np.uint8)
    if image.mode == "L":
        return np.asarray(image) // _expansion(image, path)
    if image.mode in ("P", "I", "F") or image.mode.startswith("I;"):
        return np.asarray(image)
    if image.mode in ("PA", "LA"):
        return np.asarray(image)[..., 0]
    if image.format == "PNG" and _bits_and_colour_type(path)[0] == 16:
        raise ValueError(f"{path} has 16 bits a colour; legal: 8, or numbers (gray) of 8 or 16 bits")
    return np.asarray(image.convert("RGB"))


def _expansion(image: Image.Image, path: Path) -> int:
    """By what Pillow multiplies the samples of a gray PNG of 2 or 4 bits, so that they look right."""
    if image.format != "PNG":
        return 1
    bits, colour_type = _bits_and_colour_type(path)
    return 255 // ((1 << bits) - 1) if colour_type == _GRAY and bits < 8 else 1


def _bits_and_colour_type(path: Path) -> tuple[int, int]:
    """Of a PNG file, whose samples Pillow may have changed to 8 bits."""
    with path.open("rb") as file:
        bits, colour_type = file.read(_BIT_DEPTH + 2)[_BIT_DEPTH:]
    return bits, colour_type
