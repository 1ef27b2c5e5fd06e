"""The images of one request through the pipeline; an error of one of them is its own affair."""

import asyncio
from collections.abc import Sequence

from starlette.requests import Request

from service.admission import client_of
from service.answers import Wish
from service.attend import attend
from service.context import Context
from service.errors import RequestError, ServiceError
from service.model import Model
from service.pipeline import Payload
from service.ticket import Ticket


def make_ticket(context: Context, timeout_ms: int | None) -> Ticket:
    """The ticket of a request whose body has been read; a client may shorten the server's limit."""
    limit = context.settings.request_timeout_s
    return Ticket(limit if timeout_ms is None else min(limit, timeout_ms / 1000))


async def answer_all(
    images: Sequence[bytes | RequestError], model: Model, wish: Wish, ticket: Ticket, request: Request, context: Context
) -> list[Payload | ServiceError]:
    """An answer or an error for each image file, in their order; an error in place of a file is given back.

    Raises:
        ClientLimitError: this client has too many images here already.
        QueueFullError: there are too few places for all of them, or they would wait too long.
        DeadlineError: the ticket's deadline has passed.
        ClientLeftError: the client has gone.
    """
    with context.admission.images(len(images), client_of(request.scope), model, ticket):
        return await attend(request, ticket, _gather(images, model, wish, ticket, context))


async def _gather(
    images: Sequence[bytes | RequestError], model: Model, wish: Wish, ticket: Ticket, context: Context
) -> list[Payload | ServiceError]:
    if len(images) == 1:  # which needs no task of its own
        return [await _answer(images[0], model, wish, ticket, context)]
    return await asyncio.gather(*(_answer(data, model, wish, ticket, context) for data in images))


async def _answer(
    data: bytes | RequestError, model: Model, wish: Wish, ticket: Ticket, context: Context
) -> Payload | ServiceError:
    if isinstance(data, RequestError):
        return data
    try:
        return await context.pipeline.answer(data, model, wish, ticket)
    except ServiceError as error:
        return error
