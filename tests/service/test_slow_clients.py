"""Clients that are slow, silent or greedy, against a real server with short limits, while another client is served."""

import contextlib
import json
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator

import httpx
import pytest

from knet.client import KNetClient
from service.server import background
from service.settings import Settings

HEAD = b"POST /v1/models/tiny/segment HTTP/1.1\r\nHost: x\r\n"
Connect = Callable[[], socket.socket]


@pytest.fixture(scope="module")
def impatient(repository) -> Iterator[str]:
    settings = Settings(
        repository=repository,
        port=0,
        head_timeout_s=2,
        stall_timeout_s=2,
        transfer_timeout_s=3,
        keep_alive_s=2,
        max_connections=16,
        max_header_bytes=4096,
        max_headers=20,
    )
    with background(settings) as url:
        wait_ready(url)
        yield url


@pytest.fixture
def connect(impatient) -> Iterator[Connect]:
    host, port = impatient.removeprefix("http://").split(":")
    with contextlib.ExitStack() as stack:
        yield lambda: stack.enter_context(socket.create_connection((host, int(port)), timeout=20))


@pytest.fixture(autouse=True)
def _others_are_served(impatient):
    """A normal client goes on asking while each test runs, and is always answered."""
    stop, answers = threading.Event(), []

    def ask() -> None:
        while not stop.wait(0.05):
            answers.append(httpx.get(f"{impatient}/healthz", timeout=20).status_code)

    thread = threading.Thread(target=ask)
    thread.start()
    yield
    stop.set()
    thread.join()
    assert set(answers) <= {200}


def read_all(connection: socket.socket) -> bytes:
    """What the server sends until it closes."""
    received = b""
    with contextlib.suppress(ConnectionResetError):
        while piece := connection.recv(65536):
            received += piece
    return received


def check_refusal(received: bytes, status: int, cause: str) -> None:
    head, _, content = received.partition(b"\r\n\r\n")
    assert head.startswith(f"HTTP/1.1 {status} ".encode()), received[:200]
    assert b"application/problem+json" in head
    problem = json.loads(content)
    assert problem["status"] == status
    assert problem["type"] == f"urn:knet:problem:{cause}"
    assert problem["request_id"].encode() in head


BODY = HEAD + b"Content-Length: 1000\r\n\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
HEALTH = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"


def test_clients_that_stop_get_a_408_at_the_same_time(connect):
    begun = [b"G", b"GET /healthz HTTP/1.1\r\nHost:", HEAD, BODY + b"abc", CHUNKED + b"3\r\nabc\r\n"]
    silent, kept, half_of_two, *others = (connect() for _ in range(3 + len(begun)))
    for connection, part in zip(others, begun, strict=True):
        connection.sendall(part)
    for connection in (kept, half_of_two):
        connection.sendall(HEALTH)
        answer = b""
        while not answer.endswith(b'{"status":"ok"}'):
            answer += connection.recv(4096)
    half_of_two.sendall(b"GET /heal")
    for connection in (*others, half_of_two):
        check_refusal(read_all(connection), 408, "request-timeout")
    assert read_all(silent) == b""  # it has asked nothing
    assert read_all(kept) == b""  # and this one nothing more


def test_clients_that_trickle_get_a_408_at_the_same_time(connect):
    head, body, unwanted = connect(), connect(), connect()
    body.sendall(BODY)
    unwanted.sendall(b"POST /healthz HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n")
    for byte in (b"GET /healthz HTTP/1.1\r\n" + b"X-Slow: 1\r\n" * 10)[:60]:
        for connection in (head, body, unwanted):
            with contextlib.suppress(OSError):  # the server has closed
                connection.sendall(bytes([byte]))
        time.sleep(0.1)
    check_refusal(read_all(head), 408, "request-timeout")
    check_refusal(read_all(body), 408, "request-timeout")
    assert read_all(unwanted).startswith(b"HTTP/1.1 405")  # the answer, and then the end


def test_a_reader_that_never_reads_is_let_go(connect):
    connection = connect()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    with pytest.raises((ConnectionResetError, BrokenPipeError)):
        ask_for_ever(connection)


