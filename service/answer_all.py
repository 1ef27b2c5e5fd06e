"""The images of one request through the pipeline; an error of one of them is its own affair."""

import asyncio
from collections.abc import Sequence

from service.answers import Wish
from service.context import Context
from service.errors import RequestError, ServiceError
from service.models import Model
from service.pipeline import Payload


async def answer_all(
    images: Sequence[bytes | RequestError], model: Model, wish: Wish, context: Context
) -> list[Payload | ServiceError]:
    """An answer or an error for each image file, in their order; an error in place of a file is given back.

    Raises:
        QueueFullError: there are too few places for all of them.
    """
    with context.pipeline.places(len(images)):
        answers = [_answer(data, model, wish, context) for data in images]
        results = await asyncio.gather(*answers, return_exceptions=True)
    for result in results:
        if not isinstance(result, Payload | ServiceError):
            raise result
    return [result for result in results if isinstance(result, Payload | ServiceError)]


async def _answer(data: bytes | RequestError, model: Model, wish: Wish, context: Context) -> Payload:
    if isinstance(data, RequestError):
        raise data
    return await context.pipeline.answer(data, model, wish)
