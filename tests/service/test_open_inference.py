"""The Open Inference Protocol v2, by Triton's own client and by hand."""

import base64
import gc
import json
import struct
import tracemalloc

import httpx
import numpy as np
import pytest
import tritonclient.http as triton
from tritonclient.utils import InferenceServerException

from knet.client import KNetClient
from service.errors import RequestError
from service.open_inference_wire import read_request
from service.server import background
from service.settings import Settings
from tests.service.driving import wait_ready

ROUTE, INFER = "/v1/models/tiny/segment", "/v2/models/tiny/infer"
LENGTH = "Inference-Header-Content-Length"


@pytest.fixture
def client(server):
    with triton.InferenceServerClient(server.removeprefix("http://")) as client:
        yield client


@pytest.fixture
def posted(scene, png) -> bytes:
    return png(scene)


def tensor(*images: bytes) -> triton.InferInput:
    result = triton.InferInput("image", [len(images)], "BYTES")
    result.set_data_from_numpy(np.array(images, dtype=np.object_))
    return result


def v2_json(*images: str, **changes) -> dict:
    inputs = [{"name": "image", "shape": [len(images)], "datatype": "BYTES", "data": list(images)}]
    return {"inputs": inputs, **changes}


def answers_of(result: triton.InferResult) -> list[dict]:
    answers = [json.loads(text) for text in result.as_numpy("segments")]
    for answer in answers:
        answer.pop("timing_ms", None)
    return answers


def by_v1(http, image: bytes, **params) -> dict:
    answer = http.post(ROUTE, content=image, params=params).json()
    answer.pop("timing_ms")
    return answer


def test_metadata_and_readiness_by_tritonclient(client):
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("tiny")
    assert client.is_model_ready("tiny", "2")
    assert not client.is_model_ready("tiny", "3")
    assert not client.is_model_ready("cats")
    assert client.get_server_metadata() == {
        "name": "knet-serve", "version": "1", "extensions": ["binary_tensor_data"],
    }  # fmt: skip
    for version in ("", "2"):
        assert client.get_model_metadata("tiny", version) == {
            "name": "tiny",
            "versions": ["2", "10"],
            "platform": "knet",
            "inputs": [{"name": "image", "datatype": "BYTES", "shape": [-1]}],
            "outputs": [
                {"name": "segments", "datatype": "BYTES", "shape": [-1]},
                {"name": "id_map", "datatype": "INT32", "shape": [1, -1, -1]},
            ],
        }


def test_images_are_segmented_by_tritonclient(client, http, posted, png):
    other = png(np.full((20, 30, 3), 7, np.uint8))
    result = client.infer("tiny", [tensor(posted, other)], request_id="request 7")
    assert answers_of(result) == [by_v1(http, posted), by_v1(http, other)]
    response = result.get_response()
    assert (response["model_name"], response["model_version"], response["id"]) == ("tiny", "10", "request 7")
    assert "binary_data_size" in response["outputs"][0]["parameters"]
    result = client.infer("tiny", [tensor(posted)], model_version="2")
    assert result.get_response()["model_version"] == "2"


def test_outputs_may_be_json(client, http, posted):
    result = client.infer(
        "tiny", [tensor(posted)], outputs=[triton.InferRequestedOutput("segments", binary_data=False)]
    )
    assert json.loads(result.get_response()["outputs"][0]["data"][0])["segments"] == by_v1(http, posted)["segments"]


def test_compressed_answers_are_read_by_tritonclient(client, http, posted):
    result = client.infer("tiny", [tensor(*[posted] * 8)], response_compression_algorithm="gzip")
    assert answers_of(result) == [by_v1(http, posted)] * 8


def test_parameters_are_those_of_the_query(client, http, posted):
    params = {"task": "instance", "score_threshold": 0.3, "categories": "nucleus", "format": "polygon"}
    result = client.infer("tiny", [tensor(posted)], parameters=params)
    assert answers_of(result) == [by_v1(http, posted, **params)]


