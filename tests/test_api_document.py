"""Every example in docs/api.md works as written, and every route is in it."""

import json
import re
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from knet.client import KNetClient
from service.server import background
from service.settings import Settings

ROOT = Path(__file__).resolve().parent.parent
DOCUMENT = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
WORDS = " ".join(DOCUMENT.split())
SHELL = re.findall(r"```sh\n(.*?)```", DOCUMENT, flags=re.S)
PYTHON = re.findall(r"```python\n(.*?)```", DOCUMENT, flags=re.S)


@pytest.fixture(scope="module")
def url(tmp_path_factory):
    """Of a server with the nuclei model alone."""
    repository = tmp_path_factory.mktemp("repository")
    (repository / "nuclei").symlink_to(ROOT / "repository" / "nuclei")
    with background(Settings(repository=repository, host="127.0.0.1", port=0, api_keys=())) as url:
        with KNetClient(url) as client:
            client.wait_ready(300)
        yield url


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    """A working folder with the examples in it, where files may be written."""
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    return tmp_path


@pytest.mark.parametrize("block", SHELL, ids=range(len(SHELL)))
def test_commands_have_the_status_that_they_should(url, here, block):
    expected = re.match(r"# ([0-9]{3})\n", block)
    command = block.replace("http://127.0.0.1:8000", url).replace("curl ", "curl --write-out '%{stderr}%{http_code}' ")
    command = re.sub(r"^knet ", f"{sys.executable} -m knet ", command, flags=re.M)
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    if "curl" in command:
        assert done.stderr == (expected[1] if expected else "200"), done.stdout
    if "--output" in command:
        assert (here / "overlay.png").read_bytes().startswith(b"\x89PNG")
    elif "/metrics" in command:
        assert "knet_requests_total" in done.stdout
    else:
        assert [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.parametrize("block", PYTHON, ids=range(len(PYTHON)))
def test_python_runs(url, here, block):
    address = url.removeprefix("http://")
    names: dict[str, object] = {}
    exec(block.replace("127.0.0.1:8000", address), names)
    results = [names[name] for name in ("masks", "answers") if name in names]
    assert results
    assert all(len(result) > 0 for result in results)


def test_every_route_has_an_example(url):
    paths = httpx.get(f"{url}/openapi.json").json()["paths"]
    examples = re.findall(r"http://127\.0\.0\.1:8000([^'? ]*)", "".join(SHELL))
    shown = {
        re.sub(r"/nuclei", "/{name}", re.sub(r"/versions/[0-9]+", "/versions/{version}", path)) for path in examples
    }
    for path, operations in paths.items():
        assert path in shown, path
        for method in operations:
            assert f"`{method.upper()} {path}`" in WORDS, path
