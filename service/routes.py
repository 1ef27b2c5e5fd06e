"""The routes: `segment`, `models`, and `root` with health."""

from typing import Annotated

import orjson
from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from service import logs
from service.answer_all import answer_all, make_ticket
from service.bodies import read_body
from service.context import Context, ContextDep
from service.errors import EngineDownError, InvalidParameterError, ServiceError
from service.openapi import HEALTH_DOCS, MODEL_DOCS, MODELS_DOCS, READY_DOCS, SEGMENT_DOCS
from service.pipeline import Payload
from service.problems import problem
from service.schemas import Health, ModelDetail, ModelList, SegmentQuery
from service.wishes import read_wish

SegmentQueryDep = Annotated[SegmentQuery, Query()]

segment = APIRouter()
models = APIRouter(prefix="/v1/models", tags=["models"])
root = APIRouter()


@segment.post("/v1/models/{name}/segment", operation_id="segment", summary="Segment images", **SEGMENT_DOCS)
async def segment_newest(name: str, query: SegmentQueryDep, request: Request, context: ContextDep) -> Response:
    """Segment one image or several with the newest version of a model."""
    with context.admission.request():
        return await _segment(name, None, query, request, context)


@segment.post(
    "/v1/models/{name}/versions/{version}/segment",
    operation_id="segment_with_version",
    summary="Segment images with one version",
    **SEGMENT_DOCS,
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
    context.admission.check_ready(early := context.models.find(name, version))
    wish = read_wish(query, accept, early.metadata)
    body = await read_body(
        request,
        max_images=context.settings.max_images,
        threads=context.pipeline.threads,
        fetcher=context.fetcher,
    )
    ticket = make_ticket(context, query.timeout_ms)
    with context.models.lease(name, version) as model:
        logs.model.set(model.label)
        if model is not early:
            wish = read_wish(query, accept, model.metadata)
        if body.is_list and wish.picture_only:
            raise InvalidParameterError(
                "Accept: image/png gives one picture; post one image, or accept application/json"
            )
        results = await answer_all(body.images, model, wish, ticket, request, context)
    if body.is_list:
        parts = [result.content if isinstance(result, Payload) else _problem(result, request) for result in results]
        return Response(b'{"results":[' + b",".join(parts) + b"]}", media_type="application/json")
    (result,) = results
    if isinstance(result, ServiceError):
        raise result
    return Response(result.content, media_type=result.media_type)


def _problem(error: ServiceError, request: Request) -> bytes:
    return orjson.dumps(problem(error, request.scope))


@models.get("", operation_id="list_models", **MODELS_DOCS)
async def list_models(context: ContextDep) -> ModelList:
    """All models of this server."""
    return ModelList(models=context.models.summaries())


@models.get("/{name}", operation_id="get_model", **MODEL_DOCS)
async def get_model(name: str, context: ContextDep) -> ModelDetail:
    """One model: its versions, categories, geometry and thresholds."""
    return context.models.detail(name)


@root.head("/healthz", include_in_schema=False)  # which some monitors ask
@root.get("/healthz", operation_id="health", **HEALTH_DOCS)
async def health() -> Health:
    """Whether the server runs at all."""
    return Health(status="ok")


@root.head("/readyz", include_in_schema=False)
@root.get("/readyz", operation_id="ready", **READY_DOCS)
async def ready(context: ContextDep) -> Health:
    """Whether every model is loaded, warmed up and alive, and the server is not about to stop."""
    if waiting := context.not_ready():
        raise EngineDownError("; ".join(waiting))
    return Health(status="ready")
