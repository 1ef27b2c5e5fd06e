import subprocess
import sys

import pytest
from typer.testing import CliRunner

from knet.cli import app
from service.settings_text import describe, describe_models

KEY = "a key of 16 bytes"


@pytest.fixture
def invoke(monkeypatch):
    def call(*arguments: object):
        return CliRunner().invoke(app, ["serve", *map(str, arguments)], env={"COLUMNS": "100"})

    return call


def test_help_has_every_setting_with_variable_and_default(invoke):
    result = invoke("--help")
    assert result.exit_code == 0
    assert result.stdout.startswith("Usage: knet serve") or result.stdout.startswith("Usage: root serve")
    words = " ".join(result.stdout.split()).replace("- ", "-")
    for setting in describe():
        option = f"--{setting.name.replace('_', '-')} "
        assert (option in words) != setting.is_secret
        assert setting.variable in words
        if setting.default:
            assert f"Default: {setting.default}." in words
    for setting in describe_models():
        assert f"{setting.name}: " in words


def test_options_are_settings(invoke, tmp_path, monkeypatch):
    monkeypatch.setenv("KNET_PORT", "1")
    monkeypatch.setenv("KNET_MAX_IMAGES", "3")
    monkeypatch.setenv("KNET_API_KEYS", KEY)
    (tmp_path / "knet.toml").write_text("port = 2\nmax_queue = 5\n")
    result = invoke("--config", tmp_path / "knet.toml", "--port", 3, "--allow-unauthenticated", "--print-config")
    assert result.exit_code == 0, result.output
    for line in (
        "port = 3  # option --port",
        "allow_unauthenticated = true  # option --allow-unauthenticated",
        "max_images = 3  # environment KNET_MAX_IMAGES",
        f"max_queue = 5  # file {tmp_path / 'knet.toml'}",
    ):
        assert line in result.stdout
    assert KEY not in result.stdout


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("--prot", 1), 2, "No such option: --prot"),
        (("--port", "x"), 2, "valid integer"),
        (("--api-keys", KEY), 2, "No such option: --api-keys"),
        (("--config", "none.toml"), 1, "knet: settings file none.toml does not exist"),
        (("--max-images", 9, "--max-queue", 8), 1, "knet: settings: max_images 9 must not exceed max_queue 8"),
        (("--port", 65536), 1, "knet: port: Input should be less than or equal to 65535"),
        (("model",), 2, "unexpected extra argument"),
    ],
)
def test_what_is_wrong_is_told(invoke, arguments, code, words):
    result = invoke(*arguments)
    assert result.exit_code == code
    assert words in " ".join(result.stderr.split())
    assert "Traceback" not in result.output


def test_help_loads_neither_the_server_nor_a_runtime():
    code = """
import sys
from knet.cli import app
try:
    app(["serve", "--help"])
except SystemExit as end:
    print(end.code, sorted({"torch", "cv2", "fastapi", "onnxruntime", "uvicorn"} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip().endswith("0 []")
