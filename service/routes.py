"""The routes: `segment`, `models`, and `root` with health and the page to try it in."""

import asyncio
from collections.abc import Coroutine, Sequence
from functools import cache
from importlib import resources
from typing import Annotated, Any

import orjson
from fastapi import APIRouter, Query, Request
from starlette.responses import HTMLResponse, Response

from service import logs
from service.answers import Wish, read_wish
from service.attend import attend
from service.bodies import read_body
from service.context import Context, ContextDep
from service.errors import DrainingError, EngineDownError, InvalidParameterError, RequestError, ServiceError
from service.model import Model, check_ready
from service.pipeline import Payload
from service.problems import problem
from service.schemas import Answer, Answers, Health, ModelDetail, ModelList, Problem, SegmentQuery
from service.ticket import Ticket

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
    503: {"model": Problem, "description": "Queue full, model not ready, or server stopping; see Retry-After"},
    504: {"model": Problem, "description": "No answer within the request's deadline"},
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
    with context.admission.request():
        return await _segment(name, None, query, request, context)


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
    with context.admission.request():
        return await _segment(name, version, query, request, context)


async def _segment(name: str, version: str | None, query: SegmentQuery, request: Request, context: Context) -> Response:
    accept = request.headers.get("accept", "")
    # What can be refused is refused before the body is read; by then the model may be another.
    check_ready(early := context.models.find(name, version))
    read_wish(query, accept, early.metadata)
    body = await read_body(request, max_images=context.settings.max_images, threads=context.pipeline.threads)
    ticket = Ticket(_seconds(query, context))
    with context.models.lease(name, version) as model:
        logs.model.set(model.label)
        wish = read_wish(query, accept, model.metadata)
        if body.is_list and wish.picture_only:
            raise InvalidParameterError(
                "Accept: image/png gives one picture; post one image, or accept application/json"
            )
        with context.admission.images(len(body.images), model, ticket):
            answers = [_answer(data, model, wish, ticket, context) for data in body.images]
            if not body.is_list:
                payload = await attend(request, ticket, answers[0])
                return Response(payload.content, media_type=payload.media_type)
            results = await attend(request, ticket, _gather(answers))
    parts = [_content_or_problem(result, request) for result in results]
    return Response(b'{"results":[' + b",".join(parts) + b"]}", media_type="application/json")


def _seconds(query: SegmentQuery, context: Context) -> float:
    """Until the request's deadline."""
    limit = context.settings.request_timeout_s
    return limit if query.timeout_ms is None else min(limit, query.timeout_ms / 1000)


async def _gather(answers: Sequence[Coroutine[Any, Any, Payload]]) -> list[Payload | BaseException]:
    return await asyncio.gather(*answers, return_exceptions=True)


async def _answer(data: bytes | RequestError, model: Model, wish: Wish, ticket: Ticket, context: Context) -> Payload:
    if isinstance(data, RequestError):
        raise data
    return await context.pipeline.answer(data, model, wish, ticket)


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
    """Whether every model is loaded, warmed up and alive, and the server is not about to stop."""
    if not context.admission.is_ready:
        raise DrainingError("this server is about to stop")
    if waiting := context.models.not_ready():
        raise EngineDownError("; ".join(waiting))
    return Health(status="ready")


@root.get("/", include_in_schema=False)
async def page() -> HTMLResponse:
    """A page to try it in."""
    policy = (
        "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src blob:; connect-src 'self'"
    )
    return HTMLResponse(_page(), headers={"Content-Security-Policy": policy})


@cache
def _page() -> str:
    return resources.files("service").joinpath("page.html").read_text(encoding="utf-8")
