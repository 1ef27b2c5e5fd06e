"""Hostile files: real ones of every kind that the server takes, damaged at random, from a seed."""

import io
import random
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

EXAMPLES = Path(__file__).parents[2] / "examples"
_INTERESTING = (0, 1, 0x7F, 0x80, 0xFF, 0xFFFF, 0x7FFF, 0x8000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)


def originals() -> list[bytes]:
    """Small images in each format and mode, and parts of the examples."""
    rng = np.random.default_rng(0)
    rgb = rng.integers(0, 256, (24, 20, 3), np.uint8)
    rgb[:12] //= 16  # something to compress
    image, alpha = Image.fromarray(rgb), Image.fromarray(np.dstack([rgb, rgb[..., 0]]))
    wide = rgb.astype(np.uint16) * 200
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "a description"
    frames = {"save_all": True, "append_images": [image.rotate(90), image]}
    files = [
        _save(image, "JPEG"),
        _save(image, "JPEG", progressive=True, exif=exif),
        _save(image.convert("L"), "JPEG", restart_marker_blocks=1),
        _save(image.convert("CMYK"), "JPEG"),
        *(_save(image.convert(mode), "PNG") for mode in ("1", "L", "P", "RGB", "LA", "RGBA")),
        _save(image, "PNG", exif=exif, transparency=(1, 2, 3)),
        _save(image, "PNG", **frames),
        *(_save(image.convert(mode), "BMP") for mode in ("1", "L", "P", "RGB")),
        _save(image, "WEBP"),
        _save(alpha, "WEBP", lossless=True, exif=exif),
        _save(image, "WEBP", **frames),
        *(_save(image, "TIFF", compression=kind) for kind in ("raw", "tiff_lzw", "tiff_adobe_deflate", "jpeg", "zstd")),
        _save(image.convert("1"), "TIFF", compression="group4"),
        _save(image.convert("CMYK"), "TIFF", exif=exif),
        _save(image, "TIFF", **frames),
        _save(image, "TIFF", big_tiff=True),
        _save(Image.fromarray(rgb[..., 0].astype(np.int32)), "TIFF"),
        _save(Image.fromarray((rgb[..., 0] / 255).astype(np.float32)), "TIFF"),
        *(_save_cv(array, suffix) for suffix in (".png", ".tiff") for array in (wide[..., 0], wide)),
        _save_cv(np.dstack([wide, wide[..., 0]]), ".png"),
    ]
    for path in sorted(EXAMPLES.glob("*.png")):
        with Image.open(path) as example:
            part = example.convert("RGB").crop((0, 0, 48, 48))
        files += [_save(part, "PNG"), _save(part, "JPEG")]
    return files


def _save(image: Image.Image, format: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def _save_cv(array: np.ndarray, suffix: str) -> bytes:
    _, data = cv2.imencode(suffix, array)
    return data.tobytes()


def mutants(count: int, seed: int = 0) -> Iterator[bytes]:
    """`count` damaged files; the same for the same seed."""
    rng, files = random.Random(seed), originals()
    for index in range(count):
        data = bytearray(files[index % len(files)])
        for _ in range(rng.choice((1, 1, 1, 2, 4, 16))):
            data = rng.choice(_MUTATIONS)(rng, data, files)
        if data.startswith(b"\x89PNG") and rng.random() < 0.7:
            data = _mend_png(data)
        yield bytes(data)


def _flip_bits(rng: random.Random, data: bytearray, _: list[bytes]) -> bytearray:
    for _ in range(rng.randint(1, 8)):
        if data:
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    return data


def _edit_header(rng: random.Random, data: bytearray, _: list[bytes]) -> bytearray:
    """A number near the beginning, where sizes, depths and offsets are."""
    return _write_number(rng, data, rng.randrange(max(1, min(len(data), 200))))


def _edit_number(rng: random.Random, data: bytearray, _: list[bytes]) -> bytearray:
    return _write_number(rng, data, rng.randrange(max(1, len(data))))


def _write_number(rng: random.Random, data: bytearray, position: int) -> bytearray:
    size, order = rng.choice((1, 2, 4)), rng.choice(("little", "big"))
    value = rng.choice((*_INTERESTING, rng.randrange(2**32), rng.randrange(300))) % 256**size
    data[position : position + size] = value.to_bytes(size, order)
    return data


def _truncate(rng: random.Random, data: bytearray, _: list[bytes]) -> bytearray:
    return data[: rng.randrange(len(data) + 1)]


def _splice(rng: random.Random, data: bytearray, files: list[bytes]) -> bytearray:
    """The beginning of one file and the end of another."""
    other = rng.choice(files)
    return data[: rng.randrange(len(data) + 1)] + other[rng.randrange(len(other)) :]


def _repeat(rng: random.Random, data: bytearray, _: list[bytes]) -> bytearray:
    begin = rng.randrange(len(data) + 1)
    end = min(len(data), begin + rng.randint(1, 64))
    return data[:end] + data[begin:end] * rng.choice((1, 3, 100)) + data[end:]


def _remove(rng: random.Random, data: bytearray, _: list[bytes]) -> bytearray:
    begin = rng.randrange(len(data) + 1)
    return data[:begin] + data[begin + rng.randint(1, 64) :]


def _edit_chunk_length(rng: random.Random, data: bytearray, _: list[bytes]) -> bytearray:
    """The length of a PNG chunk, a JPEG segment or a RIFF chunk."""
    places = [data.find(name) for name in (b"IHDR", b"IDAT", b"eXIf", b"acTL", b"fdAT", b"PLTE", b"IEND")]
    places = [place - 4 for place in places if place > 3]
    places += [data.find(name) + 4 for name in (b"RIFF", b"VP8", b"ANMF", b"EXIF", b"ALPH") if name in data]
    places += [data.find(bytes((0xFF, code))) + 2 for code in (0xC0, 0xC2, 0xC4, 0xDA, 0xDB, 0xE1) if code in data]
    return _write_number(rng, data, rng.choice(places)) if places else data


def _mend_png(data: bytearray) -> bytearray:
    """Right checksums, so that damage gets further than to the first of them."""
    position = 8
    while position + 12 <= len(data):
        (length,) = struct.unpack_from(">I", data, position)
        end = position + 8 + length
        if end + 4 > len(data):
            break
        struct.pack_into(">I", data, end, zlib.crc32(data[position + 4 : end]))
        position = end + 4
    return data


_MUTATIONS = (
    _flip_bits, _edit_header, _edit_header, _edit_number, _truncate, _splice, _repeat, _remove, _edit_chunk_length
)  # fmt: skip
