import concurrent.futures
import contextlib
import logging
import multiprocessing
import os
import re
import signal
import socket
import stat
import subprocess
import sys
import time
from pathlib import Path

import httpx
import numpy as np
import pytest

from service import codecs
from service.errors import ServiceError
from service.server import background
from service.settings import Settings
from tests.service.driving import ROUTE, fail_once, metric, post, wait_for, wait_ready


def test_server_is_not_ready_until_its_engine_is(repository, posted):
    with background(Settings(repository=repository, port=0)) as url:
        while True:  # the socket listens before the application runs
            response = httpx.get(f"{url}/readyz", timeout=30)
            if response.status_code == 503:
                assert "is starting" in response.json()["detail"]
                early = post(url, posted)
                assert early.status_code in (200, 503)
                assert early.status_code == 200 or early.headers["retry-after"]
            break
        wait_ready(url)
        assert post(url, posted).status_code == 200


def test_a_server_that_stops_while_it_loads_says_nothing_untrue(slow_repository, caplog):
    with caplog.at_level(logging.INFO, logger="knet"), background(Settings(repository=slow_repository, port=0)):
        pass
    assert not [record for record in caplog.records if record.levelno > logging.INFO]


def test_killed_engine_gives_503_and_the_server_recovers(slow_repository, posted):
    with (
        background(Settings(repository=slow_repository, port=0, engine_threads=1)) as url,
        concurrent.futures.ThreadPoolExecutor(3) as pool,
    ):
        wait_ready(url)
        pending = [pool.submit(post, url, posted) for _ in range(3)]
        time.sleep(0.2)
        (engine,) = (child for child in multiprocessing.active_children() if child.name == "engine tiny/1")
        os.kill(engine.pid, signal.SIGKILL)
        responses = [future.result() for future in pending]
        failed = [response for response in responses if response.status_code != 200]
        assert len(failed) >= 2  # the first may have been done
        assert {response.json()["type"] for response in failed} == {"urn:knet:problem:engine-down"}
        assert all(response.status_code == 503 and response.headers["retry-after"] for response in failed)
        assert httpx.get(f"{url}/healthz").status_code == 200
        assert post(url, posted).json()["type"] == "urn:knet:problem:engine-down"  # before any work
        assert metric(url, "knet_refusals_total") == 1
        wait_for(lambda: metric(url, "knet_engine_restarts_total"), lambda value: value == 1)
        wait_ready(url)
        assert post(url, posted).status_code == 200
    assert not [child for child in multiprocessing.active_children() if child.name == "engine tiny/1"]


def test_killed_codecs_give_503_and_come_back_linked(slow_repository, posted):
    others = set(multiprocessing.active_children())  # of servers that serve other tests
    with (
        background(Settings(repository=slow_repository, port=0, engine_threads=1, codec_processes=2)) as url,
        concurrent.futures.ThreadPoolExecutor(4) as pool,
    ):
        wait_ready(url)
        pending = [pool.submit(post, url, posted) for _ in range(4)]
        wait_for(lambda: metric(url, "knet_in_flight"), lambda value: value == 4)
        ours = set(multiprocessing.active_children()) - others
        codecs = [child for child in ours if child.name.startswith("codec")]
        assert len(codecs) == 2
        for codec in codecs:
            os.kill(codec.pid, signal.SIGKILL)
        responses = [future.result() for future in pending]
        failed = [response for response in responses if response.status_code != 200]
        assert failed
        assert {response.json()["type"] for response in failed} == {"urn:knet:problem:codec-down"}
        assert all(response.status_code == 503 and response.headers["retry-after"] for response in failed)
        wait_ready(url)
        answers = list(pool.map(lambda _: post(url, posted), range(4)))
        assert {response.status_code for response in answers} <= {200, 503}
        wait_for(lambda: post(url, posted).status_code, lambda status: status == 200)
        assert metric(url, "knet_engine_restarts_total") == 0


def test_a_codec_that_hangs_is_ended_and_holds_up_no_engine(repository, png, posted, monkeypatch):
    monkeypatch.setattr(codecs, "_HUNG_S", 0.5)
    large = png(np.random.default_rng(0).integers(0, 13, (500, 500, 3)).astype(np.uint8))  # more than a pipe holds
    others = set(multiprocessing.active_children())
    settings = Settings(repository=repository, port=0, codec_processes=2, request_timeout_s=2)
    with background(settings) as url, concurrent.futures.ThreadPoolExecutor(6) as pool:
        wait_ready(url)
        ours = set(multiprocessing.active_children()) - others
        hung = next(child for child in ours if child.name.startswith("codec"))
        os.kill(hung.pid, signal.SIGSTOP)
        answers = [pool.submit(post, url, large) for _ in range(6)]
        time.sleep(0.5)
        os.kill(next(child for child in ours if child.name == "engine tiny/10").pid, signal.SIGKILL)
        assert {future.result().status_code for future in answers} & {503, 504}
        wait_ready(url)
        assert not hung.is_alive()
        wait_for(lambda: post(url, posted).status_code, lambda status: status == 200)


