"""The HTTP application."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware

from service import metrics_routes, open_inference, openapi, problems, routes, tracing
from service.body_limit import BodyLimit
from service.compression import Compression
from service.context import Context
from service.engine_worker import Opener
from service.keys import ApiKeys, KeyRing
from service.middleware import RequestContext
from service.model_control import control
from service.page_routes import pages
from service.security_headers import SecurityHeaders
from service.settings import Settings, is_loopback
from service.variants import open_session


def create_app(settings: Settings, *, opener: Opener = open_session) -> FastAPI:
    """The application; its engines start with it, and load graphs with `opener`, a function of a module.

    Raises:
        ArtifactError: the repository is no good.
        ServiceError: the file of keys is.
    """
    context = Context(settings, opener)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        context.start()
        try:
            yield
        finally:
            await asyncio.to_thread(context.close)

    app = FastAPI(
        title="K-Net Serve",
        version="1",
        description="Masks for images: panoptic, instance and semantic segmentation with K-Net.",
        lifespan=lifespan,
        docs_url=None,  # of `service.page_routes`, as FastAPI's loads from elsewhere
        redoc_url=None,
        middleware=_middleware(settings, context),
    )
    app.state.context = context
    problems.install(app)
    app.include_router(routes.segment)
    app.include_router(control)
    app.include_router(routes.models)
    app.include_router(open_inference.router)
    app.include_router(routes.root)
    app.include_router(metrics_routes.metrics)
    app.include_router(pages)
    openapi.install(app)
    return app


def _middleware(settings: Settings, context: Context) -> list[Middleware]:
    """What every request passes, outermost first."""
    cors = Middleware(
        CORSMiddleware,
        allow_origins=settings.cors_origins,
        allow_methods=["GET", "POST"],
        allow_headers=["Accept", "Authorization", "Content-Type", "X-Request-ID"],
        expose_headers=["Retry-After", "X-Request-ID"],
    )
    return [
        *([Middleware(tracing.TraceRequests)] if tracing.is_on() else []),
        Middleware(RequestContext),
        Middleware(SecurityHeaders),
        *([cors] if settings.cors_origins else []),  # before the keys: a browser asks for leave without one
        Middleware(ApiKeys, keys=KeyRing(settings), is_private=is_loopback(settings.host)),
        Middleware(
            BodyLimit,
            max_bytes=settings.max_body_bytes,
            max_held_bytes=settings.max_buffered_bytes,
            refused=context.metrics.refused,
        ),
        # Measured on 200 segments: 1.9 ms for 213 KB of polygons to a quarter; level 9 takes 52 ms for a fifth.
        Middleware(Compression, minimum_size=1024, compresslevel=4),
    ]
