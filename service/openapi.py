"""What the API's documentation tells beside the schemas: bodies, errors, tags, keys, and examples.

The examples are real: `examples.json` holds what a server answered, and a test asks again and compares.
"""

import json
from functools import cache
from importlib import resources
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from service.keys import OPEN_PATHS
from service.open_inference_wire import HEADER_LENGTH, InferAnswer, InferRequest
from service.problems import MEDIA_TYPE
from service.schemas import Answer, Answers, HuggingFaceSegment

TAGS = [
    {"name": "segment", "description": "Masks for images."},
    {"name": "models", "description": "What is served."},
    {"name": "model control", "description": "Models that come and go while the server runs; for administrators."},
    {"name": "health", "description": "For load balancers and orchestrators; no key is needed."},
    {"name": "open inference", "description": "The Open Inference Protocol v2, for clients of KServe and Triton."},
]
_ERROR_NAMES = {
    400: "Malformed request",
    401: "API key missing or unknown",
    403: "The key may not do this",
    404: "No such model or version",
    406: "`Accept` takes no form that the answer has",
    409: "Not as things stand",
    413: "Too many bytes or pixels",
    415: "Not an image, or not of a format taken",
    422: "Invalid parameter, or an image that cannot be decoded",
    429: "This client alone has as many images waiting as one may have; see Retry-After",
    500: "The server failed; its log says more under the request id",
    503: "Queue full, model not ready, or server stopping; see Retry-After",
    504: "Not done in the time that the request or the server allows",
}
_BINARY = {"schema": {"type": "string", "format": "binary"}}
_BASE64 = {"type": "string", "contentEncoding": "base64"}


@cache
def examples() -> dict[str, Any]:
    """Requests and answers, by name."""
    text = resources.files("service").joinpath("examples.json").read_text(encoding="utf-8")
    result: dict[str, Any] = json.loads(text)
    return result


def _errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Problems of these kinds, with those of every route."""
    return {
        status: {
            "description": _ERROR_NAMES[status],
            "content": {MEDIA_TYPE: _with_example("Problem", f"problem_{status}")},
        }
        for status in sorted({*statuses, 500})
    }


def _v2_errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Errors in the form of the Open Inference Protocol."""
    error = {"type": "object", "required": ["error"], "properties": {"error": {"type": "string"}}}
    return {
        status: {"description": _ERROR_NAMES[status], "content": {"application/json": {"schema": error}}}
        for status in sorted({*statuses, 500})
    }


def _with_example(schema: str, name: str) -> dict[str, Any]:
    content: dict[str, Any] = {"schema": {"$ref": f"#/components/schemas/{schema}"}}
    return content | ({"example": examples()[name]} if name in examples() else {})


def _named(*names: str) -> dict[str, Any]:
    return {name: {"value": examples()[name]} for name in names}


def _request_body() -> dict[str, Any]:
    image = {"type": "object", "required": ["image"], "properties": {"image": _BASE64}, "additionalProperties": False}
    images = {"type": "array", "minItems": 1, "items": _BASE64}
    several = {
        "type": "object",
        "required": ["images"],
        "properties": {"images": images},
        "additionalProperties": False,
    }
    form = {"type": "array", "minItems": 1, "items": _BINARY["schema"]}
    return {
        "required": True,
        "description": "One image, or several: JPEG, PNG, WebP, TIFF (first page) or BMP. With `KNET_URL_HOSTS` "
        '{"url": ...} and {"urls": [...]}, too.',
        "content": {
            "image/*": _BINARY,
            "application/octet-stream": _BINARY,
            "multipart/form-data": {"schema": {"type": "object", "required": ["image"], "properties": {"image": form}}},
            "application/json": {
                "schema": {"oneOf": [image, several]},
                "examples": _named("image_in_json", "images_in_json"),
            },
        },
    }


SEGMENT_DOCS: dict[str, Any] = {
    "tags": ["segment"],
    "responses": {
        200: {
            "model": Answer | list[HuggingFaceSegment] | Answers,
            "description": "The segments; a list of answers and problems for several images",
            "content": {
                "application/json": {"examples": _named("rle", "polygon", "png", "huggingface", "several_images")},
                "image/png": _BINARY,
            },
        },
        **_errors(400, 401, 404, 406, 413, 415, 422, 429, 503, 504),
    },
    "openapi_extra": {"requestBody": _request_body()},
}
MODELS_DOCS: dict[str, Any] = {
    "responses": {
        200: {"content": {"application/json": {"example": examples()["models"]}}},
        **_errors(401),
    }
}
MODEL_DOCS: dict[str, Any] = {
    "responses": {
        200: {"content": {"application/json": {"example": examples()["model"]}}},
        **_errors(401, 404, 422),
    }
}
CONTROL_ERRORS = _errors(401, 403, 404, 409, 422)
METRICS_DOCS: dict[str, Any] = {
    "tags": ["health"],
    "responses": {
        200: {"description": "The server's metrics", "content": {"text/plain": {"schema": {"type": "string"}}}},
        **_errors(401),
    },
}
HEALTH_DOCS: dict[str, Any] = {"tags": ["health"], "responses": _errors()}
READY_DOCS: dict[str, Any] = {"tags": ["health"], "responses": _errors(503)}
V2_ERRORS = _v2_errors(401, 404, 422, 503)
V2_INFER_DOCS: dict[str, Any] = {
    "responses": {
        200: {
            "model": InferAnswer,
            "description": "The answer; with binary tensors behind the JSON, whose length is the header "
            f"{HEADER_LENGTH}, it is application/octet-stream",
            "content": {
                "application/json": {"example": examples()["v2_answer"]},
                "application/octet-stream": _BINARY,
            },
        },
        **_v2_errors(400, 401, 404, 413, 415, 422, 429, 503, 504),
    },
    "openapi_extra": {
        "requestBody": {
            "required": True,
            "description": f"JSON, or JSON of {HEADER_LENGTH} bytes and binary tensors behind it.",
            "content": {
                "application/json": _with_example("InferRequest", "v2_request"),
                "application/octet-stream": _BINARY,
            },
        },
        "parameters": [
            {
                "name": HEADER_LENGTH,
                "in": "header",
                "required": False,
                "description": "bytes of JSON before the binary tensors; without it all is JSON",
                "schema": {"type": "integer", "minimum": 0},
            }
        ],
    },
}


def install(app: FastAPI) -> None:
    """Add keys and tags to the documentation of `app`."""

    @cache
    def describe() -> dict[str, Any]:
        document = get_openapi(
            title=app.title, version=app.version, description=app.description, routes=app.routes, tags=TAGS
        )
        key = {"type": "http", "scheme": "bearer", "description": "where the server has keys"}
        document["components"]["securitySchemes"] = {"key": key}
        # FastAPI reads this one from nowhere, as the route takes it apart itself.
        schema = InferRequest.model_json_schema(ref_template="#/components/schemas/{model}")
        document["components"]["schemas"] |= schema.pop("$defs") | {"InferRequest": schema}
        for path, operations in document["paths"].items():
            if path not in OPEN_PATHS:
                for operation in operations.values():
                    operation["security"] = [{"key": []}, {}]
        return document

    app.openapi = describe  # type: ignore[method-assign]
