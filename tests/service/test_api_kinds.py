"""Instance and semantic artifacts behind a real server."""

import base64
from collections.abc import Iterator

import httpx
import numpy as np
import pytest
from pycocotools import mask as coco_mask

from knet.client import KNetClient
from service.server import background
from service.settings import Settings

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools

THINGS, CLASSES = "/v1/models/things/segment", "/v1/models/classes/segment"


@pytest.fixture(scope="module")
def kinds_server(tiny, tmp_path_factory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("kinds")
    tiny.write_artifact(folder, kind="instance", name="things")
    tiny.write_artifact(folder, kind="semantic", name="classes", stride=2)
    with background(Settings(repository=folder, port=0)) as url:
        with KNetClient(url) as client:
            client.wait_ready(60)
        yield url


@pytest.fixture
def http(kinds_server) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=kinds_server, timeout=30) as client:
        yield client


@pytest.fixture
def overlapping() -> np.ndarray:
    """RGB image (64, 80, 3), which the tiny geometry neither scales nor fills; masks 0, 1 and 2 in the bits of red."""
    image = np.full((64, 80, 3), 90, np.uint8)
    image[..., 0] = 0
    image[4:30, 6:40, 0] |= 1
    image[20:50, 30:70, 0] |= 2
    image[60:, 70:, 0] |= 4
    return image


@pytest.fixture
def classes() -> np.ndarray:
    """RGB image (70, 100, 3) of several tiles; red is the class."""
    image = np.zeros((70, 100, 3), np.uint8)
    image[20:60, 10:90, 0] = 1
    image[30:40, 40:70, 0] = 2
    return image


def check_refusal(response: httpx.Response, *words: str) -> None:
    assert response.status_code == 422, response.text
    problem = response.json()
    assert problem["type"] == "urn:knet:problem:invalid-parameter"
    for word in words:
        assert word in problem["detail"]


def test_instance_masks_are_those_of_the_image_by_pycocotools(http, overlapping, png):
    answer = http.post(THINGS, content=png(overlapping)).json()
    assert (answer["task"], answer["warnings"]) == ("instance", [])
    assert [(s["id"], s["category"], s["score"]) for s in answer["segments"]] == [
        (1, "nucleus", 0.9), (2, "cell", 0.8), (3, "cell", 0.7), (4, "nucleus", 0.6),
    ]  # fmt: skip
    for segment, bit in zip(answer["segments"], (1, 2, 1, 4), strict=True):
        mask = coco_mask.decode(segment["segmentation"])
        np.testing.assert_array_equal(mask > 0, overlapping[..., 0] & bit > 0)
        assert segment["area"] == mask.sum()
        assert segment["bbox"] == coco_mask.toBbox(segment["segmentation"]).tolist()


def test_instance_categories_and_score_threshold_choose_segments(http, overlapping, png):
    def scores(**params) -> list[float]:
        answer = http.post(THINGS, content=png(overlapping), params=params).json()
        assert [segment["id"] for segment in answer["segments"]] == list(range(1, len(answer["segments"]) + 1))
        return [segment["score"] for segment in answer["segments"]]

    assert scores(categories="cell") == [0.8, 0.7]
    assert scores(categories="3", score_threshold=0.7) == [0.9]
    assert scores(score_threshold=0.8) == [0.9, 0.8]
    assert scores(score_threshold=1) == []
    assert scores(task="instance") == [0.9, 0.8, 0.7, 0.6]


@pytest.mark.parametrize("task", ["panoptic", "semantic"])
def test_instance_model_names_the_task_that_it_has(http, overlapping, task, png):
    check_refusal(http.post(THINGS, content=png(overlapping), params={"task": task}), task, "things: instance")


def test_overlapping_masks_have_no_png(http, overlapping, png):
    words = "overlapping masks have no PNG form", "format=overlay"
    check_refusal(http.post(THINGS, content=png(overlapping), params={"format": "png"}), *words)
    check_refusal(http.post(THINGS, content=png(overlapping), headers={"Accept": "image/png"}), *words)


