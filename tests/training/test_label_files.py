import io

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from training.data.label_file import read_label_image, unique_codes
from training.data.label_maps import LabelMapSource
from training.data.semantic_png import ClassCode, SemanticSource, colour_code
from training.data.size import image_size


@pytest.mark.parametrize("ending", ["png", "tif", "tiff"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_numbers_of_8_and_16_bits_are_read_as_they_are(tmp_path, ending, dtype, files):
    expected = files.labels(0, 1, 255 if dtype == np.uint8 else 40000, dtype=dtype)
    path = tmp_path / f"a.{ending}"
    assert cv2.imwrite(str(path), expected)
    assert (read_label_image(path) == expected).all()


def test_a_palette_image_gives_its_indices_and_not_its_colours(tmp_path, files):
    expected = files.labels(0, 1, 255)
    path = files.save(tmp_path / "a.png", expected, palette=np.random.default_rng(0).integers(0, 256, 768).tolist())
    assert (read_label_image(path) == expected).all()


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_gray_of_few_bits_is_not_stretched(tmp_path, bits, files):
    expected = files.labels(*range(min(1 << bits, 5)))
    path = tmp_path / "a.png"
    if bits == 1:
        Image.fromarray(expected.astype(bool)).save(path)
    else:
        path.write_bytes(gray_png(expected, bits))
    assert (read_label_image(path) == expected).all()


def gray_png(pixels, bits):
    """A gray PNG of 2 or 4 bits, which Pillow does not write: a palette PNG with another colour type."""
    import struct
    import zlib

    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    height, width = pixels.shape
    shifts = np.arange(8 - bits, -1, -bits)
    per_byte = len(shifts)
    padded = np.pad(pixels, ((0, 0), (0, -width % per_byte))).reshape(height, -1, per_byte)
    rows = (padded << shifts).sum(axis=2).astype(np.uint8)
    header = struct.pack(">IIBBBBB", width, height, bits, 0, 0, 0, 0)
    data = zlib.compress(np.pad(rows, ((0, 0), (1, 0))).tobytes())
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def test_files_that_are_no_labels_are_named(tmp_path, files):
    (tmp_path / "text.png").write_text("no picture")
    with pytest.raises(ValueError, match=r"text\.png is not a readable PNG"):
        read_label_image(tmp_path / "text.png")
    photo = tmp_path / "photo.png"
    Image.fromarray(files.noise()).save(photo, format="JPEG")
    with pytest.raises(ValueError, match=r"photo\.png is not a readable PNG"):
        read_label_image(photo)
    fine = tmp_path / "fine.png"
    assert cv2.imwrite(str(fine), np.full((8, 10, 3), 300, np.uint16))
    with pytest.raises(ValueError, match=r"fine\.png has 16 bits a colour; legal: 8, or numbers"):
        read_label_image(fine)
    pages = [Image.fromarray(files.labels(value)) for value in (0, 1)]
    pages[0].save(tmp_path / "pages.tif", save_all=True, append_images=pages[1:])
    with pytest.raises(ValueError, match=r"pages\.tif has 2 pages; legal: one"):
        read_label_image(tmp_path / "pages.tif")
    Image.fromarray(np.full((4, 4), 0.5, np.float32)).save(tmp_path / "half.tif")
    with pytest.raises(ValueError, match=r"half\.tif holds fractions"):
        read_label_image(tmp_path / "half.tif")
    cut = files.save(tmp_path / "cut.png", np.random.default_rng(0).integers(0, 256, (50, 50), np.uint8))
    cut.write_bytes(cut.read_bytes()[:200])
    with pytest.raises(ValueError, match=r"cut\.png"):
        read_label_image(cut)


@settings(max_examples=50, deadline=None)
@given(arrays(np.int32, st.tuples(st.integers(1, 9), st.integers(1, 9)), elements=st.integers(-3, 2**24 - 1)))
def test_unique_codes_are_numpys(values):
    codes, numbers = unique_codes(values)
    expected_codes, expected_numbers = np.unique(values, return_inverse=True)
    assert codes == expected_codes.tolist()
    assert (numbers == expected_numbers.ravel()).all()


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("ending", ["jpg", "png", "tif"])
def test_size_from_the_header_is_that_of_the_decoded_image(tmp_path, orientation, ending, files):
    from service.image import decode

    exif = Image.Exif()
    exif[0x0112] = orientation
    buffer = io.BytesIO()
    format_name = {"jpg": "JPEG", "png": "PNG", "tif": "TIFF"}[ending]
    Image.fromarray(files.noise()).save(buffer, format=format_name, exif=exif)
    path = tmp_path / f"a.{ending}"
    path.write_bytes(buffer.getvalue())
    assert image_size(path) == decode(path.read_bytes()).shape[:2]


def test_label_maps_have_an_object_a_number_and_the_background_last(tmp_path, files):
    stored = files.labels(0, 7, 300, 2, dtype=np.uint16)
    path = files.save(tmp_path / "a.png", stored)
    annotation = LabelMapSource(path=path).read(8, 10)
    assert annotation.class_index.tolist() == [0, 0, 0, 1]
    for segment, value in zip(annotation.segments, (2, 7, 300, 0), strict=True):
        assert ((annotation.layers[0] == segment.id) == (stored == value)).all()
    void = LabelMapSource(path=path, ignore_index=(300,)).read(8, 10)
    assert ((void.layers[0] == 0) == (stored == 300)).all()
    assert void.class_index.tolist() == [0, 0, 1]


def test_label_map_of_another_size_or_with_colours_is_refused(tmp_path, files):
    path = files.save(tmp_path / "a.png", files.labels(0, 1))
    with pytest.raises(ValueError, match=r"a\.png is 10x8, its image 11x8: replace"):
        LabelMapSource(path=path).read(8, 11)
    with pytest.raises(ValueError, match=r"its image 8x10 as it is shown, EXIF orientation applied: replace"):
        LabelMapSource(path=path).read(10, 8)
    files.save(path, files.coloured((1, 2, 3), (4, 5, 6)))
    with pytest.raises(ValueError, match=r"a\.png holds colours.*\"format\": \"semantic\""):
        LabelMapSource(path=path).read(8, 10)


def test_semantic_values_become_one_segment_a_class(tmp_path, files):
    code = ClassCode(is_colour=False, class_of={4: 1, 6: 0, 9: 0, 255: None})
    stored = files.labels(4, 9, 255, 6)
    annotation = SemanticSource(path=files.save(tmp_path / "a.png", stored), code=code).read(8, 10)
    assert annotation.class_index.tolist() == [0, 1]
    assert (annotation.layers[0] == np.select([(stored == 6) | (stored == 9), stored == 4], [1, 2], 0)).all()
    with pytest.raises(ValueError, match=r"b\.png holds values that no category has: 5, 77;"):
        SemanticSource(path=files.save(tmp_path / "b.png", files.labels(4, 5, 77)), code=code).read(8, 10)


def test_semantic_colours_are_told_apart_exactly(tmp_path, files):
    colours = [(0, 255, 0), (0, 254, 0), (255, 255, 255)]
    code = ClassCode(is_colour=True, class_of=dict(zip(map(colour_code, colours), (0, 1, None), strict=True)))
    annotation = SemanticSource(path=files.save(tmp_path / "a.png", files.coloured(*colours)), code=code).read(8, 10)
    assert (annotation.layers[0] == files.labels(1, 2, 0)).all()
    with pytest.raises(ValueError, match="holds colours that no category has: 0-0-9"):
        SemanticSource(path=files.save(tmp_path / "b.png", files.coloured((0, 0, 9))), code=code).read(8, 10)
    with pytest.raises(ValueError, match="holds numbers"):
        SemanticSource(path=files.save(tmp_path / "c.png", files.labels(0, 1)), code=code).read(8, 10)
