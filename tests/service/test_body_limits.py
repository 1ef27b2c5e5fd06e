import json
import socket

import httpx
import numpy as np
import pytest

from knet.client import KNetClient
from service.body_limit import BodyLimit
from service.json_body import MAX_VALUES
from service.server import background
from service.settings import Settings
from tests.service.driving import metric

ROUTE = "/v1/models/tiny/segment"


def detail(response: httpx.Response, status: int) -> str:
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    assert len(response.content) < 5000
    return response.json()["detail"]


def test_many_query_parameters_are_refused(http):
    params = "&".join(f"p{n}=1" for n in range(300))
    assert "256 query parameters" in detail(http.post(f"{ROUTE}?{params}", content=b"a"), 400)


def test_an_answer_to_many_wrong_parameters_is_short(http):
    params = "&".join(f"p{n}=1" for n in range(200))
    assert "unknown parameter" in detail(http.post(f"{ROUTE}?{params}", content=b"a"), 422)


@pytest.mark.parametrize("piece", [b"[],", b"{},", b"0,"])
def test_json_of_many_values_is_not_parsed(http, piece):
    content = b'{"images": [' + piece * (MAX_VALUES + 1) + b'"a"]}'
    response = http.post(ROUTE, content=content, headers={"Content-Type": "application/json"})
    assert "more than 10,000 values" in detail(response, 400)


def form(*parts: tuple[bytes, bytes]) -> dict:
    body = b"".join(b"--b\r\n" + head + b"\r\n\r\n" + content + b"\r\n" for head, content in parts) + b"--b--\r\n"
    return {"content": body, "headers": {"Content-Type": "multipart/form-data; boundary=b"}}


IMAGE = b'Content-Disposition: form-data; name="image"; filename="a"'


@pytest.mark.parametrize(
    "request_",
    [
        form(*[(IMAGE, b"a")] * 17),
        form(*[(b'Content-Disposition: form-data; name="x"', b"a")] * 1000),
        form((b'Content-Disposition: form-data; name="x"', b"a" * 5000)),
        form((IMAGE + b"\r\nX-Long: " + b"a" * 10_000, b"a")),
        form((IMAGE + b"\r\nX: y" * 50, b"a")),
        form((b'Content-Disposition: form-data; name="' + b"a" * 10_000 + b'"', b"a")),
    ],
)
def test_forms_of_many_or_large_parts_are_refused(http, request_):
    assert detail(http.post(ROUTE, **request_), 400)  # the status is looked at there


def test_a_large_form_is_not_written_to_the_disk(http, png, monkeypatch):
    import tempfile

    def fail(*_: object, **__: object) -> None:
        raise AssertionError("a file was made")

    monkeypatch.setattr(tempfile, "TemporaryFile", fail)
    noise = np.random.default_rng(0).integers(0, 255, (600, 620, 3), np.uint8)
    response = http.post(ROUTE, files={"image": png(noise)})
    assert response.status_code in (200, 500)  # the tiny model knows no noise, and the image arrived whole


def test_images_larger_on_one_side_than_the_limit_are_refused(repository, png):
    with background(Settings(repository=repository, port=0, max_side=100)) as url, httpx.Client(base_url=url) as client:
        wait_ready(url)
        response = client.post(ROUTE, content=png(np.zeros((101, 1, 3), np.uint8)))
        assert "1 x 101 pixels; the limit is 100 a side" in detail(response, 413)
        assert client.post(ROUTE, content=png(np.zeros((100, 1, 3), np.uint8))).status_code == 200


def test_bodies_of_all_requests_together_have_a_limit(repository, scene, png):
    settings = Settings(repository=repository, port=0, max_body_bytes=1_000_000, max_buffered_bytes=1_500_000)
    with background(settings) as url, httpx.Client(base_url=url) as client:
        wait_ready(url)
        host, port = url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port))) as slow:
            slow.sendall(
                f"POST {ROUTE} HTTP/1.1\r\nHost: x\r\nContent-Length: 990000\r\n\r\n".encode() + bytes(900_000)
            )
            response = client.post(ROUTE, content=bytes(900_000))
            while response.status_code != 503:  # until the slow one's bytes have been taken
                response = client.post(ROUTE, content=bytes(900_000))
            assert response.json()["type"] == "urn:knet:problem:memory-full"
            assert response.headers["retry-after"]
            assert metric(url, "knet_refusals_total") >= 1
            assert client.post(ROUTE, content=png(scene)).status_code == 200
        while client.post(ROUTE, content=bytes(900_000)).status_code == 503:  # its bytes are given back when it ends
            pass


def test_every_byte_is_given_back():
    import asyncio

    async def app(scope, receive, send) -> None:
        scope["state"]["held"].take(50)
        await receive()
        raise ZeroDivisionError

    async def receive() -> dict:
        return {"type": "http.request", "body": b"abc", "more_body": False}

    limit = BodyLimit(app, max_bytes=100, max_held_bytes=1000, refused=lambda cause: None)
    with pytest.raises(ZeroDivisionError):
        asyncio.run(limit({"type": "http", "path": "/", "query_string": b"", "headers": []}, receive, None))
    assert limit.held_bytes == 0


def test_limits_that_contradict_each_other_are_refused():
    with pytest.raises(ValueError, match="max_body_bytes 100 must not exceed max_buffered_bytes 50"):
        Settings(max_body_bytes=100, max_buffered_bytes=50)


def test_json_in_utf_16_is_no_json(http):
    content = json.dumps({"image": "abc"}).encode("utf-16")
    response = http.post(ROUTE, content=content, headers={"Content-Type": "application/json"})
    assert "not JSON" in detail(response, 400)


def wait_ready(url: str) -> None:
    with KNetClient(url) as client:
        client.wait_ready(60)
