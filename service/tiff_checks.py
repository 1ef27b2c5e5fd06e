"""The first directory of a TIFF: how much its tags claim."""

import struct

from service.errors import ImageTooLargeError, UndecodableImageError

MAX_TAGS = 4096
MAX_NUMBERS = 1_000_000  # values of all tags together; offsets of strips and tiles are the most numerous
_TILE_WIDTH, _TILE_LENGTH = 322, 323
_BYTES_TYPES = (1, 2, 6, 7)  # kept as they are
_SHORT = 3


def check_tiff(data: bytes, *, max_pixels: int) -> None:
    """Raise UndecodableImageError or ImageTooLargeError for a directory that would cost much to read or to obey.

    A tag that comes twice is refused: libraries differ in which one they believe.
    """
    seen: set[int] = set()
    numbers = 0
    tile = {_TILE_WIDTH: 1, _TILE_LENGTH: 1}
    for tag, kind, count, value in _entries(data):
        if tag in seen:
            raise UndecodableImageError(f"the TIFF has tag {tag} twice")
        seen.add(tag)
        numbers += 0 if kind in _BYTES_TYPES else count
        if numbers > MAX_NUMBERS:
            raise UndecodableImageError(f"the TIFF's tags have more than {MAX_NUMBERS:,} values")
        if tag in tile:
            tile[tag] = value
    if tile[_TILE_WIDTH] * tile[_TILE_LENGTH] > max_pixels:
        raise ImageTooLargeError(
            f"the TIFF has tiles of {tile[_TILE_WIDTH]} x {tile[_TILE_LENGTH]} pixels; "
            f"the limit is {max_pixels:,} in all"
        )


def _entries(data: bytes) -> list[tuple[int, int, int, int]]:
    """Tag, type, count and value or offset of each entry; none where the directory lies outside of the file."""
    order = "<" if data.startswith(b"II") else ">"
    is_big = data[2:4] in (b"+\0", b"\0+")
    entry = struct.Struct(order + ("HHQ8s" if is_big else "HHI4s"))
    try:
        (offset,) = struct.unpack_from(order + ("Q" if is_big else "I"), data, 8 if is_big else 4)
        (count,) = struct.unpack_from(order + ("Q" if is_big else "H"), data, offset)
    except (struct.error, OverflowError):
        return []
    if count > MAX_TAGS:
        raise UndecodableImageError(f"the TIFF has {count:,} tags; the limit is {MAX_TAGS:,}")
    begin = offset + (8 if is_big else 2)
    whole = min(count, max(0, len(data) - begin) // entry.size)
    entries = entry.iter_unpack(data[begin : begin + whole * entry.size])
    return [(tag, kind, number, _value(order, kind, raw)) for tag, kind, number, raw in entries]


def _value(order: str, kind: int, raw: bytes) -> int:
    """A single integer; of other kinds it means nothing."""
    code = "H" if kind == _SHORT else "I"
    return int(struct.unpack_from(order + code, raw)[0])
