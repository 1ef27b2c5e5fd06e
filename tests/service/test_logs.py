import asyncio
import io
import json
import logging
import os
import re
import socket
import subprocess
import sys
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image

from knet.client import KNetClient
from service import logs
from service.middleware import RequestContext
from service.server import background
from service.settings import Settings
from service.threads import Threads
from tests.service.driving import post, wait_ready

TIME = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z"
# What somebody would send to forge a line, or to take over a terminal.
HOSTILE = '/a\n{"level": "info"}\r\x1b[31mred\x00\u2028\u202e\x85\udcff'


@pytest.fixture
def lines(tmp_path, monkeypatch) -> Iterator:
    """Configures the logs; gives a function that reads the lines written since."""
    loggers = [logging.root, *map(logging.getLogger, ("knet", "httpx"))]
    handlers, levels = logging.root.handlers[:], [logger.level for logger in loggers]
    file = (tmp_path / "log").open("w+")

    def read(level: str = "info", form: str | None = None):
        monkeypatch.setattr(sys, "stderr", file)  # here, as pytest sets its own for the test
        logs.configure(level, form)
        return lambda: (tmp_path / "log").read_text().splitlines()

    yield read
    logging.captureWarnings(False)
    logging.root.handlers[:] = handlers
    for logger, level in zip(loggers, levels, strict=True):
        logger.setLevel(level)
    file.close()
    logs.request_id.set("")


def test_a_line_is_a_json_object_where_nobody_looks(lines):
    read = lines()
    logging.getLogger("knet.engine").warning("engine %s ended", "tiny/1", extra={"status": 7, "body": "secret"})
    (line,) = map(json.loads, read())
    assert re.fullmatch(TIME, line.pop("time"))
    assert line == {"level": "warning", "logger": "knet.engine", "message": "engine tiny/1 ended", "status": 7}


def test_text_is_for_people(lines):
    read = lines(form="text")
    logs.request_id.set("abc")
    logging.getLogger("knet.engine").warning("engine %s läuft", "tiny/1")
    (line,) = read()
    assert re.fullmatch(TIME + r" WARNING knet\.engine: engine tiny/1 läuft \[abc\]", line)


@pytest.mark.parametrize("form", ["json", "text"])
def test_no_client_can_forge_a_line(lines, form):
    read = lines(form=form)
    logs.request_id.set("one")
    logging.getLogger("knet.http").info("GET %s", HOSTILE, extra={"path": HOSTILE})
    try:
        raise ValueError(HOSTILE)
    except ValueError:
        logging.getLogger("knet.http").exception("failed")
    written = "\n".join(read())
    assert all(one.isprintable() for one in written.replace("\n", ""))
    begins = [line for line in written.split("\n") if not line.startswith("    ")]
    assert len(begins) == 2
    if form == "json":
        first, second = map(json.loads, begins)
        assert first["path"] == HOSTILE
        assert first["message"] == f"GET {HOSTILE}"
        assert "ValueError: /a\n{" in second["exception"]


@pytest.mark.parametrize("form", ["json", "text"])
def test_everything_goes_through_it(lines, form):
    read = lines(form=form)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.warn("old ways", stacklevel=1)
    logging.getLogger("uvicorn.error").info("Started server process")
    logging.getLogger("knet.x").debug("not wanted")
    assert len(read()) == 2
    assert "old ways" in read()[0]
    assert "Started server process" in read()[1]


def test_libraries_tell_no_details_when_we_debug(lines):
    read = lines("debug")
    logging.getLogger("knet.x").debug("ours")
    logging.getLogger("PIL.PngImagePlugin").debug("STREAM %r", b"IHDR")
    assert [json.loads(line)["message"] for line in read()] == ["ours"]


def test_a_message_that_cannot_be_formatted_breaks_nothing(lines):
    read = lines()
    logging.getLogger("knet.x").info("%d", "no number")
    assert len(read()) == 1
    assert re.search(r"test_logs\.py:\d+: log message cannot be formatted", read()[0])


def test_threads_know_the_request(lines):
    read = lines()
    logs.request_id.set("abc")
    threads = Threads(2, "test")
    asyncio.run(threads.run(logging.getLogger("knet.x").info, "from %s", "inside"))
    threads.close()
    thread = threading.Thread(target=logging.getLogger("knet.x").info, args=("of nobody",))
    thread.start()
    thread.join()
    inside, outside = map(json.loads, read())
    assert inside["request_id"] == "abc"
    assert "request_id" not in outside


def _client(app) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(RequestContext(app)), base_url="http://test")


async def _broken(scope, receive, send):
    logging.getLogger("knet.x").info("inside")
    scope["state"]["api_key"] = "camera 7"
    raise RuntimeError("broken")


