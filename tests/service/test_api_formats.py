"""Formats of the answer beside RLE, behind a real server with artifacts of every kind."""

import base64
import io
from collections.abc import Iterator

import httpx
import numpy as np
import pytest
from PIL import Image

from knet.client import KNetClient
from service import hugging_face, rle
from service.errors import InvalidParameterError
from service.filling import fill_polygons
from service.segments import from_id_map
from service.server import background
from service.settings import Settings


@pytest.fixture(scope="module")
def kinds(tiny, tmp_path_factory) -> Iterator[httpx.Client]:
    folder = tmp_path_factory.mktemp("formats")
    for kind in ("panoptic", "instance", "semantic"):
        tiny.write_artifact(folder, kind=kind, name=kind)
    with background(Settings(repository=folder, port=0)) as url, KNetClient(url) as client:
        client.wait_ready(60)
        with httpx.Client(base_url=url, timeout=30) as http:
            yield http


@pytest.fixture
def picture(png) -> bytes:
    """Red holds ids of the panoptic graph, bits of the instance graph and classes of the semantic one; with holes."""
    image = np.zeros((60, 80, 3), np.uint8)
    image[..., 0] = 2
    image[4:30, 6:40, 0] = 1
    image[10:20, 12:30, 0] = 2
    image[13:17, 15:25, 0] = 1
    image[0, 79, 0] = image[1, 78, 0] = 1
    return png(image)


def ask(http: httpx.Client, kind: str, picture: bytes, **params):
    response = http.post(f"/v1/models/{kind}/segment", content=picture, params={"score_threshold": 0.3, **params}
                         if kind != "semantic" else params)  # fmt: skip
    assert response.status_code == 200, response.text
    return response.json()


def mask_of(segment: dict) -> np.ndarray:
    return rle.decode(segment["segmentation"]["counts"], segment["segmentation"]["size"])


@pytest.mark.parametrize("kind", ["panoptic", "instance", "semantic"])
def test_polygons_fill_to_the_masks_with_their_holes(kinds, picture, kind):
    params = {"overlap_threshold": 0} if kind == "panoptic" else {}
    by_rle, answer = (ask(kinds, kind, picture, format=form, **params) for form in ("rle", "polygon"))
    assert len(answer["segments"]) >= 2
    num_rings = 0
    for expected, segment in zip(by_rle["segments"], answer["segments"], strict=True):
        geometry = segment.pop("segmentation")
        assert geometry["type"] == "MultiPolygon"
        np.testing.assert_array_equal(fill_polygons(geometry["coordinates"], (60, 80)), mask_of(expected))
        num_rings += sum(len(polygon) > 1 for polygon in geometry["coordinates"])
        assert segment == {key: value for key, value in expected.items() if key != "segmentation"}
    assert num_rings > 0


@pytest.mark.parametrize("kind", ["panoptic", "instance", "semantic"])
def test_hugging_face_answer_has_label_score_and_mask(kinds, picture, kind):
    expected, answer = (ask(kinds, kind, picture, format=form) for form in ("rle", "huggingface"))
    assert len(answer) == len(expected["segments"]) > 0
    for segment, entry in zip(expected["segments"], answer, strict=True):
        assert list(entry) == ["label", "score", "mask"]
        assert (entry["label"], entry["score"]) == (segment["category"], segment["score"])
        mask = Image.open(io.BytesIO(base64.b64decode(entry["mask"], validate=True)))
        assert (mask.mode, mask.size) == ("L", (80, 60))
        np.testing.assert_array_equal(np.asarray(mask), 255 * mask_of(segment).astype(np.uint8))


def test_hugging_face_answers_of_several_images_are_lists_in_a_list(kinds, picture):
    files = [("image", picture), ("image", b"no image"), ("image", picture)]
    response = kinds.post("/v1/models/panoptic/segment", files=files, params={"format": "huggingface"})
    first, second, third = response.json()["results"]
    assert first == third == ask(kinds, "panoptic", picture, format="huggingface", score_threshold=0.5)
    assert second["status"] == 415


def test_masks_of_a_hugging_face_answer_are_bounded(tiny, monkeypatch):
    metadata = tiny.KIND_CATEGORIES  # of which only names are read
    result = from_id_map(np.arange(1, 101, dtype=np.int32).reshape(10, 10), [0] * 100, [0.5] * 100)

    class Named:
        categories = metadata["panoptic"]

    assert hugging_face.encode(result, Named, with_scores=True)
    for limit, words in (("MAX_MASK_PIXELS", "10,000 pixels"), ("MAX_MASK_BYTES", "9,999 bytes")):
        with monkeypatch.context() as patch:
            patch.setattr(hugging_face, limit, 9_999)
            with pytest.raises(InvalidParameterError, match=words):
                hugging_face.encode(result, Named, with_scores=True)
