"""Waiting for a request's work: no longer than its deadline, and not when its client has gone."""

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

from starlette.requests import Request

from service.errors import ClientLeftError, ServiceError
from service.ticket import Ticket

T = TypeVar("T")


async def attend(request: Request, ticket: Ticket, work: Awaitable[T]) -> T:
    """Result of `work` for a request whose body has been read.

    Raises:
        DeadlineError: the ticket's deadline has passed; threads that work for it see it at their next step.
        ClientLeftError: the client has closed the connection; likewise.
    """
    working = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(_left(request))
    try:
        await asyncio.wait({working, leaving}, timeout=ticket.remaining, return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return working.result()
        error: ServiceError = ticket.expired()
        if leaving.done():
            error = ClientLeftError("the client closed the connection before its answer was ready")
        ticket.cancel(error)
        raise error
    finally:
        working.cancel()
        leaving.cancel()


async def _left(request: Request) -> None:
    """Return when the client has gone."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
