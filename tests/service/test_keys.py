import logging
import re
import time
from pathlib import Path

import httpx
import pytest
from pydantic import ValidationError
from typer.testing import CliRunner

from knet.cli import app
from service.errors import ForbiddenError, ServiceError
from service.keys import KeyRing, new_key, read_keys, require_admin
from service.server import background
from service.settings import Settings


def replace(path: Path, text: str) -> None:
    """As a careful administrator does: the file is never half written."""
    beside = path.with_suffix(".new")
    beside.write_text(text)
    beside.replace(path)


def status(url: str, key: str) -> int:
    return httpx.get(f"{url}/v1/models", headers={"Authorization": f"Bearer {key}"}).status_code


def wait_for_status(url: str, key: str, wanted: int) -> None:
    deadline = time.monotonic() + 20
    while status(url, key) != wanted:
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_a_new_key_is_long_and_its_line_holds_its_hash_alone(tmp_path):
    key, line = new_key("camera-3")
    other, _ = new_key("camera-3")
    assert key != other
    assert len(key) > 40
    assert key not in line
    path = tmp_path / "keys"
    path.write_text(f"# cameras\n\n{line}\n{new_key('boss', is_admin=True)[1]}\n")
    camera, boss = read_keys(path)
    assert (camera.name, camera.is_admin) == ("camera-3", False)
    assert (boss.name, boss.is_admin) == ("boss", True)


def test_key_command_prints_a_key_and_its_line():
    output = CliRunner().invoke(app, ["key", "camera", "--admin"]).output
    assert re.search(r"knet_\S{43}", output)
    assert re.search(r"camera:sha256:[0-9a-f]{64}:admin$", output, re.MULTILINE)


@pytest.mark.parametrize("name", ["", "a b", "a:b", "a" * 65, "ä"])
def test_names_that_a_line_cannot_hold_are_refused(name):
    with pytest.raises(ValueError, match="must have 1 to 64"):
        new_key(name)


@pytest.mark.parametrize(
    "line", ["my-secret-key-pasted-by-mistake", "a:sha256:123", "a:md5:" + "0" * 32, ":sha256:" + "0" * 64]
)
def test_a_line_that_is_none_is_told_by_its_number_and_not_repeated(tmp_path, line):
    path = tmp_path / "keys"
    path.write_text(f"{new_key('a')[1]}\n{line}\n")
    with pytest.raises(ServiceError, match="line 2") as caught:
        read_keys(path)
    assert line not in caught.value.detail


def test_a_missing_or_huge_file_is_told(tmp_path):
    with pytest.raises(ServiceError, match="cannot read the API keys"):
        read_keys(tmp_path / "keys")
    (tmp_path / "keys").write_bytes(b"#" * 2_000_000)
    with pytest.raises(ServiceError, match="1,048,576 bytes"):
        read_keys(tmp_path / "keys")


def test_keys_are_rotated_without_a_restart(repository, tmp_path):
    path = tmp_path / "keys"
    (old, old_line), (new, new_line) = new_key("old"), new_key("new")
    path.write_text(old_line + "\n")
    with background(Settings(repository=repository, port=0, api_keys_file=path)) as url:
        assert status(url, old) == 200
        assert status(url, new) == 401
        replace(path, f"{old_line}\n{new_line}\n")
        wait_for_status(url, new, 200)
        assert status(url, old) == 200
        replace(path, new_line + "\n")
        wait_for_status(url, old, 401)
        replace(path, "half a li")  # a mistake does not lock out those who had a key
        time.sleep(1.2)
        assert status(url, new) == 200
        path.unlink()
        time.sleep(1.2)
        assert status(url, new) == 200
        replace(path, "# nobody\n")  # and this is no mistake: it locks, and does not open
        wait_for_status(url, new, 401)
        assert httpx.get(f"{url}/v1/models").status_code == 401
        assert httpx.get(f"{url}/metrics").status_code == 401
        assert httpx.get(f"{url}/healthz").status_code == 200


def test_the_log_tells_no_key(repository, tmp_path, caplog):
    path = tmp_path / "keys"
    key, line = new_key("camera")
    path.write_text(line)
    with caplog.at_level(logging.DEBUG), background(Settings(repository=repository, port=0, api_keys_file=path)) as url:
        assert status(url, key) == 200
        assert status(url, key[:-1]) == 401
    assert key[:-1] not in caplog.text


def test_failed_attempts_take_no_memory(tmp_path):
    import asyncio
    import tracemalloc

    ring = KeyRing(Settings(api_keys=("a key that is long enough",)))

    async def guess(count: int) -> None:
        for n in range(count):
            assert await ring.find(f"guess {n} " * 50) is None

    asyncio.run(guess(100))
    tracemalloc.start()
    asyncio.run(guess(2000))
    grown, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert grown < 100_000


@pytest.mark.parametrize(
    ("state", "is_allowed"), [({"is_admin": True}, True), ({"is_admin": False}, False), ({}, False)]
)
def test_require_admin(state, is_allowed):
    if is_allowed:
        return require_admin({"state": state})
    with pytest.raises(ForbiddenError, match="KNET_ADMIN_KEYS"):
        require_admin({"state": state})
    return None


def states_of(settings: Settings, headers: dict[str, str]) -> dict | None:
    """What the middleware puts into the request's state; None where it refuses."""
    import asyncio

    from service.keys import ApiKeys
    from service.settings import is_loopback

    seen = {}

    async def inner(scope, receive, send) -> None:
        seen.update(scope["state"], passed=True)

    async def send(message) -> None:
        pass

    scope = {
        "type": "http",
        "method": "POST",
        "path": "/v1/models",
        "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
    }
    asyncio.run(ApiKeys(inner, keys=KeyRing(settings), is_private=is_loopback(settings.host))(scope, None, send))
    return seen if seen else None


def test_admins_are_told_from_others(tmp_path):
    key, line = new_key("boss", is_admin=True)
    path = tmp_path / "keys"
    path.write_text(line)
    settings = Settings(
        api_keys=("plain key, long enough",), admin_keys=("admin key, long enough",), api_keys_file=path
    )

    def state(key: str) -> dict | None:
        return states_of(settings, {"authorization": f"Bearer {key}"})

    assert state("plain key, long enough") == {"api_key": "key-1", "is_admin": False, "passed": True}
    assert state("admin key, long enough") == {"api_key": "admin-1", "is_admin": True, "passed": True}
    assert state(key) == {"api_key": "boss", "is_admin": True, "passed": True}
    assert state("another key, long enough") is None


def test_an_open_server_has_admins_on_loopback_alone_and_not_in_foreign_pages():
    assert states_of(Settings(), {})["is_admin"]
    assert not states_of(Settings(), {"origin": "https://evil.example"})["is_admin"]
    assert not states_of(Settings(host="0.0.0.0", allow_unauthenticated=True), {})["is_admin"]


def test_a_file_of_keys_is_enough_to_listen_elsewhere(tmp_path):
    assert Settings(host="0.0.0.0", api_keys_file=tmp_path / "keys").api_keys_file
    with pytest.raises(ValidationError, match="16 characters"):
        Settings(admin_keys=("short",))


def test_server_does_not_start_with_a_file_that_cannot_be_read(repository, tmp_path):
    with (
        pytest.raises(ServiceError, match="cannot read the API keys"),
        background(Settings(repository=repository, port=0, api_keys_file=tmp_path / "none")),
    ):
        pass
