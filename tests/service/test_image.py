import io
import struct
import zlib

import cv2
import numpy as np
import pytest
from PIL import Image, ImageOps

from service.errors import ImageTooLargeError, UndecodableImageError, UnsupportedImageError
from service.image import decode

RNG = np.random.default_rng(0)
RGB = RNG.integers(0, 256, (6, 9, 3), np.uint8)
GRAY = RNG.integers(0, 256, (6, 9), np.uint8)


def encode(image: Image.Image, format: str, **options) -> bytes:
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def encode_cv(array: np.ndarray, suffix: str) -> bytes:
    done, data = cv2.imencode(suffix, array)
    assert done
    return data.tobytes()


def tiff_16_bit(samples: np.ndarray, orientation: int) -> bytes:
    """An uncompressed TIFF of (H, W, 3) samples, with an orientation tag that no writer at hand sets."""
    height, width, channels = samples.shape
    strip = samples.astype("<u2").tobytes()
    entries = [(256, 1, width), (257, 1, height), (258, channels, None), (259, 1, 1), (262, 1, 2), (273, 1, None)]
    entries += [(274, 1, orientation), (277, 1, channels), (278, 1, height), (279, 1, len(strip))]
    bits_at = 8 + 2 + 12 * len(entries) + 4
    values = {258: bits_at, 273: bits_at + 2 * channels}
    directory = b"".join(
        struct.pack("<HHII", tag, 4 if tag in (273, 279) else 3, count, values.get(tag, value))
        for tag, count, value in entries
    )
    header = b"II*\0" + struct.pack("<IH", 8, len(entries))
    return header + directory + struct.pack("<I", 0) + struct.pack(f"<{channels}H", *[16] * channels) + strip


@pytest.mark.parametrize(
    ("format", "options"),
    [("PNG", {}), ("BMP", {}), ("TIFF", {}), ("TIFF", {"compression": "tiff_lzw"}), ("WEBP", {"lossless": True})],
)
def test_lossless_formats_keep_every_pixel(format, options):
    pixels = decode(encode(Image.fromarray(RGB), format, **options))
    assert pixels.dtype == np.uint8
    assert pixels.flags.c_contiguous
    assert pixels.flags.writeable
    np.testing.assert_array_equal(pixels, RGB)


def test_jpeg_decodes_to_what_pillow_sees():
    data = encode(Image.fromarray(RGB), "JPEG")
    np.testing.assert_array_equal(decode(data), np.asarray(Image.open(io.BytesIO(data))))


