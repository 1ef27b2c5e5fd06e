import base64
import io

import cv2
import httpx
import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools

ROUTE = "/v1/models/tiny/segment"


def without_timing(answer: dict) -> dict:
    return {key: value for key, value in answer.items() if key != "timing_ms"}


@pytest.fixture
def posted(scene, png) -> bytes:
    return png(scene)


def test_answer_has_the_documented_shape(http, posted):
    response = http.post(ROUTE, content=posted, headers={"Content-Type": "image/png"})
    assert response.status_code == 200
    assert response.headers["content-type"] == "application/json"
    answer = response.json()
    assert list(answer) == ["model", "version", "task", "image", "segments", "warnings", "timing_ms"]
    assert (answer["model"], answer["version"], answer["task"]) == ("tiny", "10", "panoptic")
    assert answer["image"] == {"width": 40, "height": 50}
    first = answer["segments"][0]
    counts = first.pop("segmentation")
    assert first == {
        "id": 1, "category_id": 3, "category": "nucleus", "is_thing": True, "score": 0.75, "area": 252,
        "bbox": [2, 30, 18, 14],
    }  # fmt: skip
    assert counts["size"] == [50, 40]
    assert set(answer["timing_ms"]) == {"decode", "queue", "engine", "encode", "total"}


def test_masks_are_those_of_the_scene_by_pycocotools(http, posted, scene):
    answer = http.post(ROUTE, content=posted).json()
    for segment, value in zip(answer["segments"], (7, 3, 12), strict=True):
        mask = coco_mask.decode(segment["segmentation"])
        np.testing.assert_array_equal(mask, scene[..., 0] == value)
        assert segment["area"] == mask.sum()
        assert segment["bbox"] == coco_mask.toBbox(segment["segmentation"]).tolist()


def test_every_form_of_body_gives_the_same_answer(http, posted):
    text = base64.b64encode(posted).decode()
    responses = [
        http.post(ROUTE, content=posted, headers={"Content-Type": "image/png"}),
        http.post(ROUTE, content=posted, headers={"Content-Type": "application/octet-stream"}),
        http.post(ROUTE, content=posted, headers={"Content-Type": "application/x-www-form-urlencoded"}),
        http.post(ROUTE, content=posted),
        http.post(ROUTE, content=iter([posted[:100], posted[100:]])),
        http.post(ROUTE, files={"image": posted}),
        http.post(ROUTE, json={"image": text}),
    ]
    answers = [without_timing(response.json()) for response in responses]
    assert all(answer == answers[0] for answer in answers)
    assert len(answers[0]["segments"]) == 3
    (only,) = http.post(ROUTE, json={"images": [text]}).json()["results"]
    assert without_timing(only) == answers[0]


def test_several_images_are_answered_in_their_order(http, scene, png):
    other = np.full((20, 30, 3), 7, np.uint8)
    files = [("image", png(scene)), ("image", b"no image"), ("image", png(other)), ("image", b"")]
    response = http.post(ROUTE, files=files)
    assert response.status_code == 200
    first, second, third, fourth = response.json()["results"]
    assert first["image"] == {"width": 40, "height": 50}
    assert (second["status"], second["type"]) == (415, "urn:knet:problem:unsupported-image")
    assert second["request_id"] == response.headers["x-request-id"]
    assert third["image"] == {"width": 30, "height": 20}
    assert fourth["status"] == 422


def test_several_base64_images_may_hold_bad_ones(http, posted):
    body = {"images": ["%%%", base64.b64encode(posted).decode(), "not base64"]}
    first, second, third = http.post(ROUTE, json=body).json()["results"]
    assert first["status"] == third["status"] == 422
    assert len(second["segments"]) == 3


def test_instance_task_has_things_only(http, posted, scene):
    answer = http.post(ROUTE, content=posted, params={"task": "instance"}).json()
    assert answer["task"] == "instance"
    assert [segment["category"] for segment in answer["segments"]] == ["nucleus", "nucleus"]
    assert [segment["id"] for segment in answer["segments"]] == [1, 2]


def test_semantic_task_joins_each_category_and_has_no_scores(http, posted, scene):
    answer = http.post(ROUTE, content=posted, params={"task": "semantic"}).json()
    assert [(s["category"], s["score"]) for s in answer["segments"]] == [("nucleus", None), ("background", None)]
    nuclei = coco_mask.decode(answer["segments"][0]["segmentation"])
    np.testing.assert_array_equal(nuclei, np.isin(scene[..., 0], (3, 7)))


@pytest.mark.parametrize("wanted", [["nucleus"], ["3"], ["nucleus,nucleus"], ["3", "cell"]])
def test_categories_are_filtered_by_id_or_name(http, posted, wanted):
    answer = http.post(ROUTE, content=posted, params={"categories": wanted}).json()
    assert [segment["id"] for segment in answer["segments"]] == [1, 2]
    assert {segment["category"] for segment in answer["segments"]} == {"nucleus"}


def test_thresholds_of_the_query_are_used(http, posted):
    few = http.post(ROUTE, content=posted, params={"score_threshold": 0.7}).json()
    many = http.post(ROUTE, content=posted, params={"score_threshold": 0, "overlap_threshold": 0}).json()
    assert len(few["segments"]) == 2
    assert len(many["segments"]) == 4


def test_views_of_the_query_are_taken_and_combined(http, png):
    scene = np.full((50, 40, 3), 12, np.uint8)
    scene[4:24, 6:16, 0] = 7  # in the larger views there are slots between 7 and 12 at its edge
    once, often = (
        http.post(ROUTE, content=png(scene), params={"views": views, "task": "instance"}).json() for views in (1, 3)
    )
    assert len(once["segments"]) == 1
    (found,) = [segment for segment in often["segments"] if segment["area"] > 100]
    assert found["category"] == once["segments"][0]["category"]
    assert found["score"] == pytest.approx(once["segments"][0]["score"])


