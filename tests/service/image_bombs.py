"""Small files made to cost much: names, and functions that make them."""

import io
import struct
import zlib
from collections.abc import Callable

import numpy as np
from PIL import Image

MEGABYTE = 1024 * 1024


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(*extra: bytes, size: tuple[int, int] = (8, 8)) -> bytes:
    """An RGB PNG with chunks between its header and its pixels."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", *size, 8, 2, 0, 0, 0))
    num_bytes = min(size[1] * (1 + 3 * size[0]), MEGABYTE)  # of the large ones only the header matters
    pixels = chunk(b"IDAT", zlib.compress(bytes(num_bytes)))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(extra) + pixels + chunk(b"IEND", b"")


def jpeg(size: int = 16, **options: object) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.full((size, size, 3), 90, np.uint8)).save(file, "JPEG", **options)
    return file.getvalue()


def jpeg_with(segments: bytes) -> bytes:
    data = jpeg()
    return data[:2] + segments + data[2:]


def jpeg_scans(count: int, size: int = 2000) -> bytes:
    """A progressive JPEG that says one of its scans `count` times."""
    data = jpeg(size, progressive=True)
    begin = data.rindex(b"\xff\xda")
    return data[:begin] + data[begin:-2] * count + data[-2:]


def tiff(tags: list[tuple[int, int, int, int]], tail: bytes = b"", *, repeat: int = 1) -> bytes:
    """An 8x8 gray TIFF with tags of (tag, type, count, value or offset) besides."""
    base = [(256, 3, 1, 8), (257, 3, 1, 8), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1), (277, 3, 1, 1)]
    given = {tag for tag, *_ in tags}
    entries = sorted([entry for entry in base if entry[0] not in given] + tags * repeat)
    directory = b"".join(struct.pack("<HHII", *entry) for entry in entries)
    return b"II*\0" + struct.pack("<IH", 8, len(entries)) + directory + bytes(4) + tail


def webp(side: int) -> bytes:
    """A lossless WebP of 8x8 whose header says another size."""
    file = io.BytesIO()
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(file, "WEBP", lossless=True)
    data = bytearray(file.getvalue())
    begin = data.index(b"VP8L") + 9
    data[begin : begin + 4] = struct.pack("<I", (side - 1) | (side - 1) << 14)
    return bytes(data)


def webp_canvas(side: int) -> bytes:
    """An animation whose canvas is much larger than its frame."""
    file = io.BytesIO()
    frames = [Image.fromarray(np.full((8, 8, 3), value, np.uint8)) for value in (0, 90)]
    frames[0].save(file, "WEBP", save_all=True, append_images=frames[1:])
    data = bytearray(file.getvalue())
    begin = data.index(b"VP8X") + 12
    data[begin : begin + 6] = (side - 1).to_bytes(3, "little") * 2
    return bytes(data)


def bmp_rle(side: int) -> bytes:
    """Run lengths of nothing: many escapes for few pixels."""
    data = b"\x01\x00" * (side * side // 2) + b"\x00\x01"
    header = struct.pack("<IiiHHIIiiII", 40, side, side, 1, 8, 1, len(data), 0, 0, 256, 0)
    offset = 14 + 40 + 1024
    return b"BM" + struct.pack("<IHHI", offset + len(data), 0, 0, offset) + header + bytes(1024) + data


def zipped_text(kind: bytes) -> bytes:
    """A text chunk of a kilobyte that becomes a megabyte."""
    packed = zlib.compress(bytes(MEGABYTE - 1), 9)
    return {
        b"zTXt": b"key\0\0" + packed,
        b"iTXt": b"key\0\1\0\0\0" + packed,
        b"iCCP": b"key\0\0" + packed,
    }[kind]


REFUSED: dict[str, Callable[[], bytes]] = {
    "png: text of 200 MB": lambda: png(*[chunk(b"zTXt", zipped_text(b"zTXt"))] * 200),
    "png: international text of 200 MB": lambda: png(*[chunk(b"iTXt", zipped_text(b"iTXt"))] * 200),
    "png: 200,000 empty chunks": lambda: png(chunk(b"juNk", b"") * 200_000),
    "png: 200,000 empty pieces of pixels": lambda: png(chunk(b"IDAT", b"") * 200_000),
    "png: 400 megapixels": lambda: png(size=(20_000, 20_000)),
    "png: one row of 10 megapixels": lambda: png(size=(10_000_000, 1)),
    "jpeg: 200,000 segments": lambda: jpeg_with(b"\xff\xe5\x00\x02" * 200_000),
    "jpeg: 400 pieces of EXIF": lambda: jpeg_with((b"\xff\xe1\xff\xffExif\0\0" + bytes(65527)) * 400),
    "jpeg: a megabyte of junk": lambda: jpeg_with(b"\xff" * 1_000_000),
    "jpeg: a megabyte of zeros": lambda: jpeg_with(bytes(1_000_000)),
    "jpeg: 10,000 scans": lambda: jpeg_scans(10_000),
    "jpeg: starts anew 200,000 times": lambda: jpeg_with(b"\xff\xd8" * 200_000),
    "tiff: 65,000 tags": lambda: tiff([(700 + n, 7, 1, 0) for n in range(60_000)]),
    "tiff: a tag of 4 billion values": lambda: tiff([(273, 4, 2**32 - 1, 8)]),
    "tiff: 5 million strips": lambda: tiff([(273, 3, 5_000_000, 200), (279, 3, 5_000_000, 200)], bytes(10_000_200)),
    "tiff: tiles of 400 megapixels": lambda: tiff(
        [(259, 3, 1, 8), (322, 4, 1, 20_000), (323, 4, 1, 20_000), (324, 4, 1, 200), (325, 4, 1, 20)], bytes(200)
    ),
    "tiff: one width for each library": lambda: tiff(
        [(256, 3, 1, 8), (256, 3, 1, 60_000), (273, 4, 1, 8), (279, 4, 1, 64)], bytes(64)
    ),
    "webp: 268 megapixels": lambda: webp(16_384),
    "webp: an animation on a canvas of 256 megapixels": lambda: webp_canvas(16_000),
    "bmp: run lengths of a megapixel": lambda: bmp_rle(1000),
}

TAKEN: dict[str, Callable[[], bytes]] = {
    "png: a colour profile of a megabyte": lambda: png(chunk(b"iCCP", zipped_text(b"iCCP"))),
    "png: some text": lambda: png(chunk(b"zTXt", zipped_text(b"zTXt"))),
    "jpeg: 20 segments of metadata": lambda: jpeg_with((b"\xff\xe5\xff\xff" + bytes(65533)) * 20),
    "jpeg: behind it another file": lambda: jpeg() + b"\xff\xda" * 1000,
    "jpeg: progressive": lambda: jpeg(64, progressive=True),
    "png: behind it a page": lambda: png() + b"<script>alert(1)</script>",
}