@pytest.mark.parametrize("is_binary", [True, False])
def test_id_map_has_the_ids_of_the_segments(client, posted, scene, is_binary):
    outputs = [triton.InferRequestedOutput(name, binary_data=is_binary) for name in ("id_map", "segments")]
    result = client.infer("tiny", [tensor(posted)], outputs=outputs)
    (id_map,) = result.as_numpy("id_map")
    assert (id_map.shape, id_map.dtype) == ((50, 40), np.int32)
    if is_binary:
        (answer,) = answers_of(result)
    else:
        answer = json.loads(result.get_response()["outputs"][1]["data"][0])
    assert "png" not in answer
    for segment, value in zip(answer["segments"], (7, 3, 12), strict=True):
        np.testing.assert_array_equal(id_map == segment["id"], scene[..., 0] == value)


def test_id_map_may_be_as_long_as_the_settings_allow(repository, png):
    with background(Settings(repository=repository, port=0, max_side=40_000)) as url:
        wait_ready(url)
        with triton.InferenceServerClient(url.removeprefix("http://"), network_timeout=120) as client:
            image = png(np.full((1, 33_000, 3), 12, np.uint8))
            result = client.infer("tiny", [tensor(image)], outputs=[triton.InferRequestedOutput("id_map")])
    (id_map,) = result.as_numpy("id_map")
    np.testing.assert_array_equal(id_map, np.ones((1, 33_000)))


def test_images_in_json_are_base64(http, posted):
    body = v2_json(base64.b64encode(posted).decode(), id="7")
    response = http.post(INFER, json=body)
    assert response.headers["content-type"] == "application/json"
    assert LENGTH not in response.headers
    answer = response.json()
    assert answer["id"] == "7"
    (output,) = answer["outputs"]
    assert (output["name"], output["datatype"], output["shape"]) == ("segments", "BYTES", [1])
    assert json.loads(output["data"][0])["segments"] == by_v1(http, posted)["segments"]


def test_one_bad_image_of_several_has_a_problem_in_its_place(client, posted):
    first, second = answers_of(client.infer("tiny", [tensor(posted, b"no image")]))
    assert len(first["segments"]) == 3
    assert (second["status"], second["type"]) == (415, "urn:knet:problem:unsupported-image")


@pytest.mark.parametrize(
    ("change", "status", "words"),
    [
        ({"model_name": "cats"}, "404", "there is no model cats"),
        ({"model_version": "3"}, "404", "no version 3"),
        ({"inputs": [b"no image"]}, "415", "Image format not supported"),
        ({"parameters": {"task": "dance"}}, "422", "task"),
        ({"parameters": {"colour": "red"}}, "422", "binary_data_output, task, format"),
        ({"parameters": {"categories": "cats"}}, "422", "unknown categories cats"),
        ({"outputs": [triton.InferRequestedOutput("masks")]}, "400", "outputs.0.name"),
        ({"outputs": [triton.InferRequestedOutput("segments", class_count=3)]}, "400", "classification"),
        ({"outputs": [triton.InferRequestedOutput("id_map")], "inputs": [b"a", b"b"]}, "422", "of one image"),
        ({"outputs": [triton.InferRequestedOutput("id_map")], "parameters": {"format": "rle"}}, "422", "exclude"),
        ({"sequence_id": 5}, "422", "sequence_id"),
        ({"request_compression_algorithm": "gzip"}, "415", "Content-Encoding"),
    ],
)
def test_refusals_have_the_protocols_form(client, posted, change, status, words):
    arguments = {"model_name": "tiny", **change}
    arguments["inputs"] = [tensor(*change.get("inputs", [posted]))]
    with pytest.raises(InferenceServerException, match=words) as caught:
        client.infer(**arguments)
    assert caught.value.status() == status


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"inputs": []}, "inputs"),
        ({"inputs": [{"name": "pixels", "shape": [1], "datatype": "BYTES", "data": [""]}]}, "'image'"),
        ({"inputs": [{"name": "image", "shape": [1], "datatype": "UINT8", "data": [""]}]}, "'BYTES'"),
        ({"inputs": [{"name": "image", "shape": [1, 1], "datatype": "BYTES", "data": [""]}]}, "shape"),
        ({"inputs": [{"name": "image", "shape": [2], "datatype": "BYTES", "data": [""]}]}, "2 elements"),
        ({"inputs": [{"name": "image", "shape": [1], "datatype": "BYTES"}]}, "either"),
        ({"inputs": [{"name": "image", "shape": [1], "datatype": "BYTES", "data": [7]}]}, "string"),
        ({"inputs": "image"}, "inputs"),
        ({"surprise": 1}, "surprise"),
        ({"parameters": {"binary_data_output": "yes"}}, "binary_data_output"),
        ({"parameters": {"task": {"deep": 1}}}, "parameters"),
    ],
)
def test_malformed_json_is_told(http, changes, words):
    response = http.post(INFER, json=v2_json("") | changes)
    assert response.status_code in (400, 422), response.text
    assert list(response.json()) == ["error"]
    assert words in response.json()["error"]


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"7", b"\xff", b"{" * 100_000, b'{"inputs":' + b"[" * 100_000])
def test_what_is_no_request_is_told(http, content):
    response = http.post(INFER, content=content)
    assert response.status_code == 400
    assert list(response.json()) == ["error"]