def test_overlay_of_an_instance_model_shows_the_best_mask_on_top(http, overlapping, png, read_png):
    answer = http.post(THINGS, content=png(overlapping), params={"format": "overlay"}).json()
    assert all("counts" in segment["segmentation"] for segment in answer["segments"])
    picture = read_png(base64.b64decode(answer["overlay"]))
    alone = http.post(THINGS, content=png(overlapping), params={"format": "overlay"}, headers={"Accept": "image/png"})
    assert alone.headers["content-type"] == "image/png"
    np.testing.assert_array_equal(picture, read_png(alone.content))
    np.testing.assert_array_equal(picture[55, 5], overlapping[55, 5])
    np.testing.assert_allclose(picture[25, 35].astype(int), picture[10, 20], atol=2)  # both masks; the first alone
    assert np.abs(picture[25, 35].astype(int) - picture[40, 50]).max() > 20


@pytest.mark.parametrize(
    ("route", "name", "words"),
    [
        (THINGS, "overlap_threshold", "it takes score_threshold"),
        (CLASSES, "overlap_threshold", "it takes neither"),
        (CLASSES, "score_threshold", "it takes neither"),
    ],
)
def test_thresholds_without_use_are_refused(http, route, name, words):
    check_refusal(http.post(route, content=b"", params={name: 0.5}), f"has no {name}", words)


@pytest.mark.parametrize(("route", "kind"), [(THINGS, "instance"), (CLASSES, "semantic")])
def test_several_views_are_for_panoptic_models(http, route, kind):
    response = http.post(route, content=b"", params={"views": 3})
    check_refusal(response, "views is 3")
    assert response.json()["detail"].endswith(f"of kind {kind}: 1")


def test_semantic_model_gives_each_class_present_without_a_score(http, classes, png):
    answer = http.post(CLASSES, content=png(classes)).json()
    assert answer["task"] == "semantic"
    assert [(s["id"], s["category"], s["score"]) for s in answer["segments"]] == [
        (1, "background", None), (2, "cell", None), (3, "glass", None),
    ]  # fmt: skip
    for segment, value in zip(answer["segments"], (0, 1, 2), strict=True):
        mask = coco_mask.decode(segment["segmentation"])
        np.testing.assert_array_equal(mask > 0, classes[..., 0] == value)
        assert segment["area"] == mask.sum()


def test_semantic_categories_choose_classes(http, classes, png):
    answer = http.post(CLASSES, content=png(classes), params={"categories": "glass,cell"}).json()
    assert [(segment["id"], segment["category"]) for segment in answer["segments"]] == [(1, "cell"), (2, "glass")]


@pytest.mark.parametrize("task", ["panoptic", "instance"])
def test_semantic_model_names_the_task_that_it_has(http, classes, task, png):
    check_refusal(http.post(CLASSES, content=png(classes), params={"task": task}), task, "classes: semantic")


def test_semantic_png_and_overlay_are_pictures_of_the_posted_size(http, classes, png, read_png):
    picture = http.post(CLASSES, content=png(classes), headers={"Accept": "image/png"})
    np.testing.assert_array_equal(read_png(picture.content)[..., 0], classes[..., 0] + 1)
    answer = http.post(CLASSES, content=png(classes), params={"format": "overlay"}).json()
    assert read_png(base64.b64decode(answer["overlay"])).shape == classes.shape


@pytest.mark.parametrize("route", [THINGS, CLASSES])
@pytest.mark.parametrize("size", [(1, 1), (7, 3), (63, 131), (250, 90)])
def test_masks_of_images_of_any_size_cover_it(http, route, size, png):
    segment = http.post(route, content=png(np.full((*size, 3), 1, np.uint8))).json()["segments"][0]
    assert (segment["area"], segment["bbox"]) == (size[0] * size[1], [0, 0, size[1], size[0]])
    assert coco_mask.decode(segment["segmentation"]).all()


def test_several_images_get_an_answer_each(http, overlapping, png):
    files = [("image", png(overlapping)), ("image", b"no image"), ("image", png(np.full((30, 20, 3), 2, np.uint8)))]
    first, second, third = http.post(THINGS, files=files).json()["results"]
    assert len(first["segments"]) == 4
    assert second["status"] == 415
    assert [(s["category"], s["area"]) for s in third["segments"]] == [("cell", 600)]


def test_models_tell_their_kind_and_how_they_merge(http):
    kinds = {model["name"]: (model["kind"], model["tasks"]) for model in http.get("/v1/models").json()["models"]}
    assert kinds == {"things": ("instance", ["instance"]), "classes": ("semantic", ["semantic"])}
    (version,) = http.get("/v1/models/things").json()["versions"]
    assert version["geometry"] | {"shortest": 64, "longest": 96, "multiple": 32} == version["geometry"]
    assert (version["merge"], version["mask_quality"], version["most_things_per_tile"]) == ("official", False, None)
