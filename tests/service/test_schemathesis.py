"""Requests made from the API's documentation: what the server answers is what the documentation says.

The tool draws legal and illegal requests. Most are made to name a model that is there, and most legal ones to post a
real image, as drawn ones hardly ever would.
"""

import base64

import hypothesis
import pytest
import schemathesis
import torch
from hypothesis import strategies as st
from schemathesis import GenerationMode
from schemathesis.specs.openapi.checks import negative_data_rejection, positive_data_acceptance

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


@pytest.fixture(autouse=True)
def _subnormal_numbers() -> None:
    """Drawn numbers need them, and a training that another test ran in this thread has turned them off."""
    torch.set_flush_denormal(False)


@pytest.mark.parametrize(("operation_id", "mode"), CASES)
def test_answers_are_as_documented(schema, server, scene, png, operation_id, mode):
    operation = schema.find_operation_by_id(operation_id)
    image = png(scene)

    @hypothesis.settings(max_examples=15, derandomize=True, deadline=None, database=None,
                         suppress_health_check=list(hypothesis.HealthCheck))  # fmt: skip
    @hypothesis.given(case=operation.as_strategy(generation_mode=mode), real=st.integers(0, 3))
    def ask(case, real):
        if real:
            name_real(case)
        if real and mode == GenerationMode.POSITIVE:
            post_real(case, image)
        # Bytes that are no image are legal in the documentation, and so are names of models that are not there. Of a
        # legal case that was changed, the check of illegal ones knows nothing.
        excluded = [positive_data_acceptance]
        if mode == GenerationMode.POSITIVE:
            excluded.append(negative_data_rejection)
        case.call_and_validate(base_url=server, excluded_checks=excluded, timeout=60)

    ask()


def name_real(case) -> None:
    """Name a model and version that are there."""
    for name, value in (("name", "tiny"), ("version", "2")):
        if name in case.path_parameters:
            case.path_parameters[name] = value


def post_real(case, image: bytes) -> None:
    """Post an image in the form that was drawn; forms stay as they are."""
    text = base64.b64encode(image).decode()
    if case.media_type == "application/json" and "/infer" in case.path:
        case.body = {"inputs": [{"name": "image", "shape": [1], "datatype": "BYTES", "data": [text]}]}
        case.headers.pop("Inference-Header-Content-Length", None)
    elif case.media_type == "application/json":
        case.body = {"image": text}
    elif case.media_type and case.media_type != "multipart/form-data" and "/infer" not in case.path:
        case.body = image
