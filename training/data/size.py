"""Sizes of images and of what is annotated on them."""

from pathlib import Path

from PIL import ExifTags, Image

from service.image import FORMATS

_TURNED = (5, 6, 7, 8)  # EXIF orientations that swap height and width


def check_size(path: Path, found: tuple[int, ...], expected: tuple[int, int]) -> None:
    """Raise ValueError unless the image in `path` has the (height, width) that its annotation gives."""
    if found[:2] != expected:
        raise ValueError(
            f"{path} is {found[1]}x{found[0]}, its annotation says {expected[1]}x{expected[0]}: "
            "correct the annotation, or turn and resize the image"
        )


def check_label_size(path: Path, found: tuple[int, ...], expected: tuple[int, int]) -> None:
    """Raise ValueError unless the labels in `path` have the (height, width) of their image."""
    if found[:2] != expected:
        raise ValueError(
            f"{path} is {found[1]}x{found[0]}, its image {expected[1]}x{expected[0]}"
            + (" as it is shown, EXIF orientation applied" if found[:2] == expected[::-1] else "")
            + ": replace the one that is wrong"
        )


def image_size(path: Path) -> tuple[int, int]:
    """Height and width of an image as `service.image.decode` gives it, from the file's header.

    Raises ValueError, naming the file, where it is none.
    """
    try:
        with Image.open(path, formats=FORMATS) as image:
            width, height = image.size
            # Pillow turns TIFFs by itself. The method of PNG images would decode the file, for EXIF after the pixels.
            exif = Image.Image.getexif(image)
            is_turned = image.format != "TIFF" and exif.get(ExifTags.Base.Orientation) in _TURNED
    except PermissionError as error:
        raise ValueError(f"{path} may not be read: give the permission to whoever runs this") from error
    except Exception as error:  # on damaged files Pillow raises nearly anything
        raise ValueError(f"{path} is not a readable image: replace it, or remove it from the data set") from error
    return (width, height) if is_turned else (height, width)
