"""What all routes share."""

from functools import partial
from typing import Annotated

from fastapi import Depends, Request

from service.admission import Admission
from service.engine_worker import Opener
from service.model import Model
from service.models import Models
from service.pipeline import Pipeline
from service.settings import Settings
from service.threads import Threads
from service.variants import open_session


class Context:
    """Settings, models and pipeline of one running server; `control` is the thread that loads models."""

    def __init__(self, settings: Settings, opener: Opener = open_session) -> None:
        self.settings = settings
        self.models = Models(settings, partial(Model, settings=settings, opener=opener))
        self.admission = Admission(settings.max_queue)
        self.pipeline = Pipeline(settings)
        self.control = Threads(1, "control")

    def start(self) -> None:
        """Start the engine processes without waiting for them."""
        self.models.start()

    def close(self) -> None:
        """End everything that was started."""
        self.models.close()
        self.control.close()
        self.pipeline.close()


def _context(request: Request) -> Context:
    context: Context = request.app.state.context
    return context


ContextDep = Annotated[Context, Depends(_context)]