def binary_body(data: bytes, *, shape: int = 1, size: int | None = None) -> tuple[bytes, int]:
    parameters = {"binary_data_size": len(data) if size is None else size}
    inputs = [{"name": "image", "shape": [shape], "datatype": "BYTES", "parameters": parameters}]
    text = json.dumps({"inputs": inputs}).encode()
    return text + data, len(text)


HOSTILE = {
    "length beyond the buffer": (binary_body(struct.pack("<I", 2**32 - 1) + b"xx"), None),
    "length cut off": (binary_body(b"\x01\x00"), None),
    "fewer elements": (binary_body(struct.pack("<I", 1) + b"x", shape=2), None),
    "more elements": (binary_body(struct.pack("<I", 0) * 5), None),
    "a huge count": (binary_body(struct.pack("<I", 0), shape=10**12), None),
    "a negative count": (binary_body(b"", shape=-1), None),
    "no images": (binary_body(b"", shape=0), None),
    "a huge size": (binary_body(b"", size=2**62), None),
    "a negative size": (binary_body(b"", size=-1), None),
    "a header beyond the body": (binary_body(b""), "999999999999"),
    "a header of 5000 digits": (binary_body(b""), "9" * 5000),
    "a negative header": (binary_body(b""), "-1"),
    "a header of letters": (binary_body(b""), "many"),
    "a header of zero": (binary_body(b""), "0"),
    "a header inside the JSON": (binary_body(b""), "5"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_lengths_are_told(http, case):
    (body, length), header = HOSTILE[case]
    response = http.post(INFER, content=body, headers={LENGTH: header or str(length)})
    assert response.status_code in (400, 422), response.text
    assert list(response.json()) == ["error"]


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_lengths_take_no_memory(case):
    (body, length), header = HOSTILE[case]
    gc.collect()
    tracemalloc.start()
    with pytest.raises(RequestError):
        read_request(body, header or str(length), max_images=16)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2**20


MANY = b'{"inputs": [{"data": [' + b"[]," * 1_000_000 + b"[]]}]}"


def test_many_small_values_are_refused_before_they_are_read(http):
    for route in (INFER, ROUTE):
        response = http.post(route, content=MANY, headers={"Content-Type": "application/json"})
        assert response.status_code == 400
        assert "10,000 values" in response.text
    tracemalloc.start()
    with pytest.raises(RequestError):
        read_request(MANY, None, max_images=16)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2 * len(MANY)


def test_unknown_routes_have_the_protocols_form(http):
    for response in (http.get("/v2/nothing"), http.get(INFER), http.get("/v2/models/cats")):
        assert response.status_code in (404, 405)
        assert list(response.json()) == ["error"]
    assert http.get("/v20").headers["content-type"] == "application/problem+json"


def test_keys_are_asked_for_except_for_health(repository):
    key = "k" * 20
    with (
        background(Settings(repository=repository, port=0, api_keys=(key,))) as url,
        httpx.Client(base_url=url) as http,
    ):
        with KNetClient(url, api_key=key) as client:
            client.wait_ready(60)
        assert http.get("/v2/health/live").json() == {"live": True}
        assert http.get("/v2/health/ready").json() == {"ready": True}
        refused = http.get("/v2/models/tiny")
        assert refused.status_code == 401
        assert list(refused.json()) == ["error"]
        assert http.get("/v2", headers={"Authorization": f"Bearer {key}"}).json()["name"] == "knet-serve"
