"""The HTTP application."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI
from starlette.middleware import Middleware

from service import metrics_routes, problems, routes
from service.context import Context
from service.engine_worker import Opener
from service.middleware import ApiKeys, BodyLimit, RequestContext
from service.model_control import control
from service.settings import Settings
from service.variants import open_session


def create_app(settings: Settings, *, opener: Opener = open_session) -> FastAPI:
    """The application; its engines start with it, and load graphs with `opener`, a function of a module.

    Raises:
        ArtifactError: the repository is no good.
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
        redoc_url=None,
        swagger_ui_oauth2_redirect_url=None,
        middleware=[
            Middleware(RequestContext),
            Middleware(ApiKeys, keys=[key.get_secret_value() for key in settings.api_keys]),
            Middleware(BodyLimit, max_bytes=settings.max_body_bytes),
        ],
    )
    app.state.context = context
    problems.install(app)
    app.include_router(routes.segment)
    app.include_router(control)
    app.include_router(routes.models)
    app.include_router(routes.root)
    app.include_router(metrics_routes.metrics)
    return app
