"""What tests of a whole server do with one: ask it, and wait for what it says of itself."""

import errno
import time
from types import ModuleType

import httpx

from knet.client import KNetClient

ROUTE = "/v1/models/tiny/segment"


def wait_ready(url: str) -> None:
    with KNetClient(url) as client:
        client.wait_ready(60)


def post(url: str, data: bytes) -> httpx.Response:
    return httpx.post(url + ROUTE, content=data, timeout=60)


def wait_for(ask, is_right, seconds: float = 20.0):
    """What `ask` gives once it is right."""
    deadline = time.monotonic() + seconds
    while not is_right(answer := ask()):
        assert time.monotonic() < deadline, answer
        time.sleep(0.02)
    return answer


def metric(url: str, name: str) -> float:
    lines = httpx.get(f"{url}/metrics", timeout=30).text.splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.partition("{")[0].partition(" ")[0] == name)


def fail_once(monkeypatch, module: ModuleType) -> list[OSError]:
    """Let a module's next process not start, as there are no file descriptors; gives the failure, once it was."""
    made, failures = module.OwnProcess, []

    def make(*arguments):
        if not failures:
            failures.append(OSError(errno.EMFILE, "Too many open files"))
            raise failures[0]
        return made(*arguments)

    monkeypatch.setattr(module, "OwnProcess", make)
    return failures
