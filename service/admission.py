"""Which requests are taken in: as many as there are places for, and none once the server is about to stop."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from starlette.types import Scope

from service.errors import ClientLimitError, DrainingError, EngineDownError, QueueFullError, UnavailableError
from service.metrics import Metrics
from service.model import Model, check_ready
from service.ticket import Ticket


class Admission:
    """Counts requests and their images; for the event loop alone.

    Args:
        max_images: the most that wait or run at once.
        metrics: are told of refusals.
        max_images_per_client: the most of them that are one client's; None: all.
    """

    def __init__(self, max_images: int, metrics: Metrics, *, max_images_per_client: int | None = None) -> None:
        self.num_requests = 0
        self.num_images = 0
        self.is_ready = True
        self.is_closed = False
        self._max_images = max_images
        self._max_images_per_client = max_images_per_client
        self._images_of: Counter[str] = Counter()  # clients that have none are not in it
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

    def check_ready(self, model: Model) -> None:
        """Raise EngineDownError unless an engine of the model can answer a request."""
        try:
            check_ready(model)
        except EngineDownError as error:
            raise self._refuse(error) from None

    @contextmanager
    def images(self, count: int, client: str, model: Model, ticket: Ticket) -> Iterator[None]:
        """Places for the images of a request.

        Raises:
            ClientLimitError: there are too few for this client.
            QueueFullError: there are too few for anyone, or it would be too late.
        """
        mine, limit = self._images_of[client], self._max_images_per_client
        if limit is not None and mine + count > limit:
            text = f"{mine} images of yours wait already, this server takes {limit} of one client; wait for answers"
            raise self._refuse(ClientLimitError(text))
        if self.num_images + count > self._max_images:
            text = f"{self.num_images} images wait already, this server's limit is {self._max_images}; try again soon"
            raise self._refuse(QueueFullError(text))
        if (wait := model.expected_wait_s) > ticket.remaining:
            text = f"{model.label} needs about {wait:.1f} s for what waits already, longer than this request would wait"
            raise self._refuse(QueueFullError(text))
        self._count(count, client, model)
        try:
            yield
        finally:
            self._count(-count, client, model)

    def _count(self, change: int, client: str, model: Model) -> None:
        self.num_images += change
        model.num_images += change
        self._images_of[client] += change
        if not self._images_of[client]:
            del self._images_of[client]

    def _refuse(self, error: UnavailableError) -> UnavailableError:
        self._metrics.refused(cause=error.type)
        return error


def client_of(scope: Scope) -> str:
    """Who sends a request: the name of its key, or else the address that it comes from."""
    key = scope.get("state", {}).get("api_key")
    return f"key {key}" if key else f"address {(scope.get('client') or ('unknown',))[0]}"
