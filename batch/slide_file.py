"""A slide: a TIFF file of more pixels than are held at once, of which a few rows are read at a time.

Each tile or strip is decoded as a TIFF file of its own, by what decodes all images: colours, palettes and compressions
are taken as they are in small files.
"""

import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import product
from typing import IO, Any, NamedTuple

import numpy as np
import tifffile
from numpy.typing import NDArray

from batch.items import Item, open_file_system
from service.errors import ImageTooLargeError, UndecodableImageError
from service.image import decode

SUFFIXES = (".tif", ".tiff")
MAX_CHUNK_PIXELS = 2**24  # of one tile or strip: 4096 x 4096
MAX_PIXELS, MAX_WIDTH = 2**38, 2**19  # a file may leave tiles out, so that few bytes can claim any size
_MAX_CHUNK_BYTES = 8 * MAX_CHUNK_PIXELS  # of one tile or strip in the file: twice those of four samples
_MAX_TAG_BYTES = 2**16
_WIDTH, _LENGTH, _STRIP_OFFSETS, _ORIENTATION, _ROWS_PER_STRIP, _STRIP_BYTES = 256, 257, 273, 274, 278, 279
# Bits, compression, colours, fill order, samples, predictor, palette, alpha, sample format, JPEG tables, YCbCr.
_KEPT_TAGS = (258, 259, 262, 266, 277, 284, 317, 320, 338, 339, 347, 529, 530, 531, 532)
_LONG, _OF_BIG_TIFF = 4, (13, 16, 17, 18)
_RESOLUTION_TAGS = ("XResolution", "YResolution", "ResolutionUnit")
_RESOLUTION_UNITS = (1, 2, 3)  # none, inch, centimeter


class Resolution(NamedTuple):
    """TIFF's: pixels in each unit, as numerator and denominator."""

    horizontal: tuple[int, int]
    vertical: tuple[int, int]
    unit: int


