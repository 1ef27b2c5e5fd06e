"""What all routes share."""

from typing import Annotated

from fastapi import Depends, Request

from service.fetch import Fetcher
from service.models import Models
from service.pipeline import Pipeline
from service.repository import scan
from service.settings import Settings


class Context:
    """Settings, models and pipeline of one running server."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.models = Models(scan(settings.repository), settings)
        self.pipeline = Pipeline(settings)
        self.fetcher = Fetcher(settings)

    def start(self) -> None:
        """Start the engine processes without waiting for them."""
        self.models.start()

    def close(self) -> None:
        """End everything that was started."""
        self.models.close()
        self.pipeline.close()


def _context(request: Request) -> Context:
    context: Context = request.app.state.context
    return context


ContextDep = Annotated[Context, Depends(_context)]
