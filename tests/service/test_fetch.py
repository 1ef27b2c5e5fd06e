"""Images by URL against a real web server on loopback; that tests may go there is a parameter, and no setting."""

import asyncio
import contextlib
import http.server
import ipaddress
import threading
import time
from collections.abc import Iterator

import httpx
import pytest

from knet.client import KNetClient
from service.addresses import is_public
from service.body_limit import BodyLimit, Held
from service.errors import (
    BodyTooLargeError,
    FetchError,
    FetchTimeoutError,
    ForbiddenUrlError,
    InvalidUrlError,
    MemoryFullError,
    RequestError,
)
from service.fetch import Fetcher
from service.server import background
from service.settings import Settings

LIMIT = 100_000


class Handler(http.server.BaseHTTPRequestHandler):
    """Good and bad answers, by path."""

    protocol_version = "HTTP/1.1"
    seen: list[tuple[str, str | None]] = []  # noqa: RUF012  cleared by the fixture

    def do_GET(self) -> None:
        self.seen.append((self.path, self.headers["Host"]))
        with contextlib.suppress(OSError):  # the client has gone, as it should
            getattr(self, "answer_" + self.path[1:].partition("?")[0])()

    def _send(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content_Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)

    def answer_image(self) -> None:
        self._send(200, b"the image", Content_Type="text/html")

    def answer_missing(self) -> None:
        self._send(404, b"internal words")

    def answer_redirect(self) -> None:
        self._send(302, Location="/image")

    def answer_large(self) -> None:
        self._send(200, bytes(LIMIT + 1))

    def answer_endless(self) -> None:
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        while True:
            self.wfile.write(b"1000\r\n" + bytes(0x1000) + b"\r\n")

    def answer_slow(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "100")
        self.end_headers()
        for _ in range(100):
            self.wfile.write(b"a")
            self.wfile.flush()
            time.sleep(0.1)

    def answer_broken(self) -> None:
        self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nabc")
        self.close_connection = True

    def answer_nonsense(self) -> None:
        self.wfile.write(b"SSH-2.0-OpenSSH\r\n")
        self.close_connection = True

    def answer_packed(self) -> None:
        self._send(200, b"\x1f\x8b packed", Content_Encoding="gzip")

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def web() -> Iterator[int]:
    """Port of a web server on loopback."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server.server_port
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(autouse=True)
def _forget():
    Handler.seen.clear()


def fetch(
    port: int, *urls: str, permits=lambda address: address.is_loopback, max_held: int = 10**9, **settings
) -> list:
    given = {"url_hosts": f"localhost:{port},*.example.org", "url_allow_http": True, "url_timeout_s": 1, **settings}
    held = Held(BodyLimit(None, max_bytes=LIMIT, max_held_bytes=max_held, refused=lambda cause: None))
    return asyncio.run(Fetcher(Settings(**given), permits=permits).fetch_all(list(urls), held))


def refusal(port: int, url: str, **settings) -> RequestError:
    (error,) = fetch(port, url, **settings)
    assert isinstance(error, RequestError), error
    return error


def test_an_image_is_fetched_with_the_name_of_its_host(web):
    assert fetch(web, f"http://localhost:{web}/image?a=b#c") == [b"the image"]
    assert Handler.seen == [("/image?a=b", f"localhost:{web}")]


def test_several_come_in_their_order_and_each_fails_on_its_own(web):
    good, bad, again = fetch(web, *(f"http://localhost:{web}/{name}" for name in ("image", "missing", "image")))
    assert good == again == b"the image"
    assert isinstance(bad, FetchError)


@pytest.mark.parametrize(
    ("path", "error", "words"),
    [
        ("missing", FetchError, "answered 404"),
        ("redirect", FetchError, "answered 302"),
        ("large", BodyTooLargeError, "100,000 bytes"),
        ("endless", BodyTooLargeError, "100,000 bytes"),
        ("slow", FetchTimeoutError, "after 1 s"),
        ("broken", FetchError, "does not speak HTTP"),
        ("nonsense", FetchError, "does not speak HTTP"),
    ],
)
def test_bad_answers_are_told_without_their_words(web, path, error, words):
    found = refusal(web, f"http://localhost:{web}/{path}")
    assert type(found) is error
    assert words in found.detail
    assert "internal" not in found.detail
    assert ("/image", f"localhost:{web}") not in Handler.seen  # no redirect was followed


@pytest.mark.parametrize("host", ["a" * 64 + ".example.org", "a..example.org"])
def test_a_listed_name_that_no_host_can_have_is_not_reached(web, host):
    assert isinstance(refusal(web, f"http://{host}/image"), FetchError)


def test_content_is_never_unpacked(web):
    assert fetch(web, f"http://localhost:{web}/packed") == [b"\x1f\x8b packed"]


def test_the_images_of_one_request_share_the_limit(web):
    results = fetch(web, *[f"http://localhost:{web}/image"] * 3, max_held=10**9)
    assert results == [b"the image"] * 3
    with pytest.raises(MemoryFullError):
        fetch(web, *[f"http://localhost:{web}/image"] * 3, max_held=20)


@pytest.mark.parametrize(
    ("url", "error"),
    [
        ("http://other.example.net/a", ForbiddenUrlError),
        ("http://example.org/a", ForbiddenUrlError),
        ("http://evilexample.org/a", ForbiddenUrlError),
        ("http://a.example.org.evil.net/a", ForbiddenUrlError),
        ("http://a.example.org:22/a", ForbiddenUrlError),
        ("http://127.0.0.1/a", ForbiddenUrlError),
        ("http://[::1]/a", ForbiddenUrlError),
        ("http://2130706433/a", ForbiddenUrlError),
        ("http://localhost/a", ForbiddenUrlError),
        ("http://localhost:1/a", ForbiddenUrlError),
        ("http://user:password@a.example.org/a", InvalidUrlError),
        ("http://a.example.org@evil.net/a", InvalidUrlError),
        ("ftp://a.example.org/a", InvalidUrlError),
        ("file:///etc/passwd", InvalidUrlError),
        ("gopher://a.example.org/", InvalidUrlError),
        ("//a.example.org/a", InvalidUrlError),
        ("/etc/passwd", InvalidUrlError),
        ("", InvalidUrlError),
        ("http://", InvalidUrlError),
        ("http://a.example.org:99999/", ForbiddenUrlError),
        ("http://a.example.org/\r\nX: y", InvalidUrlError),
        ("http://a.example.org/" + "a" * 3000, InvalidUrlError),
    ],
)
def test_urls_that_lead_elsewhere_are_refused_before_anything_is_asked(web, url, error):
    assert type(refusal(web, url)) is error
    assert not Handler.seen


def test_only_https_by_default(web):
    assert "https://" in refusal(web, "http://a.example.org/", url_allow_http=False).detail


def test_a_listed_name_that_leads_to_loopback_is_refused(web):
    error = refusal(web, f"http://localhost:{web}/image", permits=is_public)
    assert type(error) is ForbiddenUrlError
    assert "127.0.0.1" not in error.detail
    assert not Handler.seen


def test_a_name_that_changes_between_check_and_connection_gains_nothing(web, monkeypatch):
    """The resolver is asked once; a second question would have led to the web server."""
    answers = [[(2, 1, 6, "", ("192.0.2.1", web))], [(2, 1, 6, "", ("127.0.0.1", web))]]

    async def resolve(*_: object, **__: object) -> list:
        return answers.pop(0)

    monkeypatch.setattr(asyncio.BaseEventLoop, "getaddrinfo", resolve)
    refusal(web, f"http://localhost:{web}/image", permits=lambda address: not address.is_loopback, url_timeout_s=0.5)
    assert not Handler.seen
    assert len(answers) == 1


PRIVATE = """
0.0.0.0 10.0.0.1 100.64.0.1 127.0.0.1 169.254.169.254 172.16.0.1 192.0.2.1 192.168.0.1 198.18.0.1 224.0.0.1 240.0.0.1
255.255.255.255 :: ::1 ::127.0.0.1 ::ffff:10.0.0.1 ::ffff:169.254.169.254 64:ff9b::a00:1 2002:a00:1:: 2001:0:a00:1::
2001:db8::1 fc00::1 fe80::1 fec0::1 ff02::1
"""


@pytest.mark.parametrize("address", PRIVATE.split())
def test_addresses_that_are_not_public(address):
    assert not is_public(ipaddress.ip_address(address))


@pytest.mark.parametrize("address", ["8.8.8.8", "::ffff:8.8.8.8", "2001:4860:4860::8888"])
def test_addresses_that_are_public(address):
    assert is_public(ipaddress.ip_address(address))


@pytest.mark.parametrize("host", ["", "a b", "http://a", "[::1]", "*", "a.*.org", "a:b", "user@a"])
def test_what_is_no_host_is_refused_as_a_setting(host):
    if host:
        with pytest.raises(ValueError, match="must have the form"):
            Settings(url_hosts=host)


ROUTE = "/v1/models/tiny/segment"


def test_urls_are_off_by_default(http):
    response = http.post(ROUTE, json={"url": "https://a.example.org/a"})
    assert response.status_code == 403
    assert response.json()["type"] == "urn:knet:problem:forbidden-url"


def test_a_server_with_a_list_still_goes_to_no_private_address(repository, web):
    settings = Settings(repository=repository, port=0, url_hosts=f"localhost:{web}", url_allow_http=True)
    with background(settings) as url, httpx.Client(base_url=url, timeout=30) as client:
        wait_ready(url)
        response = client.post(ROUTE, json={"url": f"http://localhost:{web}/image"})
        assert response.status_code == 403
        response = client.post(ROUTE, json={"urls": [f"http://localhost:{web}/image", "file:///etc/passwd"]})
        assert [result["status"] for result in response.json()["results"]] == [403, 422]
        assert client.post(ROUTE, json={"urls": [f"http://localhost:{web}/image"] * 17}).status_code == 422
    assert not Handler.seen


def wait_ready(url: str) -> None:
    with KNetClient(url) as client:
        client.wait_ready(60)
