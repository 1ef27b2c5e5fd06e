"""Pictures for people: masks drawn over an image, and sheets of many such pictures with a caption each."""

from collections.abc import Sequence
from typing import Protocol

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from model.config import Category
from service.overlay import distinct_colour, paint
from service.pixels import png

Picture = NDArray[np.uint8]  # (H, W, 3) RGB

_GAP = 6  # pixels around each tile
_FONT_SIZE = 13
_CAPTION_HEIGHT = 18
_PAPER, _INK = (255, 255, 255), (30, 30, 30)


class DrawnSegment(Protocol):
    """What is asked of a segment; those of annotations and of predictions have it."""

    @property
    def id(self) -> int:
        """Its value in the layers, from 1."""

    @property
    def class_index(self) -> int:
        """Its class, 0..K-1."""


def draw_segments(
    image: Picture,
    layers: NDArray[np.integer],
    segments: Sequence[DrawnSegment],
    categories: Sequence[Category],
    *,
    by_category: bool = False,
    longest_side: int | None = None,
) -> Picture:
    """Image (H, W, 3) with each segment tinted, and things outlined; void stays as it is.

    Things have a colour each, so that objects of one class can be told apart; stuff has its category's.

    Args:
        image: RGB.
        layers: (L, H, W), segment ids, 0 for none; a later layer is drawn over those before it.
        segments: those in the layers.
        categories: by class index.
        by_category: things have their category's colour, too, as the regions of semantic labels should.
        longest_side: the picture is scaled to it, before it is drawn so that outlines stay visible; None: no scaling.
    """
    if longest_side is not None:
        image, layers = _scale(image, layers, longest_side / max(image.shape[:2]))
    largest = max((segment.id for segment in segments), default=0)
    colours = np.zeros((largest + 1, 3), np.uint8)
    is_thing = np.zeros(largest + 1, np.bool_)
    for segment in segments:
        category = categories[segment.class_index]
        own_colour = category.is_thing and not by_category
        colours[segment.id] = distinct_colour(segment.id) if own_colour else category.colour
        is_thing[segment.id] = category.is_thing
    for layer in layers:
        image = paint(image, layer.astype(np.int32), colours, is_thing)
    return image


def contact_sheet(
    tiles: Sequence[Picture], captions: Sequence[str], *, columns: int, tile_size: tuple[int, int]
) -> bytes:
    """PNG file of pictures in rows of `columns`, each fitted into `tile_size` (height, width) with a caption below it.

    A caption that is wider than its tile loses its middle.
    """
    height, width = tile_size
    rows = max(1, -(-len(tiles) // columns))
    step_y, step_x = height + _CAPTION_HEIGHT + _GAP, width + _GAP
    sheet = Image.new("RGB", (_GAP + columns * step_x, _GAP + rows * step_y), _PAPER)
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(_FONT_SIZE)
    for number, (tile, caption) in enumerate(zip(tiles, captions, strict=True)):
        left, top = _GAP + number % columns * step_x, _GAP + number // columns * step_y
        fitted = Image.fromarray(_fit(tile, tile_size))
        sheet.paste(fitted, (left + (width - fitted.width) // 2, top + (height - fitted.height) // 2))
        draw.text((left, top + height + 1), _shorten(caption, font, width), fill=_INK, font=font)
    return png(np.asarray(sheet))


def _fit(picture: Picture, size: tuple[int, int]) -> Picture:
    """The largest that fits into `size` (height, width) with the same proportions."""
    scale = min(size[0] / picture.shape[0], size[1] / picture.shape[1])
    return _scale(picture, np.zeros((0, 1, 1), np.int32), scale)[0]


def _scale(image: Picture, layers: NDArray[np.integer], scale: float) -> tuple[Picture, NDArray[np.integer]]:
    height, width = (max(1, round(side * scale)) for side in image.shape[:2])
    if (height, width) == image.shape[:2]:
        return image, layers
    interpolation = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    scaled = np.asarray(cv2.resize(image, (width, height), interpolation=interpolation), np.uint8)
    # The middle of each new pixel, as the image's own scaling has it.
    y = ((np.arange(height) + 0.5) * image.shape[0] / height).astype(np.int64)
    x = ((np.arange(width) + 0.5) * image.shape[1] / width).astype(np.int64)
    return scaled, layers[:, y[:, None], x] if len(layers) else layers


def _shorten(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> str:
    shown, kept = text, len(text)
    while kept > 2 and font.getlength(shown) > width:
        kept -= 1
        shown = f"{text[: kept // 2]}…{text[len(text) - (kept - kept // 2) :]}"
    return shown