def test_all_lines_of_a_request_have_its_id(lines):
    read = lines()

    async def ask() -> None:
        async with _client(_broken) as client:
            response = await client.get(
                "/a%0Ab?secret=1", headers={"X-Request-ID": "my-id", "Authorization": "Bearer a very secret key"}
            )
            assert response.status_code == 500
            await client.get("/", headers={"X-Request-ID": "not\tsane"})

    asyncio.run(ask())
    inside, failed, _, access, other, *_ = map(json.loads, read())
    assert {line["request_id"] for line in (inside, failed, access)} == {"my-id"}
    assert (inside["message"], failed["message"]) == ("inside", "request failed")
    assert "RuntimeError: broken" in failed["exception"]
    assert access.pop("duration_ms") >= 0
    assert access.items() >= {"method": "GET", "path": "/a\nb", "status": 500, "key_name": "camera 7"}.items()
    assert re.fullmatch("[0-9a-f]{32}", other["request_id"])
    assert "secret" not in "".join(read())


def test_probes_do_not_drown_the_rest(lines):
    read = lines()

    async def answer(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    async def ask() -> None:
        async with _client(answer) as client:
            for path in ("/healthz", "/readyz", "/metrics", "/v1/models"):
                await client.get(path)

    asyncio.run(ask())
    assert [json.loads(line).get("path") for line in read()] == ["/v1/models"]


def test_requests_at_once_keep_their_ids_apart(lines):
    read = lines()
    logger, threads = logging.getLogger("knet.x"), Threads(4, "test")

    async def work(scope, receive, send):
        for _ in range(5):
            await asyncio.sleep(0)
            await threads.run(logger.info, scope["path"])
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    async def ask() -> None:
        async with _client(work) as client:
            await asyncio.gather(*(client.get(f"/{n}", headers={"X-Request-ID": f"id-{n}"}) for n in range(20)))

    asyncio.run(ask())
    threads.close()
    told = [json.loads(line) for line in read()]
    assert len(told) == 20 * 6
    assert all(line["request_id"] == f"id-{line.get('path', line['message'])[1:]}" for line in told)


_LOG_AND_ANSWER = """
import logging
from knet.client import KNetClient
from service import logs
logs.configure("info")
for number in range(1000):
    logging.getLogger("knet.http").info("line %d %s", number, "x" * 200)
print("alive")
"""


@pytest.mark.parametrize("where", ["2>/dev/full", "2>&-", "2> >(head -c 10 > /dev/null)"])
@pytest.mark.skipif(sys.platform != "linux", reason="/dev/full")
def test_a_log_that_cannot_be_written_breaks_nothing(where):
    command = f'"$0" -c "$1" {where}'
    done = subprocess.run(
        ["bash", "-c", command, sys.executable, _LOG_AND_ANSWER],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    assert done.stdout == "alive\n"


def test_a_line_after_a_broken_one_starts_anew(lines, monkeypatch):
    read = lines()
    write = os.write
    sizes = iter([10, -1])

    def full(descriptor: int, data: bytes) -> int:
        if (size := next(sizes, len(data))) < 0:
            raise OSError(28, "No space left on device")
        return write(descriptor, data[:size])

    monkeypatch.setattr(os, "write", full)
    logging.getLogger("knet.x").info("lost")
    logging.getLogger("knet.x").info("kept")
    assert len(read()) == 2
    assert json.loads(read()[1])["message"] == "kept"


_LOG_MORE_THAN_A_PIPE_HOLDS = """
import logging
from service import logs
logs.configure("info")
logger = logging.getLogger("knet.http")
for number in range(2000):
    logger.info("line %d %s", number, "x" * 200)
print("alive", flush=True)
input()
logger.info("long " + "y" * 100_000)
"""


def test_a_log_that_nobody_reads_stops_nothing_and_goes_on_when_it_is_read():
    command = [sys.executable, "-c", _LOG_MORE_THAN_A_PIPE_HOLDS]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, **pipes) as process:
        assert process.stdout.readline() == b"alive\n"
        first = os.read(process.stderr.fileno(), 1 << 20)
        _, rest = process.communicate(b"\n", timeout=60)
    told = [json.loads(line)["message"] for line in (first + rest).splitlines()]
    assert told[-1] == "long " + "y" * 100_000
    assert 100 < len(told) < 2000
    assert all(message.startswith(f"line {number} ") for number, message in enumerate(told[:-1]))


@pytest.mark.skipif(sys.platform != "linux", reason="/dev/full")
def test_a_server_with_a_full_disk_for_its_logs_answers(repository, scene, png):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "knet", "serve", "--repository", str(repository), "--port", str(port)]
    with Path("/dev/full").open("w") as full, subprocess.Popen(command, stderr=full) as process:
        try:
            with KNetClient(f"http://127.0.0.1:{port}") as client:
                client.wait_ready(60)
                assert client.segment(png(scene), model="tiny")["segments"]
                process.terminate()
            assert process.wait(20) == 0
        finally:
            process.kill()


def test_what_libraries_print_of_a_damaged_image_is_no_line_of_the_log(repository, capfd):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64), np.uint8)
    file = io.BytesIO()
    Image.fromarray(noise > 127).save(file, "TIFF", compression="group4")
    data = bytearray(file.getvalue())
    data[100:300] = noise.tobytes()[:200]
    with background(Settings(repository=repository, port=0)) as url:
        wait_ready(url)
        for _ in range(5):
            post(url, bytes(data))
    assert "Fax" not in capfd.readouterr().err
