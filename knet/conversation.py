"""What a client says to a server and makes of the answers, without any input or output of its own.

A conversation is a generator: it yields requests and pauses (in seconds), is sent the response to a request or the
error that came in its place, and returns its result. `KNetClient` and `AsyncKNetClient` conduct it.
"""

import base64
import random
import time
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypedDict
from urllib.parse import quote

import httpx

Image = bytes | Path
_POLL_S = 0.1
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.25, 30.0
_RETRIED = (429, 503)
_LOST = (httpx.NetworkError, httpx.RemoteProtocolError, httpx.ConnectTimeout)  # the request may not have arrived


class KNetError(Exception):
    """The server refused or failed, or could not be reached (then `status` is None)."""

    def __init__(self, title: str, detail: str, *, status: int | None = None, request_id: str = "") -> None:
        message = f"{title}: {detail}" if detail else title
        super().__init__(f"{message} (request {request_id})" if request_id else message)
        self.title = title
        self.detail = detail
        self.status = status
        self.request_id = request_id


class Wishes(TypedDict, total=False):
    """What is asked of the server for an image; what is left out, or None, is the server's choice."""

    model: str  # default: nuclei
    version: str | None  # default: the newest
    task: str | None  # panoptic, instance, semantic
    format: str | None  # rle, polygon, png, overlay, huggingface
    score_threshold: float | None  # 0..1
    overlap_threshold: float | None  # 0..1
    views: int  # 1..3: how often each image is segmented, larger and turned from the second time on
    timeout_ms: int | None  # after which the answer is of no use: a KNetError with status 504
    categories: Sequence[str]  # ids or names


@dataclass(frozen=True)
class Server:
    """With whom, and how often a request is made again."""

    url: str
    retries: int

    def __post_init__(self) -> None:
        try:
            url = httpx.URL(self.url)
            is_legal = url.scheme in ("http", "https") and bool(url.host)
        except httpx.InvalidURL:
            is_legal = False
        if not is_legal:  # no use in asking for it until it is there
            raise KNetError(f"url is {self.url!r}; legal: http://HOST:PORT or https://HOST:PORT", "")


@dataclass(frozen=True)
class Request:
    """One request; `options` are httpx's."""

    method: str
    route: str
    options: dict[str, Any] = field(default_factory=dict)


Step = Request | float
Reply = httpx.Response | httpx.HTTPError | httpx.InvalidURL | None
Conversation = Generator[Step, Reply, Any]


def segment(image: Image, wishes: Wishes, server: Server) -> Conversation:
    """The answer for one image."""
    headers = {"Content-Type": "application/octet-stream", "Accept": "application/json"}
    request = Request("POST", _route(wishes), {"content": _read(image), "params": _query(wishes), "headers": headers})
    return (yield from _ask(request, server))


def segment_many(images: Sequence[Image], wishes: Wishes, server: Server) -> Conversation:
    """For each image its answer, or the KNetError that it met."""
    options: dict[str, Any] = {"params": _query(wishes), "headers": {"Accept": "application/json"}}
    if len(images) == 1:  # a form of one image is answered as one
        options["json"] = {"images": [base64.b64encode(_read(images[0])).decode("ascii")]}
    else:
        options["files"] = [("image", ("image", _read(image))) for image in images]
    results = (yield from _ask(Request("POST", _route(wishes), options), server))["results"]
    return [_to_error(entry) if "status" in entry else entry for entry in results]


def models(server: Server) -> Conversation:
    """Name, versions, kind and readiness of each model."""
    return (yield from _ask(Request("GET", "/v1/models"), server))["models"]


def model(name: str, server: Server) -> Conversation:
    """One model with its versions."""
    return (yield from _ask(Request("GET", f"/v1/models/{quote(name, safe='')}"), server))


def wait_ready(timeout: float, server: Server) -> Conversation:
    """Return once every model is ready."""
    deadline = time.monotonic() + timeout
    while True:
        try:
            yield from _ask(Request("GET", "/readyz"), replace(server, retries=0))
        except KNetError as error:
            if error.status not in (None, 503) or time.monotonic() > deadline:
                raise
            yield _POLL_S
        else:
            return None


def _ask(request: Request, server: Server) -> Conversation:
    """The JSON of the answer; asks again after losses and where the server says later, as nothing is changed by it."""
    for attempt in range(server.retries + 1):
        reply = yield request
        if isinstance(reply, httpx.Response) and reply.is_success:
            return _content(reply)
        pause = _pause(reply, attempt)
        if pause is None or attempt == server.retries:
            break
        yield pause
    if isinstance(reply, httpx.Response):
        raise _error_of(reply)
    raise KNetError(f"cannot reach {server.url}", str(reply)) from reply


def _content(response: httpx.Response) -> Any:
    try:
        return response.json()
    except ValueError as error:  # something in front of the server
        raise KNetError("the answer is no JSON", response.text[:200], status=response.status_code) from error


def _pause(reply: Reply, attempt: int) -> float | None:
    """Seconds until the next attempt, at least those that the server names; None: there is no use in one."""
    # Clients that were refused together do not come back together.
    pause: float = _FIRST_PAUSE_S * 2**attempt * random.uniform(0.5, 1.5)
    if isinstance(reply, _LOST):
        return pause
    if not isinstance(reply, httpx.Response) or reply.status_code not in _RETRIED:
        return None
    named = reply.headers.get("retry-after", "")
    if named.isascii() and named.isdigit():
        pause += float(named)
    return pause if pause <= _LONGEST_PAUSE_S else None


def _route(wishes: Wishes) -> str:
    route = f"/v1/models/{quote(wishes.get('model', 'nuclei'), safe='')}"
    version = wishes.get("version")
    return route + (f"/versions/{quote(version, safe='')}" if version else "") + "/segment"


def _query(wishes: Wishes) -> dict[str, Any]:
    query = {name: value for name, value in wishes.items() if name not in ("model", "version", "categories")}
    query["categories"] = list(wishes.get("categories", ())) or None
    return {name: value for name, value in query.items() if value is not None}


def _read(image: Image) -> bytes:
    return image.read_bytes() if isinstance(image, Path) else image


def _error_of(response: httpx.Response) -> KNetError:
    try:
        return _to_error(response.json())
    except (ValueError, KeyError, TypeError):  # not our server, or something in front of it
        return KNetError(response.reason_phrase, response.text[:200], status=response.status_code)


def _to_error(problem: dict[str, Any]) -> KNetError:
    return KNetError(problem["title"], problem["detail"], status=problem["status"], request_id=problem["request_id"])
