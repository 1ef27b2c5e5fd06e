"""The routes: `segment`, `models`, and `root` with health."""

import asyncio
from typing import Annotated, Any

import orjson
from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from service.answers import Wish, read_wish
from service.bodies import read_body
from service.context import Context, ContextDep
from service.errors import EngineDownError, InvalidParameterError, RequestError, ServiceError
from service.models import Model
from service.pipeline import Payload
from service.problems import problem
from service.schemas import Answer, Answers, Health, ModelDetail, ModelList, Problem, SegmentQuery

_BINARY = {"schema": {"type": "string", "format": "binary"}}
_BASE64 = {"type": "string", "contentEncoding": "base64"}
_REQUEST_BODY = {
    "required": True,
    "description": "One image, or several: JPEG, PNG, WebP, TIFF (first page) or BMP.",
    "content": {
        "image/*": _BINARY,
        "application/octet-stream": _BINARY,
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "required": ["image"],
                "properties": {"image": {"type": "array", "items": _BINARY["schema"]}},
            }
        },
        "application/json": {
            "schema": {
                "oneOf": [
                    {"type": "object", "required": ["image"], "properties": {"image": _BASE64}},
                    {
                        "type": "object",
                        "required": ["images"],
                        "properties": {"images": {"type": "array", "minItems": 1, "items": _BASE64}},
                    },
                ]
            }
        },
    },
}
_ERRORS: dict[int | str, dict[str, Any]] = {
    400: {"model": Problem, "description": "Malformed request"},
    401: {"model": Problem, "description": "API key missing or unknown"},
    404: {"model": Problem, "description": "No such model or version"},
    413: {"model": Problem, "description": "Too many bytes or pixels"},
    415: {"model": Problem, "description": "Not an image, or not of a format taken"},
    422: {"model": Problem, "description": "Invalid parameter, or an image that cannot be decoded"},
    503: {"model": Problem, "description": "Queue full, or model not ready; see Retry-After"},
}
_SEGMENT_DOCS: dict[str, Any] = {
    "responses": {
        200: {
            "model": Answer | Answers,
            "description": "The segments; a list of answers and problems for several images",
            "content": {"image/png": _BINARY},
        },
        **_ERRORS,
    },
    "openapi_extra": {"requestBody": _REQUEST_BODY},
    "tags": ["segment"],
}
_MODEL_ERRORS: dict[int | str, dict[str, Any]] = {code: _ERRORS[code] for code in (401, 404)}

SegmentQueryDep = Annotated[SegmentQuery, Query()]

segment = APIRouter()
models = APIRouter(prefix="/v1/models", tags=["models"])
root = APIRouter()


@segment.post("/v1/models/{name}/segment", operation_id="segment", summary="Segment images", **_SEGMENT_DOCS)
async def segment_newest(name: str, query: SegmentQueryDep, request: Request, context: ContextDep) -> Response:
    """Segment one image or several with the newest version of a model."""
    return await _segment(context.models.find(name), query, request, context)


@segment.post(
    "/v1/models/{name}/versions/{version}/segment",
    operation_id="segment_with_version",
    summary="Segment images with one version",
    **_SEGMENT_DOCS,
)
async def segment_version(
    name: str, version: str, query: SegmentQueryDep, request: Request, context: ContextDep
) -> Response:
    """Segment one image or several with a named version of a model."""
    return await _segment(context.models.find(name, version), query, request, context)


async def _segment(model: Model, query: SegmentQuery, request: Request, context: Context) -> Response:
    wish = read_wish(query, request.headers.get("accept", ""), model.metadata)
    if not model.engine.is_ready:
        raise EngineDownError(f"model {model.engine.label} {model.engine.state}")
    body = await read_body(request, max_images=context.settings.max_images, threads=context.pipeline.threads)
    if body.is_list and wish.picture_only:
        raise InvalidParameterError("Accept: image/png gives one picture; post one image, or accept application/json")
    with context.pipeline.places(len(body.images)):
        answers = [_answer(data, model, wish, context) for data in body.images]
        if not body.is_list:
            payload = await answers[0]
            return Response(payload.content, media_type=payload.media_type)
        results = await asyncio.gather(*answers, return_exceptions=True)
    parts = [_content_or_problem(result, request) for result in results]
    return Response(b'{"results":[' + b",".join(parts) + b"]}", media_type="application/json")


async def _answer(data: bytes | RequestError, model: Model, wish: Wish, context: Context) -> Payload:
    if isinstance(data, RequestError):
        raise data
    return await context.pipeline.answer(data, model, wish)


def _content_or_problem(result: Payload | BaseException, request: Request) -> bytes:
    """One of several results: an error of one image is its own affair."""
    if isinstance(result, Payload):
        return result.content
    if isinstance(result, ServiceError):
        return orjson.dumps(problem(result, request.scope))
    raise result


@models.get("", operation_id="list_models", responses={401: _ERRORS[401]})
async def list_models(context: ContextDep) -> ModelList:
    """All models of this server."""
    return ModelList(models=context.models.summaries())


@models.get("/{name}", operation_id="get_model", responses=_MODEL_ERRORS)
async def get_model(name: str, context: ContextDep) -> ModelDetail:
    """One model: its versions, categories, geometry and thresholds."""
    return context.models.detail(name)


@root.get("/healthz", operation_id="health", tags=["health"])
async def health() -> Health:
    """Whether the server runs at all."""
    return Health(status="ok")


@root.get("/readyz", operation_id="ready", tags=["health"], responses={503: _ERRORS[503]})
async def ready(context: ContextDep) -> Health:
    """Whether every model is loaded, warmed up and alive."""
    if waiting := context.models.not_ready():
        raise EngineDownError("; ".join(waiting))
    return Health(status="ready")
