"""Which requests are taken in: as many as there are places for, and none once the server is about to stop."""

from collections.abc import Iterator
from contextlib import contextmanager

from service.errors import DrainingError, QueueFullError, UnavailableError
from service.metrics import Metrics
from service.model import Model
from service.ticket import Ticket


class Admission:
    """Counts requests and their images; for the event loop alone.

    Args:
        max_images: the most that wait or run at once.
        metrics: are told of refusals.
    """

    def __init__(self, max_images: int, metrics: Metrics) -> None:
        self.num_requests = 0
        self.num_images = 0
        self.is_ready = True
        self.is_closed = False
        self._max_images = max_images
        self._metrics = metrics

    def close(self) -> None:
        """Take nothing new; what has been taken in goes on."""
        self.is_ready = False
        self.is_closed = True

    @contextmanager
    def request(self) -> Iterator[None]:
        """A request, from its headers to its answer; raises DrainingError when closed."""
        if self.is_closed:
            raise self._refuse(DrainingError("this server is about to stop; another one may take the request"))
        self.num_requests += 1
        try:
            yield
        finally:
            self.num_requests -= 1

    @contextmanager
    def images(self, count: int, model: Model, ticket: Ticket) -> Iterator[None]:
        """Places for the images of a request; raises QueueFullError when there are too few, or it would be too late."""
        if self.num_images + count > self._max_images:
            text = f"{self.num_images} images wait already, this server's limit is {self._max_images}; try again soon"
            raise self._refuse(QueueFullError(text))
        if (wait := model.expected_wait_s) > ticket.remaining:
            text = f"{model.label} needs about {wait:.1f} s for what waits already, longer than this request would wait"
            raise self._refuse(QueueFullError(text))
        self.num_images += count
        model.num_images += count
        try:
            yield
        finally:
            self.num_images -= count
            model.num_images -= count

    def _refuse(self, error: UnavailableError) -> UnavailableError:
        self._metrics.refused(cause=error.type)
        return error