def test_a_codec_is_not_ended_for_images_that_it_never_had(repository, png, posted, monkeypatch):
    monkeypatch.setattr(codecs, "_HUNG_S", 1.5)
    large = png(np.random.default_rng(0).integers(0, 13, (500, 500, 3)).astype(np.uint8))  # more than a pipe holds
    others = set(multiprocessing.active_children())
    with (
        background(Settings(repository=repository, port=0, codec_processes=1)) as url,
        concurrent.futures.ThreadPoolExecutor(6) as pool,
    ):
        wait_ready(url)
        ours = set(multiprocessing.active_children()) - others
        (codec,) = (child for child in ours if child.name.startswith("codec"))
        os.kill(codec.pid, signal.SIGSTOP)
        # The first fills the pipe; the others are cancelled before they are sent.
        hasty = url + ROUTE + "?timeout_ms=200"
        answers = [pool.submit(httpx.post, hasty, content=large, timeout=60) for _ in range(6)]
        assert {future.result().status_code for future in answers} == {504}
        os.kill(codec.pid, signal.SIGCONT)
        time.sleep(3.5)
        assert codec.is_alive()
        assert post(url, posted).status_code == 200


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_hung_codec_does_not_keep_a_server_that_stops(serve, repository, png):
    process, url = serve("--repository", str(repository), "--request-timeout-s", "1")
    wait_ready(url)
    named = {child: Path(f"/proc/{child}/comm").read_text().strip() for child in children_of(process.pid)}
    for child in [child for child, name in named.items() if name == "knet-codec"]:
        os.kill(child, signal.SIGSTOP)
    large = png(np.random.default_rng(0).integers(0, 13, (500, 500, 3)).astype(np.uint8))
    assert post(url, large).status_code == 504
    for child in [child for child, name in named.items() if name == "knet-engine"]:
        os.kill(child, signal.SIGKILL)  # the new ones cannot be linked with
    time.sleep(3)
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 0
    wait_gone(list(named))


def test_a_codec_comes_back_after_a_time_without_file_descriptors(repository, posted, monkeypatch):
    others = set(multiprocessing.active_children())
    with background(Settings(repository=repository, port=0, codec_processes=1)) as url:
        wait_ready(url)
        ours = set(multiprocessing.active_children()) - others
        (codec,) = (child for child in ours if child.name.startswith("codec"))
        failures = fail_once(monkeypatch, codecs)
        os.kill(codec.pid, signal.SIGKILL)
        wait_for(lambda: len(failures), bool)
        wait_for(lambda: post(url, posted).status_code, lambda status: status == 200, 60)
        assert not codec.is_alive()


def test_health_answers_while_the_engine_works(slow_repository, posted):
    with (
        background(Settings(repository=slow_repository, port=0, engine_threads=1)) as url,
        concurrent.futures.ThreadPoolExecutor(1) as pool,
    ):
        wait_ready(url)
        pending = pool.submit(post, url, posted)
        time.sleep(0.1)
        assert httpx.get(f"{url}/healthz").status_code == 200
        assert not pending.done()
        assert pending.result().status_code == 200


@pytest.fixture
def serve(slow_repository):
    """Start `knet serve` as a user does; gives the process and its URL."""
    processes = []

    def start(*options: str) -> tuple[subprocess.Popen, str]:
        command = [sys.executable, "-m", "knet", "serve", "--repository", str(slow_repository), "--port", "0"]
        process = subprocess.Popen([*command, *options], stderr=subprocess.PIPE, text=True)
        processes.append(process)
        for line in process.stderr:
            if match := re.search(r"listening on (http://\S+)", line):
                return process, match[1]
        raise AssertionError("the server did not start")

    yield start
    for process in processes:
        process.kill()
        process.wait()
        process.stderr.close()