class SlideFile:
    """The first page of a TIFF file, which stays open; `size` is (height, width). Any thread may read.

    `resolution`: None where the file says none, or nonsense.

    Raises:
        UndecodableImageError: pages of this kind cannot be read in parts.
        ImageTooLargeError: the slide, or its tiles or strips themselves, are too large.
    """

    def __init__(self, file: IO[bytes], page: tifffile.TiffPage) -> None:
        self._file = file
        self._lock = threading.Lock()
        self.size = int(page.imagelength), int(page.imagewidth)
        _check(page)
        tags = page.tags
        self._order = page.parent.byteorder
        self._offsets, self._lengths = page.dataoffsets, page.databytecounts
        self._is_tiled = bool(page.is_tiled)
        if self._is_tiled:
            self._chunk = int(page.tilelength), int(page.tilewidth)
        else:
            self._chunk = min(int(page.rowsperstrip), self.size[0]), self.size[1]
        if min(self._chunk) < 1:
            raise UndecodableImageError(f"the TIFF has tiles or strips of {self._chunk[1]} x {self._chunk[0]} pixels")
        self._num_across = -(-self.size[1] // self._chunk[1])
        num_chunks = -(-self.size[0] // self._chunk[0]) * self._num_across
        if not len(self._offsets) == len(self._lengths) == num_chunks:
            raise UndecodableImageError(f"the TIFF has {len(self._offsets):,} tiles or strips, not {num_chunks:,}")
        if self._chunk[0] * self._chunk[1] > MAX_CHUNK_PIXELS:
            raise ImageTooLargeError(
                f"the TIFF has tiles or strips of {self._chunk[1]} x {self._chunk[0]} pixels, a slide's may have "
                f"{MAX_CHUNK_PIXELS:,}: save it with tiles, of 512 x 512 for example"
            )
        if max(self._lengths) > _MAX_CHUNK_BYTES:
            raise UndecodableImageError(
                f"the TIFF has a tile or strip of {max(self._lengths):,} bytes; a slide's may have {_MAX_CHUNK_BYTES:,}"
            )
        self._tags = [_read_tag(file, tags[code]) for code in _KEPT_TAGS if code in tags]
        self.resolution = _read_resolution(tags)

    def read_rows(self, top: int, bottom: int) -> NDArray[np.uint8]:
        """The pixels of rows `top` to `bottom` (excluded), RGB (bottom - top, W, 3).

        Raises:
            UndecodableImageError: a tile of these rows is damaged.
            OSError: the file cannot be read.
        """
        rows = np.zeros((bottom - top, self.size[1], 3), np.uint8)
        height, width = self._chunk
        for down, across in product(range(top // height, -(-bottom // height)), range(self._num_across)):
            chunk = self._read_chunk(down, across)
            if chunk is None:
                continue
            chunk_top, left = down * height, across * width
            begin, end = max(top, chunk_top), min(bottom, chunk_top + len(chunk))
            target = rows[begin - top : end - top, left : left + width]
            target[...] = chunk[begin - chunk_top : end - chunk_top, : target.shape[1]]
        return rows

    def _read_chunk(self, down: int, across: int) -> NDArray[np.uint8] | None:
        """One tile or strip; None for one that the file leaves out."""
        number = down * self._num_across + across
        if not self._lengths[number]:
            return None
        with self._lock:
            self._file.seek(self._offsets[number])
            data = self._file.read(self._lengths[number])
        height, width = self._chunk
        place = f"the tile or strip at row {down * height}, column {across * width}"
        if len(data) < self._lengths[number]:
            raise UndecodableImageError(f"{place}: the file ends before it does")
        if not self._is_tiled:
            height = min(height, self.size[0] - down * height)
        wrapped = _wrap(self._order, self._tags, (height, width), data)
        try:
            chunk = decode(wrapped, max_pixels=MAX_CHUNK_PIXELS, max_side=MAX_CHUNK_PIXELS)
        except UndecodableImageError as error:
            raise UndecodableImageError(f"{place}: {error.detail}") from error
        if chunk.shape != (height, width, 3):
            raise UndecodableImageError(
                f"{place} has {chunk.shape[1]} x {chunk.shape[0]} pixels, not {width} x {height}"
            )
        return chunk


@contextmanager
def open_slide(item: Item, *, max_pixels: int, max_side: int) -> Iterator[SlideFile | None]:
    """The slide that an item is; None for an image within the limits, of another kind, or in a shard.

    Raises:
        UndecodableImageError, ImageTooLargeError: as `SlideFile` does.
        OSError: the file cannot be read.
    """
    if item.offset is not None or item.row_group is not None or not item.url.lower().endswith(SUFFIXES):
        yield None
        return
    file_system, path = open_file_system(item.url)
    with file_system.open(path, "rb") as file:
        page = _first_page(file)
        if page is None or (
            page.imagelength * page.imagewidth <= max_pixels and max(page.imagelength, page.imagewidth) <= max_side
        ):
            yield None
        else:
            yield SlideFile(file, page)


def _first_page(file: IO[bytes]) -> tifffile.TiffPage | None:
    """None where there is none: whatever decodes images tells better what is wrong."""
    try:
        page = tifffile.TiffFile(file).pages.first
    except OSError:
        raise
    except Exception:  # on damaged files it raises nearly anything
        return None
    return page if isinstance(page, tifffile.TiffPage) and page.imagelength and page.imagewidth else None


def _check(page: tifffile.TiffPage) -> None:
    """Raise UndecodableImageError for a page that is more than RGB or gray pixels of 8 bits, as they lie.

    And ImageTooLargeError for one beyond what is held of a slide.
    """
    height, width = page.imagelength, page.imagewidth
    if height * width > MAX_PIXELS or width > MAX_WIDTH:
        raise ImageTooLargeError(
            f"the slide has {width} x {height} pixels; the limit is {MAX_PIXELS:,} in all, and {MAX_WIDTH:,} in width"
        )
    bits, sample_format = page.bitspersample, page.sampleformat or 1
    if bits != 8 or sample_format != 1:
        raise UndecodableImageError(f"a slide needs unsigned samples of 8 bits, not {bits}: save it with 8")
    if page.planarconfig != 1:
        raise UndecodableImageError("a slide needs its colours side by side (planar configuration 1): save it so")
    orientation = page.tags[_ORIENTATION].value if _ORIENTATION in page.tags else 1
    if orientation != 1:
        raise UndecodableImageError(f"a slide needs orientation 1, not {orientation}: turn its pixels")


def _read_resolution(tags: Any) -> Resolution | None:
    """None for anything but two fractions and a unit."""
    values: list[Any] = [tags[name].value if name in tags else None for name in _RESOLUTION_TAGS]
    are_fractions = all(
        isinstance(one, tuple) and len(one) == 2 and all(isinstance(part, int) and part > 0 for part in one)
        for one in values[:2]
    )
    return Resolution(*values) if are_fractions and values[2] in _RESOLUTION_UNITS else None


def _read_tag(file: IO[bytes], tag: Any) -> tuple[int, int, int, bytes]:
    """Code, type, count and value as they are in the file."""
    file.seek(tag.valueoffset)
    if int(tag.dtype) in _OF_BIG_TIFF:
        raise UndecodableImageError(f"the TIFF's tag {tag.code} has a type that small files do not have: {tag.dtype}")
    if tag.valuebytecount > _MAX_TAG_BYTES:
        raise UndecodableImageError(
            f"the TIFF's tag {tag.code} has {tag.valuebytecount:,} bytes; a slide's may have {_MAX_TAG_BYTES:,}"
        )
    return tag.code, int(tag.dtype), tag.count, file.read(tag.valuebytecount)


def _wrap(order: str, tags: list[tuple[int, int, int, bytes]], size: tuple[int, int], data: bytes) -> bytes:
    """A TIFF file of (height, width) whose only strip is `data`."""
    height, width = size
    count = len(tags) + 5
    end = 8 + 2 + 12 * count + 4

    def number(code: int, value: int) -> tuple[int, int, int, bytes]:
        return code, _LONG, 1, struct.pack(f"{order}I", value)

    values = sum(len(raw) + len(raw) % 2 for *_, raw in tags if len(raw) > 4)
    entries = [
        *tags,
        number(_WIDTH, width),
        number(_LENGTH, height),
        number(_STRIP_OFFSETS, end + values),
        number(_ROWS_PER_STRIP, height),
        number(_STRIP_BYTES, len(data)),
    ]
    head = bytearray((b"II" if order == "<" else b"MM") + struct.pack(f"{order}HIH", 42, 8, count))
    tail = bytearray()
    for code, kind, length, raw in sorted(entries):
        head += struct.pack(f"{order}HHI", code, kind, length)
        if len(raw) > 4:
            head += struct.pack(f"{order}I", end + len(tail))
            tail += raw + b"\0" * (len(raw) % 2)
        else:
            head += raw.ljust(4, b"\0")
    return bytes(head + struct.pack(f"{order}I", 0) + tail) + data
