"""A small client of the server, with and without asyncio: httpx and numpy are all it needs."""

import asyncio
import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Self, Unpack

import httpx
import numpy as np
from numpy.typing import NDArray

from knet import conversation
from knet.conversation import Conversation, Image, KNetError, Reply, Server, Wishes
from service import rle
from service.filling import fill_polygons

__all__ = ["AsyncKNetClient", "KNetClient", "KNetError", "decode_mask", "id_map_of"]


class KNetClient:
    """Client of one server; its methods raise KNetError, and so does a URL that is not http:// or https://.

    Where the server says that it is busy (429, 503), or the connection is lost, it asks again, `retries` times at most,
    after growing pauses and not before the time that the server names.

    ```
    with KNetClient("http://127.0.0.1:8000") as client:
        answer = client.segment(Path("cells.png"), model="nuclei", task="instance")
        masks = [decode_mask(segment) for segment in answer["segments"]]
    ```
    """

    def __init__(self, url: str, *, api_key: str | None = None, timeout: float = 120.0, retries: int = 2) -> None:
        self._server = Server(url.rstrip("/"), retries)
        self._http = httpx.Client(base_url=self._server.url, headers=_headers(api_key), timeout=timeout)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def segment(self, image: Image, **wishes: Unpack[Wishes]) -> Any:
        """The server's answer for one image file, a dict; with format="huggingface" a list."""
        return self._hold(conversation.segment(image, wishes, self._server))

    def segment_many(self, images: Sequence[Image], **wishes: Unpack[Wishes]) -> list[Any]:
        """The answers for several image files, in one request; an image that failed has a KNetError in its place."""
        result: list[Any] = self._hold(conversation.segment_many(images, wishes, self._server))
        return result

    def models(self) -> list[dict[str, Any]]:
        """Name, versions, kind and readiness of each model."""
        result: list[dict[str, Any]] = self._hold(conversation.models(self._server))
        return result

    def model(self, name: str) -> dict[str, Any]:
        """One model: `versions`, the newest last, each with its kind, categories, thresholds and readiness."""
        result: dict[str, Any] = self._hold(conversation.model(name, self._server))
        return result

    def wait_ready(self, timeout: float = 60.0) -> None:
        """Return once every model is ready; raises KNetError after `timeout` seconds."""
        self._hold(conversation.wait_ready(timeout, self._server))

    def _hold(self, talk: Conversation) -> Any:
        reply: Reply = None
        while True:
            try:
                step = talk.send(reply)
            except StopIteration as end:
                return end.value
            if isinstance(step, float):
                time.sleep(step)
                reply = None
                continue
            try:
                reply = self._http.request(step.method, step.route, **step.options)
            except (httpx.HTTPError, httpx.InvalidURL) as error:
                reply = error


class AsyncKNetClient:
    """The same with asyncio.

    ```
    async with AsyncKNetClient("http://127.0.0.1:8000") as client:
        answers = await asyncio.gather(*(client.segment(path) for path in paths))
    ```
    """

    def __init__(self, url: str, *, api_key: str | None = None, timeout: float = 120.0, retries: int = 2) -> None:
        self._server = Server(url.rstrip("/"), retries)
        self._http = httpx.AsyncClient(base_url=self._server.url, headers=_headers(api_key), timeout=timeout)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def segment(self, image: Image, **wishes: Unpack[Wishes]) -> Any:
        """See `KNetClient.segment`."""
        return await self._hold(conversation.segment(image, wishes, self._server))

    async def segment_many(self, images: Sequence[Image], **wishes: Unpack[Wishes]) -> list[Any]:
        """See `KNetClient.segment_many`."""
        result: list[Any] = await self._hold(conversation.segment_many(images, wishes, self._server))
        return result

    async def models(self) -> list[dict[str, Any]]:
        """See `KNetClient.models`."""
        result: list[dict[str, Any]] = await self._hold(conversation.models(self._server))
        return result

    async def model(self, name: str) -> dict[str, Any]:
        """See `KNetClient.model`."""
        result: dict[str, Any] = await self._hold(conversation.model(name, self._server))
        return result

    async def wait_ready(self, timeout: float = 60.0) -> None:
        """See `KNetClient.wait_ready`."""
        await self._hold(conversation.wait_ready(timeout, self._server))

    async def _hold(self, talk: Conversation) -> Any:
        reply: Reply = None
        while True:
            try:
                step = talk.send(reply)
            except StopIteration as end:
                return end.value
            if isinstance(step, float):
                await asyncio.sleep(step)
                reply = None
                continue
            try:
                reply = await self._http.request(step.method, step.route, **step.options)
            except (httpx.HTTPError, httpx.InvalidURL) as error:
                reply = error


def decode_mask(segment: Mapping[str, Any], image: Mapping[str, int] | None = None) -> NDArray[np.bool_]:
    """Mask (H, W) of one of an answer's segments, of format rle, overlay or polygon.

    Args:
        segment: one of `answer["segments"]`.
        image: `answer["image"]`; needed for polygons, which do not tell the image's size.

    Raises:
        ValueError: the segment has no mask of its own (format png), or polygons come without `image`.
    """
    segmentation = segment.get("segmentation")
    if segmentation is None:
        raise ValueError("segments of format png have no masks of their own; ask for rle or polygon")
    if "counts" in segmentation:
        return rle.decode(segmentation["counts"], segmentation["size"])
    if image is None:
        raise ValueError('polygons do not tell the size of the image: pass answer["image"], too')
    return fill_polygons(segmentation["coordinates"], (image["height"], image["width"]))


def id_map_of(answer: Mapping[str, Any]) -> NDArray[np.int32]:
    """Id of the segment at each pixel (H, W), 0 where there is none; of overlapping masks that of the best score.

    ```
    cells = id_map_of(client.segment(path))
    mean_of_first = picture[cells == 1].mean()
    ```
    """
    result = np.zeros((answer["image"]["height"], answer["image"]["width"]), np.int32)
    for segment in reversed(answer["segments"]):
        result[decode_mask(segment, answer["image"])] = segment["id"]
    return result


def _headers(api_key: str | None) -> dict[str, str]:
    return {"Authorization": f"Bearer {api_key}"} if api_key else {}
