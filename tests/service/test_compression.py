"""Answers are compressed when that is asked, and pictures never."""

import asyncio
import contextlib
import gzip
import socket
import threading

import httpx
import numpy as np
import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from service.compression import Compression

ROUTE = "/v1/models/tiny/segment"


@pytest.fixture
def large_answer(png) -> bytes:
    """An image whose outlines make more than a kilobyte."""
    image = np.zeros((300, 300, 3), np.uint8)
    image[..., 0] = np.random.default_rng(0).integers(2, 8, (300, 300))
    return png(image)


def post(http, image: bytes, encoding: str, **params):
    with http.stream(
        "POST", ROUTE, content=image, params=params, headers={"Accept-Encoding": encoding, "Accept": "*/*"}
    ) as response:
        return response.headers, b"".join(response.iter_raw())


def test_large_answers_are_compressed_when_asked(http, large_answer):
    params = {"format": "polygon", "overlap_threshold": 0}
    headers, packed = post(http, large_answer, "gzip, deflate", **params)
    assert headers["content-encoding"] == "gzip"
    assert int(headers["content-length"]) == len(packed)
    plain_headers, plain = post(http, large_answer, "identity", **params)
    assert "content-encoding" not in plain_headers
    assert headers["vary"] == plain_headers["vary"] == "Accept-Encoding"
    assert gzip.decompress(packed).partition(b'"timing_ms"')[0] == plain.partition(b'"timing_ms"')[0]
    assert len(packed) < len(plain) / 2


@pytest.mark.parametrize(
    ("encoding", "is_packed"),
    [("gzip;q=0", False), ("br, GZIP;q=0.1", True), ("gzip;q=0, br", False), ("deflate", False), ("xgzipx", False)],
)
def test_who_refuses_compression_gets_none(http, large_answer, encoding, is_packed):
    headers, _ = post(http, large_answer, encoding, overlap_threshold=0)
    assert ("content-encoding" in headers) == is_packed


def test_small_answers_are_not_compressed(http, png):
    headers, plain = post(http, png(np.zeros((40, 40, 3), np.uint8)), "gzip")
    assert "content-encoding" not in headers
    assert plain.startswith(b"{")


def test_pictures_are_not_compressed(http, large_answer):
    response = http.post(
        ROUTE, content=large_answer, params={"overlap_threshold": 0},
        headers={"Accept-Encoding": "gzip", "Accept": "image/png"},
    )  # fmt: skip
    assert response.content.startswith(b"\x89PNG")
    assert len(response.content) > 1024
    assert "content-encoding" not in response.headers


def test_the_compression_does_not_hide_that_a_client_left():
    left = threading.Event()

    async def wait_for_the_end(request):
        while not await request.is_disconnected():
            await asyncio.sleep(0.05)
        left.set()
        return PlainTextResponse("")

    app = Starlette(routes=[Route("/", wait_for_the_end)], middleware=[Middleware(Compression)])
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        server = uvicorn.Server(uvicorn.Config(app, log_config=None))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        with contextlib.suppress(httpx.ReadTimeout):
            httpx.get(f"http://127.0.0.1:{listener.getsockname()[1]}/", timeout=1)
        assert left.wait(30)
        server.should_exit = True
        thread.join()
