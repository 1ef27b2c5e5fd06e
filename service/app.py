"""The HTTP application."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI
from starlette.middleware import Middleware

from service import problems, routes
from service.context import Context
from service.middleware import ApiKeys, BodyLimit, RequestContext
from service.page_routes import pages
from service.settings import Settings


def create_app(settings: Settings) -> FastAPI:
    """The application; its engines start with it. Raises ArtifactError when the repository is no good."""
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
        docs_url=None,  # of `service.page_routes`, as FastAPI's loads from elsewhere
        redoc_url=None,
        middleware=[
            Middleware(RequestContext),
            Middleware(ApiKeys, keys=[key.get_secret_value() for key in settings.api_keys]),
            Middleware(BodyLimit, max_bytes=settings.max_body_bytes),
        ],
    )
    app.state.context = context
    problems.install(app)
    app.include_router(routes.segment)
    app.include_router(routes.models)
    app.include_router(routes.root)
    app.include_router(pages)
    return app
