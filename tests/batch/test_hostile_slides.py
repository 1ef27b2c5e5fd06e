"""Slides whose tags lie: refused before they cost memory or hours."""

import struct

import pytest
import tifffile

from batch.items import Item
from batch.slide_file import open_slide
from service.errors import ServiceError

SIDE = 64
PIXELS = bytes([7]) * (3 * SIDE * SIDE)
FORMATS = {3: "H", 4: "I", 5: "I"}  # TIFF's short, long and fraction


def write_tiff(path, **changed) -> None:
    """Two tiles of 64 x 64, side by side; `changed`: tags as (type, values), by name, None for none."""
    tags = {
        "ImageWidth": (4, [2 * SIDE]),
        "ImageLength": (4, [SIDE]),
        "BitsPerSample": (3, [8, 8, 8]),
        "Compression": (3, [1]),
        "PhotometricInterpretation": (3, [2]),
        "SamplesPerPixel": (3, [3]),
        "TileWidth": (4, [SIDE]),
        "TileLength": (4, [SIDE]),
        "TileOffsets": (4, [0, 0]),
        "TileByteCounts": (4, [len(PIXELS)] * 2),
    } | changed
    entries = sorted((tifffile.TIFF.TAGS[name], *tags[name]) for name in tags if tags[name])
    values = [struct.pack(f"<{len(numbers)}{FORMATS[kind]}", *numbers) for _, kind, numbers in entries]
    place = 8 + 2 + 12 * len(entries) + 4
    start = place + sum(len(raw) for raw in values if len(raw) > 4)
    head = struct.pack("<2sHIH", b"II", 42, 8, len(entries))
    tail = b""
    for (code, kind, numbers), raw in zip(entries, values, strict=True):
        if code == tifffile.TIFF.TAGS["TileOffsets"]:
            raw = struct.pack(f"<{len(numbers)}I", *[start] * len(numbers))
        head += struct.pack("<HHI", code, kind, len(numbers) // (2 if kind == 5 else 1))
        head += raw.ljust(4, b"\0") if len(raw) <= 4 else struct.pack("<I", place + len(tail))
        tail += raw if len(raw) > 4 else b""
    path.write_bytes(head + bytes(4) + tail + PIXELS)


@pytest.fixture
def open_tiff(tmp_path):
    """Writes and opens such a slide; gives its first pixel and its resolution."""

    def call(cut: int = 0, **changed):
        path = tmp_path / "a.tif"
        write_tiff(path, **changed)
        path.write_bytes(path.read_bytes()[: -cut or None])
        with open_slide(Item(id=1, name="a.tif", url=str(path)), max_pixels=0, max_side=1) as slide:
            return slide.read_rows(0, SIDE)[0, 0].tolist(), slide.resolution

    return call


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"TileByteCounts": (4, [len(PIXELS), 2**32 - 1])}, "a tile or strip of 4,294,967,295 bytes"),
        ({"JPEGTables": (4, [0] * 20_000)}, "tag 347 has 80,000 bytes"),
        ({"TileWidth": (4, [0])}, "tiles or strips of .* pixels"),
        ({"TileLength": (4, [0])}, "tiles or strips of .* pixels"),
        ({"TileOffsets": (4, [0]), "TileByteCounts": (4, [1])}, "has 1 tiles or strips, not 2"),
        ({"ImageLength": (4, [2**32 - 1])}, "128 x 4294967295 pixels; the limit is 274,877,906,944"),
        ({"ImageWidth": (4, [2**20])}, "1048576 x 64 pixels; .* 524,288 in width"),
        ({"TileLength": (4, [2**19])}, "64 x 524288 pixels, a slide's may have"),
        ({"cut": 1000}, "row 0, column 0: the file ends before it does"),
    ],
)
def test_tags_that_claim_too_much_or_nothing_are_refused(changed, words, open_tiff):
    with pytest.raises(ServiceError, match=words):
        open_tiff(**changed)


@pytest.mark.parametrize(
    ("horizontal", "unit", "expected"),
    [
        ((5, [40_000, 1]), (3, [3]), ((40_000, 1), (1, 2), 3)),
        ((5, [0, 0]), (3, [2]), None),
        ((5, [1, 0]), (3, [2]), None),
        ((5, [1, 1, 2, 1]), (3, [2]), None),
        ((3, [72]), (3, [2]), None),
        ((5, [1, 1]), (3, [9]), None),
        ((5, [1, 1]), None, None),
    ],
)
def test_a_resolution_that_cannot_be_written_again_is_none(horizontal, unit, expected, open_tiff):
    tags = {"XResolution": horizontal, "YResolution": (5, [1, 2]), "ResolutionUnit": unit}
    assert open_tiff(**tags) == ([7, 7, 7], expected)
