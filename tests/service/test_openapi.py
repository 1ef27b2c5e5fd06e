"""The API's documentation: stable names, errors and real examples; and whether the server does what it says."""

import base64
import io
import json
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image

from knet.client import KNetClient
from service.server import background
from service.settings import Settings

OPERATION_IDS = {
    "segment": "POST /v1/models/{name}/segment",
    "segment_with_version": "POST /v1/models/{name}/versions/{version}/segment",
    "list_models": "GET /v1/models",
    "get_model": "GET /v1/models/{name}",
    "reload_models": "POST /v1/models/reload",
    "load_model": "POST /v1/models/{name}/versions/{version}/load",
    "unload_model": "POST /v1/models/{name}/versions/{version}/unload",
    "metrics": "GET /metrics",
    "health": "GET /healthz",
    "ready": "GET /readyz",
    "v2_server": "GET /v2",
    "v2_live": "GET /v2/health/live",
    "v2_ready": "GET /v2/health/ready",
    "v2_model": "GET /v2/models/{name}",
    "v2_model_version": "GET /v2/models/{name}/versions/{version}",
    "v2_model_ready": "GET /v2/models/{name}/ready",
    "v2_model_version_ready": "GET /v2/models/{name}/versions/{version}/ready",
    "v2_infer": "POST /v2/models/{name}/infer",
    "v2_infer_with_version": "POST /v2/models/{name}/versions/{version}/infer",
}


@pytest.fixture(scope="module")
def example_calls(load_module):
    return load_module(Path(__file__).with_name("example_calls.py"))


@pytest.fixture(scope="module")
def http(tiny, tmp_path_factory) -> Iterator[httpx.Client]:
    """Of a server with one version, as the examples are made with."""
    folder = tmp_path_factory.mktemp("examples")
    tiny.write_artifact(folder, version="1")
    with background(Settings(repository=folder, port=0)) as url, KNetClient(url) as client:
        client.wait_ready(60)
        with httpx.Client(base_url=url, timeout=30) as http:
            yield http


@pytest.fixture(scope="module")
def document(http) -> dict:
    return http.get("/openapi.json").json()


def operations(document: dict) -> Iterator[tuple[str, dict]]:
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            yield f"{method.upper()} {path}", operation


def test_operation_ids_are_as_they_were(document):
    """Clients are generated from them: none changes or goes; new ones are added here."""
    assert {operation["operationId"]: route for route, operation in operations(document)} == OPERATION_IDS


def test_every_operation_has_a_tag_a_summary_and_errors(document):
    tags = {tag["name"] for tag in document["tags"]}
    for route, operation in operations(document):
        assert set(operation["tags"]) <= tags, route
        assert operation["summary"], route
        errors = {status: response for status, response in operation["responses"].items() if status >= "400"}
        assert "500" in errors, route
        for status, response in errors.items():
            ((media_type, content),) = response["content"].items()
            if route.split(" ")[1].startswith("/v2"):
                assert (media_type, content["schema"]["required"]) == ("application/json", ["error"]), (route, status)
            else:
                assert media_type == "application/problem+json", (route, status)
                assert content["schema"] == {"$ref": "#/components/schemas/Problem"}, (route, status)


def test_keys_are_for_all_but_health(document):
    open_paths = {path for path, methods in document["paths"].items() if "security" not in next(iter(methods.values()))}
    assert open_paths == {"/healthz", "/readyz", "/v2/health/live", "/v2/health/ready"}
    assert document["components"]["securitySchemes"]["key"]["scheme"] == "bearer"


def test_every_reference_is_there(document):
    text = json.dumps(document)
    for reference in {part.split('"')[0] for part in text.split('"$ref": "#/')[1:]}:
        node = document
        for step in reference.split("/"):
            assert step in node, reference
            node = node[step]


def test_examples_are_what_the_server_answers(http, example_calls):
    """After a wanted change, `python tests/service/example_calls.py` writes them anew."""
    written = json.loads(example_calls.FILE.read_text())
    image = base64.b64decode(written["image_in_json"]["image"])
    now = example_calls.picture()
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(image))), np.asarray(Image.open(io.BytesIO(now))))
    assert example_calls.collect(http, image) == written


def test_examples_are_in_the_documentation(document, example_calls):
    written = json.loads(example_calls.FILE.read_text())
    post = document["paths"]["/v1/models/{name}/segment"]["post"]
    shown = post["responses"]["200"]["content"]["application/json"]["examples"]
    assert shown["polygon"]["value"] == written["polygon"]
    assert post["responses"]["406"]["content"]["application/problem+json"]["example"] == written["problem_406"]
