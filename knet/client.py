"""A small client of the server: httpx and numpy are all it needs."""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx
import numpy as np
from numpy.typing import NDArray

from service import rle

_POLL_S = 0.1


class KNetError(Exception):
    """The server refused or failed, or could not be reached (then `status` is None)."""

    def __init__(self, title: str, detail: str, *, status: int | None = None, request_id: str = "") -> None:
        super().__init__(f"{title}: {detail}" if detail else title)
        self.title = title
        self.detail = detail
        self.status = status
        self.request_id = request_id


class KNetClient:
    """Client of one server.

    ```
    with KNetClient("http://127.0.0.1:8000") as client:
        answer = client.segment(Path("cells.png"), model="nuclei", task="instance")
        masks = [decode_mask(segment) for segment in answer["segments"]]
    ```
    """

    def __init__(self, url: str, *, api_key: str | None = None, timeout: float = 120.0) -> None:
        headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        self.url = url.rstrip("/")
        self._http = httpx.Client(base_url=self.url, headers=headers, timeout=timeout)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def segment(
        self,
        image: bytes | Path,
        *,
        model: str = "nuclei",
        version: str | None = None,
        task: str | None = None,
        format: str | None = None,
        score_threshold: float | None = None,
        overlap_threshold: float | None = None,
        categories: Sequence[str] = (),
    ) -> dict[str, Any]:
        """The server's answer for one image file; what is None is left to the server."""
        content = image.read_bytes() if isinstance(image, Path) else image
        wishes = {
            "task": task,
            "format": format,
            "score_threshold": score_threshold,
            "overlap_threshold": overlap_threshold,
            "categories": list(categories) or None,
        }
        route = f"/v1/models/{model}" + (f"/versions/{version}" if version else "") + "/segment"
        return self._call(
            "POST",
            route,
            content=content,
            params={name: value for name, value in wishes.items() if value is not None},
            headers={"Content-Type": "application/octet-stream", "Accept": "application/json"},
        )

    def models(self) -> list[dict[str, Any]]:
        """Name, versions, kind and readiness of each model."""
        models: list[dict[str, Any]] = self._call("GET", "/v1/models")["models"]
        return models

    def model(self, name: str) -> dict[str, Any]:
        """One model: `versions`, the newest last, each with its kind, categories, thresholds and readiness."""
        return self._call("GET", f"/v1/models/{name}")

    def wait_ready(self, timeout: float = 60.0) -> None:
        """Return once every model is ready; raises KNetError after `timeout` seconds."""
        deadline = time.monotonic() + timeout
        while True:
            try:
                self._call("GET", "/readyz")
            except KNetError as error:
                if error.status not in (None, 503) or time.monotonic() > deadline:
                    raise
                time.sleep(_POLL_S)
            else:
                return

    def _call(self, method: str, route: str, **options: Any) -> dict[str, Any]:
        try:
            response = self._http.request(method, route, **options)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise KNetError(f"cannot reach {self.url}", str(error)) from error
        if response.is_success:
            result: dict[str, Any] = response.json()
            return result
        raise _to_error(response)


def decode_mask(segment: Mapping[str, Any]) -> NDArray[np.bool_]:
    """Mask (H, W) of one of an answer's segments."""
    return rle.decode(segment["segmentation"]["counts"], segment["segmentation"]["size"])


def _to_error(response: httpx.Response) -> KNetError:
    try:
        problem = response.json()
        title, detail, request_id = problem["title"], problem["detail"], problem["request_id"]
    except (ValueError, KeyError, TypeError):  # not our server, or something in front of it
        title, detail, request_id = response.reason_phrase, response.text[:200], ""
    return KNetError(title, detail, status=response.status_code, request_id=request_id)
