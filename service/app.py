"""The HTTP application."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware

from service import problems, routes
from service.body_limit import BodyLimit
from service.context import Context
from service.keys import ApiKeys, KeyRing
from service.middleware import RequestContext
from service.security_headers import SecurityHeaders
from service.settings import Settings, is_loopback


def create_app(settings: Settings) -> FastAPI:
    """The application; its engines start with it. Raises ArtifactError when the repository is no good,
    ServiceError when the file of keys is."""
    context = Context(settings)

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
        redoc_url=None,
        swagger_ui_oauth2_redirect_url=None,
        middleware=_middleware(settings),
    )
    app.state.context = context
    problems.install(app)
    app.include_router(routes.segment)
    app.include_router(routes.models)
    app.include_router(routes.root)
    return app


def _middleware(settings: Settings) -> list[Middleware]:
    """What every request passes, outermost first."""
    cors = Middleware(
        CORSMiddleware,
        allow_origins=settings.cors_origins,
        allow_methods=["GET", "POST"],
        allow_headers=["Accept", "Authorization", "Content-Type", "X-Request-ID"],
        expose_headers=["Retry-After", "X-Request-ID"],
    )
    return [
        Middleware(RequestContext),
        Middleware(SecurityHeaders),
        *([cors] if settings.cors_origins else []),  # before the keys: a browser asks for leave without one
        Middleware(ApiKeys, keys=KeyRing(settings), is_private=is_loopback(settings.host)),
        Middleware(BodyLimit, max_bytes=settings.max_body_bytes, max_held_bytes=settings.max_buffered_bytes),
    ]
