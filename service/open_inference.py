"""The routes of the Open Inference Protocol v2, for clients of KServe and Triton."""

import base64

import numpy as np
import orjson
from fastapi import APIRouter, Request
from numpy.typing import NDArray
from pydantic import BaseModel
from starlette.responses import Response

from service import logs
from service.accept import JSON
from service.answer_all import answer_all, make_ticket
from service.context import Context, ContextDep
from service.errors import EngineDownError, InvalidParameterError, ServiceError, UnsupportedBodyError
from service.image import decode
from service.model import Model, check_ready
from service.open_inference_wire import HEADER_LENGTH, INPUT, Inference, read_request, write_answer
from service.openapi import V2_ERRORS, V2_INFER_DOCS
from service.pipeline import Payload
from service.problems import problem
from service.schemas import SegmentQuery
from service.settings import Settings
from service.wishes import read_wish

router = APIRouter(prefix="/v2", tags=["open inference"])


class ServerMetadata(BaseModel):
    """The server."""

    name: str
    version: str
    extensions: list[str]


class Live(BaseModel):
    """Whether the server runs."""

    live: bool


class Ready(BaseModel):
    """Whether all models answer."""

    ready: bool


class ModelReady(BaseModel):
    """Whether a model answers."""

    name: str
    ready: bool


class TensorMetadata(BaseModel):
    """A tensor; -1 is a size that varies."""

    name: str
    datatype: str
    shape: list[int]


class ModelMetadata(BaseModel):
    """A model and its tensors."""

    name: str
    versions: list[str]
    platform: str
    inputs: list[TensorMetadata]
    outputs: list[TensorMetadata]


@router.get("", operation_id="v2_server", responses=V2_ERRORS)
async def server_metadata(request: Request) -> ServerMetadata:
    """Name, version and extensions of the server."""
    return ServerMetadata(name="knet-serve", version=request.app.version, extensions=["binary_tensor_data"])


@router.get("/health/live", operation_id="v2_live", responses=V2_ERRORS)
async def live() -> Live:
    """Whether the server runs at all."""
    return Live(live=True)


@router.get("/health/ready", operation_id="v2_ready", responses=V2_ERRORS)
async def ready(context: ContextDep) -> Ready:
    """Whether every model is loaded, warmed up and alive."""
    if waiting := context.not_ready():
        raise EngineDownError("; ".join(waiting))
    return Ready(ready=True)


@router.get("/models/{name}", operation_id="v2_model", responses=V2_ERRORS)
async def model_metadata(name: str, context: ContextDep) -> ModelMetadata:
    """Versions, inputs and outputs of a model."""
    return _metadata(context.models.find(name), context)


@router.get("/models/{name}/versions/{version}", operation_id="v2_model_version", responses=V2_ERRORS)
async def version_metadata(name: str, version: str, context: ContextDep) -> ModelMetadata:
    """Versions, inputs and outputs of a model of which that version is there."""
    return _metadata(context.models.find(name, version), context)


@router.get("/models/{name}/ready", operation_id="v2_model_ready", responses=V2_ERRORS)
async def model_ready(name: str, context: ContextDep) -> ModelReady:
    """Whether the newest version of a model answers."""
    return _readiness(context.models.find(name))


@router.get("/models/{name}/versions/{version}/ready", operation_id="v2_model_version_ready", responses=V2_ERRORS)
async def version_ready(name: str, version: str, context: ContextDep) -> ModelReady:
    """Whether a version of a model answers."""
    return _readiness(context.models.find(name, version))


@router.post("/models/{name}/infer", operation_id="v2_infer", **V2_INFER_DOCS)
async def infer(name: str, request: Request, context: ContextDep) -> Response:
    """Segment images with the newest version of a model."""
    with context.admission.request():
        return await _infer(name, None, request, context)


@router.post("/models/{name}/versions/{version}/infer", operation_id="v2_infer_with_version", **V2_INFER_DOCS)
async def infer_version(name: str, version: str, request: Request, context: ContextDep) -> Response:
    """Segment images with a named version of a model."""
    with context.admission.request():
        return await _infer(name, version, request, context)


def _metadata(model: Model, context: Context) -> ModelMetadata:
    name = model.metadata.name
    outputs = [TensorMetadata(name="segments", datatype="BYTES", shape=[-1])]
    if model.metadata.kind != "instance":
        outputs.append(TensorMetadata(name="id_map", datatype="INT32", shape=[1, -1, -1]))
    return ModelMetadata(
        name=name,
        versions=[version.version for version in context.models.detail(name).versions],
        platform="knet",
        inputs=[TensorMetadata(name=INPUT, datatype="BYTES", shape=[-1])],
        outputs=outputs,
    )


def _readiness(model: Model) -> ModelReady:
    check_ready(model)
    return ModelReady(name=model.metadata.name, ready=True)


async def _infer(name: str, version: str | None, request: Request, context: Context) -> Response:
    context.admission.check_ready(context.models.find(name, version))
    encoding = request.headers.get("content-encoding", "identity")
    if encoding != "identity":
        raise UnsupportedBodyError(f"Content-Encoding {encoding[:40]} is not taken; send the body as it is")
    inference = await context.pipeline.threads.run(
        read_request,
        await request.body(),
        request.headers.get(HEADER_LENGTH),
        max_images=context.settings.max_images,
    )
    query = _query(inference)
    ticket = make_ticket(context, query.timeout_ms)
    with context.models.lease(name, version) as model:
        logs.model.set(model.label)
        wish = read_wish(query, JSON, model.metadata)
        results = await answer_all(inference.images, model, wish, ticket, request, context)
    if len(results) == 1 and isinstance(results[0], ServiceError):
        raise results[0]
    segments = [
        result.content if isinstance(result, Payload) else orjson.dumps(problem(result, request.scope))
        for result in results
    ]
    content, json_length = await context.pipeline.threads.run(_write, inference, model, segments, context.settings)
    headers = {} if json_length is None else {HEADER_LENGTH: str(json_length)}
    return Response(content, headers=headers, media_type=JSON if json_length is None else "application/octet-stream")


def _query(inference: Inference) -> SegmentQuery:
    """The query, with the format that holds an id-map where one is asked for."""
    if "id_map" not in inference.outputs:
        return inference.query
    if len(inference.images) > 1:
        raise InvalidParameterError(f"output id_map is of one image, not of {len(inference.images)}")
    if inference.query.format not in (None, "png"):
        raise InvalidParameterError(
            f"output id_map and format {inference.query.format} exclude each other; ask for one"
        )
    return inference.query.model_copy(update={"format": "png"})


def _write(inference: Inference, model: Model, segments: list[bytes], settings: Settings) -> tuple[bytes, int | None]:
    """Body of the answer, and the length of its JSON where binary data follow it."""
    id_map: NDArray[np.int32] | None = None
    if "id_map" in inference.outputs:
        answer = orjson.loads(segments[0])
        png = base64.b64decode(answer.pop("png"))
        picture = decode(png, max_pixels=settings.max_pixels, max_side=settings.max_side)
        id_map = picture.astype(np.int32) @ np.array([1, 256, 65536], np.int32)
        segments = [orjson.dumps(answer)]
    return write_answer(
        inference, model=model.metadata.name, version=model.metadata.version, segments=segments, id_map=id_map
    )