@pytest.mark.parametrize("size", [(1, 1), (8, 8), (17, 33), (100, 3), (120, 161)])
@pytest.mark.parametrize("subsampling", [0, 1, 2])
@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"restart_marker_blocks": 3}, {"keep_rgb": True}])
def test_jpegs_of_all_kinds_are_bit_for_bit_what_pillow_sees(size, subsampling, options):
    coarse = RNG.integers(0, 256, (size[0] // 4 + 1, size[1] // 4 + 1, 3), np.uint8)
    image = cv2.resize(coarse, size[::-1], interpolation=cv2.INTER_CUBIC)
    options = options if "keep_rgb" in options else {"subsampling": subsampling, **options}
    data = encode(Image.fromarray(image), "JPEG", **options)
    np.testing.assert_array_equal(decode(data), np.asarray(Image.open(io.BytesIO(data))))


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(format, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encode(Image.fromarray(RGB), format, exif=exif)
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB")
    assert upright.size == ((9, 6) if orientation < 5 else (6, 9))
    np.testing.assert_array_equal(decode(data), np.asarray(upright))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_of_16_bit_colour_tiff_is_applied_once(orientation):
    samples = RGB.astype(np.uint16) * 257
    exif = Image.Exif()
    exif[0x0112] = orientation
    same_in_8_bits = decode(encode(Image.fromarray(RGB), "TIFF", exif=exif))
    np.testing.assert_array_equal(decode(tiff_16_bit(samples, orientation)), same_in_8_bits)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_of_16_bit_colour_png_is_applied_once(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    chunk = exif.tobytes().removeprefix(b"Exif\0\0")
    data = encode_cv(RGB[..., ::-1].astype(np.uint16) * 257, ".png")
    body = b"eXIf" + chunk
    after_header = 33
    data = (
        data[:after_header]
        + struct.pack(">I", len(chunk)) + body + struct.pack(">I", zlib.crc32(body))
        + data[after_header:]
    )  # fmt: skip
    same_in_8_bits = decode(encode(Image.fromarray(RGB), "PNG", exif=exif))
    np.testing.assert_array_equal(decode(data), same_in_8_bits)


def test_gray_becomes_three_equal_channels():
    np.testing.assert_array_equal(decode(encode(Image.fromarray(GRAY), "PNG")), np.repeat(GRAY[..., None], 3, 2))


def test_one_bit_image_becomes_black_and_white():
    bits = Image.fromarray(GRAY > 127)
    expected = np.where(GRAY > 127, 255, 0)
    np.testing.assert_array_equal(decode(encode(bits, "TIFF"))[..., 1], expected)
    np.testing.assert_array_equal(decode(encode(bits, "PNG"))[..., 1], expected)


@pytest.mark.parametrize("format", ["PNG", "WEBP", "TIFF"])
def test_transparent_pixels_are_laid_over_black(format):
    rgba = np.dstack([RGB, np.full((6, 9), 255, np.uint8)])
    rgba[0, 0, 3] = 0
    rgba[1, 1] = (200, 100, 50, 128)
    expected = RGB.copy()
    expected[0, 0] = 0
    expected[1, 1] = (100, 50, 25)
    options = {"lossless": True, "exact": True} if format == "WEBP" else {}
    pixels = decode(encode(Image.fromarray(rgba), format, **options))
    np.testing.assert_allclose(pixels, expected, atol=1)  # of rounding at half opacity


def test_gray_with_alpha_is_laid_over_black():
    alpha = np.where(GRAY > 127, 255, 0).astype(np.uint8)
    data = encode(Image.merge("LA", [Image.fromarray(GRAY), Image.fromarray(alpha)]), "PNG")
    np.testing.assert_array_equal(decode(data)[..., 0], np.where(GRAY > 127, GRAY, 0))


def test_palette_is_looked_up_and_its_transparency_is_black():
    palette = Image.fromarray(np.array([[0, 1], [2, 1]], np.uint8)).convert("P")
    palette.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])
    np.testing.assert_array_equal(decode(encode(palette, "PNG"))[1], [[0, 0, 255], [0, 255, 0]])
    pixels = decode(encode(palette, "PNG", transparency=2))
    np.testing.assert_array_equal(pixels, [[[255, 0, 0], [0, 255, 0]], [[0, 0, 0], [0, 255, 0]]])


def test_transparent_colour_of_an_rgb_png_is_black():
    image = Image.fromarray(np.array([[[9, 8, 7], [1, 2, 3]]], np.uint8))
    np.testing.assert_array_equal(decode(encode(image, "PNG", transparency=(9, 8, 7))), [[[0, 0, 0], [1, 2, 3]]])


@pytest.mark.parametrize("format", ["JPEG", "TIFF"])
def test_cmyk_is_converted(format):
    cmyk = Image.fromarray(np.full((8, 8, 3), (250, 40, 10), np.uint8)).convert("CMYK")
    pixels = decode(encode(cmyk, format))
    np.testing.assert_allclose(pixels, np.broadcast_to([250, 40, 10], (8, 8, 3)), atol=6)  # JPEG's loss


@pytest.mark.parametrize("bits", [10, 12, 14, 16])
@pytest.mark.parametrize("suffix", [".png", ".tiff"])
@pytest.mark.parametrize("channels", [1, 3])
def test_wide_samples_are_scaled_by_the_smallest_depth_that_holds_them(bits, suffix, channels):
    top = 2**bits - 1
    samples = RNG.integers(0, top + 1, (6, 9, channels), np.uint16)
    samples[0, 0, 0] = top
    expected = np.rint(samples * (255 / top)).astype(np.uint8)
    pixels = decode(encode_cv(samples[..., ::-1].squeeze(), suffix))
    np.testing.assert_array_equal(pixels, np.broadcast_to(expected, (6, 9, 3)))


def test_dark_16_bit_image_counts_as_10_bits():
    pixels = decode(encode_cv(np.full((4, 4), 100, np.uint16), ".png"))
    assert (pixels == round(100 * 255 / 1023)).all()


def test_packed_12_bit_tiff_counts_as_12_bits():
    # Two samples in three bytes, most significant bit first.
    strip = bytes([0xFF, 0xF0, 0x00, 0x80, 0x04, 0x00])
    tags = [(256, 2), (257, 2), (258, 12), (259, 1), (262, 1), (273, 122), (277, 1), (278, 2), (279, len(strip))]
    directory = b"".join(struct.pack("<HHII", tag, 3, 1, value) for tag, value in tags)
    data = b"II*\0" + struct.pack("<IH", 8, len(tags)) + directory + struct.pack("<I", 0)
    data = data.ljust(122, b"\0") + strip
    np.testing.assert_array_equal(decode(data)[..., 0], [[255, 0], [128, 64]])


def test_opacity_of_16_bit_colour_does_not_hide_its_depth():
    samples = np.full((4, 4, 4), 2000, np.uint16)
    samples[..., 3] = 65535
    samples[0, 0, 3] = 0
    pixels = decode(encode_cv(samples, ".png"))
    assert (pixels[1:] == round(2000 * 255 / 4095)).all()
    assert (pixels[0, 0] == 0).all()


def test_32_bit_samples_are_taken_in_the_ranges_documented():
    whole = Image.fromarray(np.array([[0, 4095]], np.int32))
    np.testing.assert_array_equal(decode(encode(whole, "TIFF"))[0, :, 0], [0, 255])
    unit = Image.fromarray(np.array([[0, 0.5, 1]], np.float32))
    np.testing.assert_array_equal(decode(encode(unit, "TIFF"))[0, :, 0], [0, 128, 255])


@pytest.mark.parametrize("value", [-1, 70000])
def test_32_bit_integers_out_of_range_say_so(value):
    with pytest.raises(UndecodableImageError, match=r"0\.\.65535"):
        decode(encode(Image.fromarray(np.array([[value]], np.int32)), "TIFF"))


@pytest.mark.parametrize("value", [-0.1, 300.0, np.nan, np.inf])
def test_floats_out_of_range_say_so(value):
    with pytest.raises(UndecodableImageError, match=r"0\.\.1"):
        decode(encode(Image.fromarray(np.array([[value]], np.float32)), "TIFF"))


def test_first_page_of_a_multi_page_tiff_is_taken():
    pages = [Image.fromarray(RGB), Image.fromarray(255 - RGB)]
    np.testing.assert_array_equal(decode(encode(pages[0], "TIFF", save_all=True, append_images=pages[1:])), RGB)


@pytest.mark.parametrize("data", [b"hello", b"GIF89a" + bytes(100), b"<svg/>", b"RIFF\0\0\0\0WAVE", b"%PDF-1.7"])
def test_what_is_no_image_of_a_format_taken_is_unsupported(data):
    with pytest.raises(UnsupportedImageError):
        decode(data)


def test_gif_is_unsupported_though_pillow_reads_it():
    with pytest.raises(UnsupportedImageError, match="JPEG, PNG, WEBP, TIFF, BMP"):
        decode(encode(Image.fromarray(GRAY), "GIF"))


def test_zero_bytes_are_undecodable():
    with pytest.raises(UndecodableImageError, match="no bytes"):
        decode(b"")


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF", "BMP"])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.95])
def test_truncated_files_are_undecodable(format, share):
    image = Image.fromarray(RNG.integers(0, 256, (64, 64, 3), np.uint8))
    data = encode(image, format)
    with pytest.raises(UndecodableImageError):
        decode(data[: int(len(data) * share)])


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
@pytest.mark.parametrize("suffix", [".png", ".tiff"])
def test_truncated_16_bit_colour_is_undecodable(suffix):
    data = encode_cv(RNG.integers(0, 65536, (64, 64, 3), np.uint16), suffix)
    with pytest.raises(UndecodableImageError):
        decode(data[: len(data) // 2])


def test_pixel_limit_is_checked_on_the_header_alone():
    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", 20000, 15000, 8, 2, 0, 0, 0)
    bomb = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1000)))
    with pytest.raises(ImageTooLargeError, match="20000 x 15000"):
        decode(bomb)


def test_pixel_limit_admits_an_image_of_just_that_size():
    data = encode(Image.fromarray(RGB), "PNG")
    assert decode(data, max_pixels=54).shape == (6, 9, 3)
    with pytest.raises(ImageTooLargeError):
        decode(data, max_pixels=53)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_damaged_exif_does_not_hide_good_pixels():
    data = encode(Image.fromarray(RGB), "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff")
    assert decode(data).shape == (6, 9, 3)
