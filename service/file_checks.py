"""What is looked at in an image file before a library opens it: sizes, and counts that cost time or memory.

Each rule stops a file of a few bytes, or of few pixels, that keeps Pillow busy for seconds or makes it take gigabytes.
What is merely damaged passes: the decoder tells that better.
"""

import re
import struct

from service.errors import ImageTooLargeError, UndecodableImageError
from service.tiff_checks import check_tiff

MAX_JPEG_SCANS = 100  # each goes over the whole image; encoders write ten or so
MAX_JPEG_SEGMENTS = 300  # of metadata, up to 64 kB each
_MAX_JUNK = 64 * 1024  # bytes between segments, which Pillow skips one by one
_MAX_WEBP_FRAMES = 10_000
_MARKER = re.compile(rb"\xff[^\x00\xff]")
_SCAN_MARKER = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")  # not those within a scan
_SOS, _EOI = 0xDA, 0xD9
_WITHOUT_LENGTH = frozenset({0x01, 0xC8, *range(0xD0, 0xDA), *range(0xF0, 0xFE)})
_BMP_RLE = (1, 2)


def check_size(width: int, height: int, *, max_pixels: int, max_side: int) -> None:
    """Raise ImageTooLargeError above a limit."""
    if width * height > max_pixels:
        raise ImageTooLargeError(f"the image has {width} x {height} pixels; the limit is {max_pixels:,} in all")
    if max(width, height) > max_side:
        raise ImageTooLargeError(f"the image has {width} x {height} pixels; the limit is {max_side:,} a side")


def check_file(data: bytes, *, max_pixels: int, max_side: int) -> None:
    """Raise ImageTooLargeError or UndecodableImageError for a file that no decoder should be given."""
    if data.startswith(b"\xff\xd8\xff"):
        _check_jpeg(data)
    elif data.startswith(b"\x89PNG"):
        _check_png(data)
    elif data.startswith(b"RIFF"):
        width, height = _webp_size(data)
        check_size(width, height, max_pixels=max_pixels, max_side=max_side)
        if data.count(b"ANMF") > _MAX_WEBP_FRAMES:
            raise UndecodableImageError(f"the WebP has more than {_MAX_WEBP_FRAMES:,} frames")
    elif data.startswith((b"II", b"MM")):
        check_tiff(data, max_pixels=max_pixels)
    elif data.startswith(b"BM") and data[30:34] in (struct.pack("<I", kind) for kind in _BMP_RLE) and data[14] >= 40:
        raise UndecodableImageError("a BMP with run-length compression is not taken; save it without")


def _check_jpeg(data: bytes) -> None:
    """Segments and junk before the first scan, and the number of scans."""
    position, junk = 2, 0
    for _ in range(MAX_JPEG_SEGMENTS):
        match = _MARKER.search(data, position)
        begin = match.start() if match else len(data)
        junk += begin - position
        if junk > _MAX_JUNK:
            raise UndecodableImageError("the JPEG has too many bytes that belong to nothing")
        if match is None:
            return
        position = _after(data, match)
        if match.group()[1] == _SOS:
            return _check_scans(data, position)
    raise UndecodableImageError(f"the JPEG has more than {MAX_JPEG_SEGMENTS} segments before its first scan")


def _check_scans(data: bytes, position: int) -> None:
    if data.count(b"\xff\xda", position) < MAX_JPEG_SCANS:
        return  # as nearly always; the walk below does not count what lies in metadata or behind the image
    scans = 1
    for _ in range(5 * MAX_JPEG_SCANS):  # tables come between scans
        match = _SCAN_MARKER.search(data, position)
        if match is None or match.group()[1] == _EOI:
            return
        scans += match.group()[1] == _SOS
        if scans > MAX_JPEG_SCANS:
            raise UndecodableImageError(f"the JPEG has more than {MAX_JPEG_SCANS} scans")
        position = _after(data, match)
    raise UndecodableImageError("the JPEG has too many segments between its scans")


def _after(data: bytes, match: re.Match[bytes]) -> int:
    """Where the segment of a marker ends."""
    if match.group()[1] in _WITHOUT_LENGTH:
        return match.end()
    return match.end() + int.from_bytes(data[match.end() : match.end() + 2], "big")


def _check_png(data: bytes) -> None:
    """Pillow takes some microseconds for each chunk, the empty ones, too."""
    most = 1000 + len(data) // 1024
    position = 8
    for _ in range(most):
        length, kind = int.from_bytes(data[position : position + 4], "big"), data[position + 4 : position + 8]
        position += 12 + length
        if kind == b"IEND" or position >= len(data):
            return
    raise UndecodableImageError(f"the PNG has more than {most:,} chunks")


def _webp_size(data: bytes) -> tuple[int, int]:
    """Width and height of the canvas, which libwebp reserves as it opens the file; 0, 0 where there is none."""
    kind = data[12:16]
    if kind == b"VP8X" and len(data) >= 30:
        return int.from_bytes(data[24:27], "little") + 1, int.from_bytes(data[27:30], "little") + 1
    if kind == b"VP8L" and len(data) >= 25:
        bits = int.from_bytes(data[21:25], "little")
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    if kind == b"VP8 " and len(data) >= 30:
        width, height = struct.unpack_from("<HH", data, 26)
        return width & 0x3FFF, height & 0x3FFF
    return 0, 0