def ask_for_ever(connection: socket.socket) -> None:
    """Small questions with a large answer each: the network's buffers fill, then the server's, which is bounded."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        connection.sendall(b"GET /openapi.json HTTP/1.1\r\nHost: x\r\n\r\n" * 50)


def test_a_refusal_reaches_a_client_that_sends_everything_first(connect):
    connection = connect()
    connection.sendall(HEAD + b"Connection: close\r\nContent-Length: 80000000\r\n\r\n" + bytes(80_000_000))
    received = read_all(connection)
    assert received.startswith(b"HTTP/1.1 413"), received[:200]


@pytest.mark.parametrize(
    "head",
    [
        b"GET / HTTP/1.1\r\nX-Long: " + b"a" * 10_000 + b"\r\n\r\n",
        b"GET / HTTP/1.1\r\nX-Long: " + b"a" * 3_000_000,
        b"GET /" + b"a" * 10_000 + b" HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + b"X-Y: z\r\n" * 30 + b"\r\n",
        b"GET / HTTP/1.1\r\n" + b"X-Y: z\r\n" * 300_000,
    ],
)
def test_a_head_that_is_too_large_gets_a_431(connect, head):
    connection = connect()
    with contextlib.suppress(OSError):  # the server may have closed before it has taken everything
        connection.sendall(head)
    check_refusal(read_all(connection), 431, "header-too-large")


@pytest.mark.parametrize(
    "request_",
    [
        HEAD + b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
        HEAD + b"Transfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
        HEAD + b"Content-Length: 3\r\nContent-Length: 4\r\n\r\nabcd",
        HEAD + b"Content-Length: 3, 3\r\n\r\nabc",
        HEAD + b"Content-Length: +3\r\n\r\nabc",
        HEAD + b"Content-Length: " + b"9" * 60 + b"\r\n\r\nabc",
        HEAD + b"Content-Length : 3\r\n\r\nabc",
        HEAD + b"Transfer-Encoding: xchunked\r\n\r\nabc",
        HEAD + b"Transfer-Encoding: gzip, chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
        HEAD + b"Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
        HEAD + b"Transfer-Encoding: chunked, identity\r\n\r\nabc",
        HEAD + b"Transfer-Encoding: chunked\r\n\r\nzz\r\nabc\r\n0\r\n\r\n",
        HEAD + b" folded: 1\r\n\r\n",
        HEAD + b"X: \0\r\n\r\n",
        b"GET / HTTP/1.1\nHost: x\n\n",
        b"GET /\xff HTTP/1.1\r\nHost: x\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",  # a client that speaks TLS
        b"CONNECT x:80 HTTP/1.1\r\nHost: x\r\n\r\n",
    ],
)
def test_requests_that_could_be_read_in_two_ways_get_a_400(connect, request_):
    connection = connect()
    connection.sendall(request_)
    check_refusal(read_all(connection), 400, "malformed-request")


def test_what_follows_a_refused_request_is_not_taken_for_another(connect):
    connection = connect()
    connection.sendall(HEAD + b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + HEALTH * 3)
    assert read_all(connection).count(b"x-request-id") == 1


@pytest.mark.parametrize("bad", [b"nonsense\r\n\r\n", b"GET / HTTP/1.1\r\nX-Long: " + b"a" * 10_000])
def test_a_refusal_waits_for_the_answers_before_it(connect, scene, png, bad):
    data = png(scene)
    connection = connect()
    connection.sendall((HEAD + b"Content-Length: %d\r\n\r\n" % len(data) + data) * 2 + bad)
    received = read_all(connection)
    assert re.findall(rb"HTTP/1.1 (\d+)", received)[:2] == [b"200", b"200"]
    assert re.findall(rb"HTTP/1.1 4\d\d", received)
    assert received.count(b'"segments"') == 2


def test_an_offer_to_change_the_protocol_is_ignored(connect, scene, png):
    data = png(scene)
    connection = connect()
    connection.sendall(HEAD + b"Connection: Upgrade\r\nUpgrade: h2c\r\nContent-Length: %d\r\n\r\n" % len(data) + data)
    assert connection.recv(65536).startswith(b"HTTP/1.1 200")


def test_who_asks_before_sending_is_told_to_go_on(connect, scene, png):
    data = png(scene)
    connection = connect()
    connection.sendall(HEAD + b"Expect: 100-continue\r\nContent-Length: %d\r\n\r\n" % len(data))
    assert connection.recv(65536) == b"HTTP/1.1 100 Continue\r\n\r\n"
    connection.sendall(data)
    assert connection.recv(65536).startswith(b"HTTP/1.1 200")


def test_who_asks_before_sending_too_much_is_refused_at_once(connect):
    connection = connect()
    connection.sendall(HEAD + b"Expect: 100-continue\r\nContent-Length: 900000000\r\n\r\n")
    assert connection.recv(65536).startswith(b"HTTP/1.1 413")


def test_chunks_of_any_size_make_one_body(connect, scene, png):
    data = png(scene)
    connection = connect()
    connection.sendall(HEAD + b"Transfer-Encoding: chunked\r\n\r\n")
    for begin in range(0, len(data), 7):
        piece = data[begin : begin + 7]
        connection.sendall(b"%x\r\n%b\r\n" % (len(piece), piece))
    connection.sendall(b"0\r\n\r\n")
    assert connection.recv(65536).startswith(b"HTTP/1.1 200")


def test_a_crowd_of_idle_connections_keeps_nobody_out(connect, impatient):
    crowd = [connect() for _ in range(40)]
    for connection in crowd:
        with contextlib.suppress(OSError):
            connection.sendall(b"GET / HT")
    for _ in range(10):
        assert httpx.get(f"{impatient}/healthz", timeout=20).status_code == 200
    gone = [read_all(connection) for connection in crowd]
    assert any(b"evicted" in received for received in gone)


def wait_ready(url: str) -> None:
    with KNetClient(url) as client:
        client.wait_ready(60)
