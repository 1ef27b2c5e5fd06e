"""`GET /metrics`, for Prometheus."""

import asyncio

from fastapi import APIRouter, Request
from starlette.responses import Response

from service.context import ContextDep
from service.openapi import METRICS_DOCS

metrics = APIRouter()


@metrics.get("/metrics", operation_id="metrics", response_class=Response, **METRICS_DOCS)
async def scrape(request: Request, context: ContextDep) -> Response:
    """The server's metrics in Prometheus' text format, or OpenMetrics where `Accept` asks for it."""
    content, media_type = await asyncio.to_thread(context.metrics.render, request.headers.get("accept", ""))
    return Response(content, headers={"Content-Type": media_type})
