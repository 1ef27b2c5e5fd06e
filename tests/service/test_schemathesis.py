"""Requests made from the API's documentation: what the server answers is what the documentation says.

The tool draws legal and illegal requests. Half of the legal ones name a model that is there and post a real image, as
drawn ones hardly ever would.
"""

import base64

import hypothesis
import pytest
import schemathesis
from hypothesis import strategies as st
from schemathesis import GenerationMode
from schemathesis.specs.openapi.checks import positive_data_acceptance

POSTS = ["segment", "segment_with_version", "v2_infer", "v2_infer_with_version"]
GETS = [
    "list_models", "get_model", "health", "ready", "v2_server", "v2_live", "v2_ready", "v2_model", "v2_model_version",
    "v2_model_ready", "v2_model_version_ready",
]  # fmt: skip
CASES = [
    *((name, GenerationMode.POSITIVE) for name in POSTS + GETS),
    *((name, GenerationMode.NEGATIVE) for name in POSTS),  # nothing of the others can be illegal
]


@pytest.fixture(scope="module")
def schema(server):
    return schemathesis.openapi.from_url(f"{server}/openapi.json")


@pytest.mark.parametrize(("operation_id", "mode"), CASES)
def test_answers_are_as_documented(schema, server, scene, png, operation_id, mode):
    operation = schema.find_operation_by_id(operation_id)
    image = png(scene)

    @hypothesis.settings(max_examples=25, derandomize=True, deadline=None, database=None,
                         suppress_health_check=list(hypothesis.HealthCheck))  # fmt: skip
    @hypothesis.given(case=operation.as_strategy(generation_mode=mode), is_real=st.booleans())
    def ask(case, is_real):
        if mode == GenerationMode.POSITIVE and is_real:
            make_real(case, image)
        # Bytes that are no image are legal in the documentation, and so are names of models that are not there.
        case.call_and_validate(base_url=server, excluded_checks=[positive_data_acceptance], timeout=60)

    ask()


def make_real(case, image: bytes) -> None:
    """Name a model and version that are there, and post an image in the form that was drawn."""
    if "name" in case.path_parameters:
        case.path_parameters["name"] = "tiny"
    if "version" in case.path_parameters:
        case.path_parameters["version"] = "2"
    text = base64.b64encode(image).decode()
    if case.media_type == "application/json" and "/infer" in case.path:
        case.body = {"inputs": [{"name": "image", "shape": [1], "datatype": "BYTES", "data": [text]}]}
        case.headers.pop("Inference-Header-Content-Length", None)
    elif case.media_type == "application/json":
        case.body = {"image": text}
    elif case.media_type == "application/octet-stream":
        case.body = image