def test_png_holds_the_ids_beside_the_segments(http, posted, scene, read_png):
    answer = http.post(ROUTE, content=posted, params={"format": "png"}).json()
    assert all("segmentation" not in segment for segment in answer["segments"])
    ids = read_png(base64.b64decode(answer["png"])).astype(int) @ [1, 256, 65536]
    for segment in answer["segments"]:
        assert (ids == segment["id"]).sum() == segment["area"]
    assert ((ids == 0) == (scene[..., 0] == 1)).all()


def test_accept_png_gives_the_id_map_alone(http, posted):
    response = http.post(ROUTE, content=posted, headers={"Accept": "image/png"})
    assert response.headers["content-type"] == "image/png"
    inside = http.post(ROUTE, content=posted, params={"format": "png"}).json()["png"]
    assert response.content == base64.b64decode(inside)


def test_overlay_is_a_picture_with_the_masks_in_it(http, posted, scene, read_png):
    answer = http.post(ROUTE, content=posted, params={"format": "overlay"}).json()
    assert all("counts" in segment["segmentation"] for segment in answer["segments"])
    picture = read_png(base64.b64decode(answer["overlay"]))
    alone = http.post(ROUTE, content=posted, params={"format": "overlay"}, headers={"Accept": "image/png"})
    np.testing.assert_array_equal(picture, read_png(alone.content))
    void = scene[..., 0] == 1
    np.testing.assert_array_equal(picture[void], scene[void])
    inside = (35, 10), (8, 10)  # of two things of one category: colours differ
    assert (picture[inside[0]] != picture[inside[1]]).any()
    semantic = http.post(ROUTE, content=posted, params={"format": "overlay", "task": "semantic"}).json()
    picture = read_png(base64.b64decode(semantic["overlay"])).astype(int)
    assert np.abs(picture[inside[0]] - picture[inside[1]]).max() <= 4  # but for the pixels below


def test_size_is_that_after_the_exif_orientation(http, scene):
    exif = Image.Exif()
    exif[0x0112] = 6
    file = io.BytesIO()
    Image.fromarray(scene).save(file, "PNG", exif=exif)
    answer = http.post(ROUTE, content=file.getvalue()).json()
    assert answer["image"] == {"width": 50, "height": 40}
    assert answer["segments"][0]["segmentation"]["size"] == [40, 50]


def test_16_bit_image_is_answered(http):
    _, data = cv2.imencode(".tiff", np.full((40, 40), 28, np.uint16))  # 28 of 1023 is 7 of 255
    answer = http.post(ROUTE, content=data.tobytes()).json()
    assert [segment["area"] for segment in answer["segments"]] == [1600]


def test_a_named_version_answers(http, posted):
    answer = http.post("/v1/models/tiny/versions/2/segment", content=posted).json()
    assert answer["version"] == "2"


def test_models_are_listed_with_what_they_can_do(http):
    (model,) = http.get("/v1/models").json()["models"]
    assert model == {
        "name": "tiny", "versions": ["2", "10"], "kind": "panoptic", "ready": True,
        "tasks": ["panoptic", "instance", "semantic"],
    }  # fmt: skip
    detail = http.get("/v1/models/tiny").json()
    assert [version["version"] for version in detail["versions"]] == ["2", "10"]
    newest = detail["versions"][-1]
    assert newest["categories"][0] == {"id": 7, "name": "cell", "is_thing": True, "colour": [255, 0, 0]}
    assert newest["thresholds"] == {"score": 0.5, "overlap": 0.5, "min_area": 0}
    assert newest["most_things_per_tile"] == 11
    assert (newest["merge"], newest["mask_quality"]) == ("official", False)


def test_health_and_readiness_answer(http):
    assert http.get("/healthz").json() == {"status": "ok"}
    assert http.get("/readyz").json() == {"status": "ready"}
    for path in ("/healthz", "/readyz"):
        asked = http.head(path)
        assert (asked.status_code, asked.content) == (200, b"")


def test_documentation_describes_parameters_and_bodies(http):
    paths = http.get("/openapi.json").json()["paths"]
    post = paths["/v1/models/{name}/segment"]["post"]
    assert {parameter["name"] for parameter in post["parameters"] if parameter["in"] == "query"} == {
        "task", "format", "score_threshold", "overlap_threshold", "views", "categories", "timeout_ms",
    }  # fmt: skip
    assert set(post["requestBody"]["content"]) == {
        "image/*", "application/octet-stream", "multipart/form-data", "application/json",
    }  # fmt: skip
    assert http.get("/docs").status_code == 200


def test_request_id_is_kept_or_made(http):
    assert http.get("/healthz", headers={"X-Request-ID": "abc-1.2_3"}).headers["x-request-id"] == "abc-1.2_3"
    made = http.get("/healthz").headers["x-request-id"]
    assert len(made) == 32
    for bad in ("a b", "x" * 65, "<script>"):
        assert http.get("/healthz", headers={"X-Request-ID": bad}).headers["x-request-id"] != bad


def test_equal_images_get_equal_answers_at_the_same_time(server, posted):
    import concurrent.futures

    def post(_: int) -> dict:
        with httpx.Client(base_url=server, timeout=30) as client:
            return without_timing(client.post(ROUTE, content=posted).json())

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(post, range(32)))
    assert all(answer == answers[0] for answer in answers)
