"""What must not be in the serving path, and what must not be read through the API."""

import ast
import json
from pathlib import Path

import pytest

from service import artifact
from service.errors import ArtifactError
from service.repository import scan

SERVICE = Path(__file__).parents[2] / "service"
FORBIDDEN_MODULES = {"pickle", "_pickle", "cPickle", "marshal", "shelve", "dill", "cloudpickle", "joblib", "torch"}
# Each of these unpickles: of a connection only bytes are taken, and queues and managers pickle whatever they carry.
FORBIDDEN_ATTRIBUTES = {"recv", "Queue", "SimpleQueue", "JoinableQueue", "Manager", "Pool", "ProcessPoolExecutor"}
FORBIDDEN_CALLS = {"eval", "exec", "compile", "__import__"}


@pytest.mark.parametrize("path", sorted(SERVICE.rglob("*.py")), ids=lambda path: path.stem)
def test_nothing_is_unpickled(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        where = f"{path.name}:{getattr(node, 'lineno', 0)}"
        if isinstance(node, ast.Import):
            assert not {name.name.partition(".")[0] for name in node.names} & FORBIDDEN_MODULES, where
        elif isinstance(node, ast.ImportFrom):
            assert (node.module or "").partition(".")[0] not in FORBIDDEN_MODULES, where
            if (node.module or "").startswith(("multiprocessing", "concurrent")):
                assert not {name.name for name in node.names} & FORBIDDEN_ATTRIBUTES, where
        elif isinstance(node, ast.Call):
            name = node.func.id if isinstance(node.func, ast.Name) else getattr(node.func, "attr", "")
            is_method = isinstance(node.func, ast.Attribute)
            assert is_method or name not in FORBIDDEN_CALLS, where
            is_of_threads = is_method and ast.unparse(node.func.value) == "queue"  # the standard library's, no pickle
            assert not (is_method and name in FORBIDDEN_ATTRIBUTES and not is_of_threads), where
            assert not (is_method and name == "send" and is_connection(node.func)), where
            assert not any(keyword.arg == "allow_pickle" for keyword in node.keywords), where


def is_connection(function: ast.Attribute) -> bool:
    """By its name; sockets and ASGI have a `send`, too."""
    return "connection" in ast.unparse(function.value).lower() or "pipe" in ast.unparse(function.value).lower()


@pytest.mark.parametrize("file", ["../model.onnx", "/etc/passwd", "a/../../b", "C:\\model", "..\\b", ""])
def test_a_graph_cannot_lie_outside_of_its_folder(tiny, tmp_path, file):
    tiny.write_artifact(tmp_path)
    path = tmp_path / "tiny" / "1" / artifact.FILE_NAME
    document = json.loads(path.read_text())
    document["variants"][0]["file"] = file
    path.write_text(json.dumps(document))
    with pytest.raises(ArtifactError, match="relative path"):
        scan(tmp_path)


def test_a_graph_that_was_changed_is_not_loaded(tiny, tmp_path):
    tiny.write_artifact(tmp_path)
    graph = tmp_path / "tiny" / "1" / "model.onnx"
    graph.write_bytes(graph.read_bytes() + b"\0")
    with pytest.raises(ArtifactError, match="sha256"):
        scan(tmp_path)


SECRETS = ("model.onnx", "artifact.json", "settings.py", "..")


@pytest.mark.parametrize(
    "path",
    [
        "/v1/models/tiny/model.onnx",
        "/v1/models/tiny/versions/2/model.onnx",
        "/v1/models/..%2f..%2f..%2f..%2fetc%2fpasswd",
        "/v1/models/tiny/versions/..%2f..%2fartifact.json/segment",
        "/v1/models/%2e%2e/%2e%2e/artifact.json",
        "/v1/models/tiny%00",
        "/repository/tiny/2/model.onnx",
        "/service/settings.py",
        "/static/../settings.py",
        "/..%5c..%5csettings.py",
        "/page/../settings.py",
        "/.env",
        "/settings",
        "/v1/settings",
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_files_and_settings_cannot_be_read(http, method, path):
    response = http.request(method, path, content=b"a" if method == "POST" else None)
    assert response.status_code in (404, 405)
    assert "root:" not in response.text
    assert "sha256" not in response.text


def test_what_the_api_tells_names_no_path_and_no_setting(http, repository):
    for path in ("/v1/models", "/v1/models/tiny", "/healthz", "/readyz", "/openapi.json", "/"):
        text = http.get(path).text
        assert str(repository) not in text
        assert str(SERVICE) not in text
        assert "KNET_API_KEYS" not in text