def children_of(pid: int) -> list[int]:
    return [
        int(child) for task in Path(f"/proc/{pid}/task").iterdir() for child in (task / "children").read_text().split()
    ]


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def wait_gone(pids: list[int], seconds: float = 5.0) -> None:
    deadline = time.monotonic() + seconds
    while any(is_alive(pid) for pid in pids):
        assert time.monotonic() < deadline, f"{pids} still run"
        time.sleep(0.05)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_sigterm_lets_all_accepted_requests_finish_and_exits_with_0(serve, posted):
    process, url = serve("--max-batch", "1")
    wait_ready(url)
    children = children_of(process.pid)
    assert children
    host, port = url.removeprefix("http://").split(":")
    with (
        concurrent.futures.ThreadPoolExecutor(5) as pool,
        httpx.Client(base_url=url, timeout=60) as kept,
        socket.create_connection((host, int(port))) as idle,
    ):
        kept.get("/healthz")
        idle.sendall(b"GET /hea")  # a client that does nothing more keeps nobody waiting
        pending = [pool.submit(post, url, posted) for _ in range(4)]
        wait_for(lambda: metric(url, "knet_in_flight"), lambda value: value == 4)
        process.send_signal(signal.SIGTERM)
        wait_for(lambda: kept.get("/readyz"), lambda response: response.status_code == 503)
        refused = kept.post(ROUTE, content=posted)
        assert refused.json()["type"] == "urn:knet:problem:draining"
        assert refused.headers["retry-after"]
        assert kept.get("/healthz").status_code == 200
        assert [future.result().status_code for future in pending] == [200] * 4
    assert process.wait(20) == 0
    wait_gone(children)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_client_that_never_ends_its_body_does_not_keep_the_server(serve):
    process, url = serve("--drain-timeout-s", "1")
    wait_ready(url)
    host, port = url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as client:
        client.sendall(f"POST {ROUTE} HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\nabc".encode())
        time.sleep(0.3)
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_sigterm_leaves_slow_readers_the_whole_time(serve, repository, png):
    process, url = serve("--repository", str(repository))
    wait_ready(url)
    image = np.zeros((600, 600, 3), np.uint8)
    image[..., 0] = np.random.default_rng(0).integers(2, 12, image.shape[:2])  # megabytes of polygons
    data = png(image)
    host, port = url.removeprefix("http://").split(":")
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect((host, int(port)))
        head = f"POST {ROUTE}?format=polygon HTTP/1.1\r\nHost: x\r\nContent-Length: {len(data)}\r\n\r\n"
        client.sendall(head.encode() + data)
        received = client.recv(4096)  # the rest waits in the server
        process.send_signal(signal.SIGTERM)
        time.sleep(6.5)
        while piece := client.recv(1_000_000):
            received += piece
    head, _, content = received.partition(b"\r\n\r\n")
    assert re.search(rb"(?i)content-length: (\d+)", head)[1] == b"%d" % len(content)
    assert process.wait(20) == 0


def test_a_second_signal_ends_the_server_at_once(serve, posted):
    process, url = serve("--drain-delay-s", "60")
    wait_ready(url)
    process.send_signal(signal.SIGTERM)
    wait_for(lambda: httpx.get(f"{url}/readyz"), lambda response: response.status_code == 503)
    assert post(url, posted).status_code == 200  # load balancers have time to look elsewhere
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 0


def test_a_model_may_have_replicas_and_answers_while_one_lives(slow_repository, posted):
    models = {"tiny": {"replicas": 2, "engine_threads": 1}}
    with background(Settings(repository=slow_repository, port=0, models=models)) as url:
        wait_ready(url)
        wait_for(lambda: metric(url, "knet_ready_engines"), lambda value: value == 2)
        first, _ = (child for child in multiprocessing.active_children() if child.name == "engine tiny/1")
        os.kill(first.pid, signal.SIGKILL)
        wait_for(lambda: metric(url, "knet_ready_engines"), lambda value: value < 2)
        assert post(url, posted).status_code == 200
        wait_for(lambda: metric(url, "knet_ready_engines"), lambda value: value == 2)
        assert metric(url, "knet_engine_restarts_total") == 1


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_killed_server_leaves_no_engine_process(serve, posted):
    process, url = serve()
    wait_ready(url)
    children = children_of(process.pid)
    assert children  # else there would be nothing to leave behind
    process.kill()
    process.wait()
    wait_gone(children)


def test_a_port_in_use_is_told(repository, server):
    port = int(server.rpartition(":")[2])
    with (
        pytest.raises(ServiceError, match=f"cannot listen on 127.0.0.1:{port}"),
        background(Settings(repository=repository, port=port)),
    ):
        pass


def server_end(client: socket.socket) -> socket.socket:
    """A copy of the server's end of a connection; the server runs in this process."""
    for path in list(Path("/proc/self/fd").iterdir()):
        try:
            copy = os.dup(int(path.name))
        except OSError:  # closed meanwhile
            continue
        if stat.S_ISSOCK(os.fstat(copy).st_mode):
            found = socket.socket(fileno=copy)
            with contextlib.suppress(OSError):  # not connected
                if found.getpeername() == client.getsockname():
                    return found
            found.close()
        else:
            os.close(copy)
    raise AssertionError("the server has no such connection")


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_answers_do_not_wait_for_acknowledgements(server):
    """Without TCP_NODELAY each answer on a kept connection takes 40 ms."""
    host, port = server.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=10) as client:
        client.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        assert client.recv(1000).startswith(b"HTTP/1.1 200")  # accepted and served
        with server_end(client) as end:
            assert end.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_memory_does_not_grow_with_requests(server, posted):
    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1])

    with httpx.Client(base_url=server) as client:
        for _ in range(30):
            client.post(ROUTE, content=posted)
        before = resident()
        for _ in range(100):
            client.post(ROUTE, content=posted)
    assert resident() - before < 2000  # pages of 4 kB
