"""The commands of docs/quick_start.md, docs/own_data.md and docs/edge.md work as written, in their order."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from knet.client import KNetClient
from service.server import background
from service.settings import Settings

ROOT = Path(__file__).resolve().parent.parent
INSTALLS = ("python3 -m venv", ". .venv", "pip ", "npm ", "knet --install-completion")
URL = "http://127.0.0.1:8000"


def blocks(name: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / "docs" / name).read_text(encoding="utf-8"), flags=re.S)


def commands(name: str) -> list[str]:
    """Every line to be typed, but for those that install."""
    lines = "\n".join(blocks(name, "sh")).replace("\\\n", " ").splitlines()
    return [line for line in lines if line.strip() and not line.startswith(INSTALLS)]


def run(command: str, folder: Path, **replaced: str) -> str:
    """What a line prints; `knet` is this checkout's."""
    for old, new in replaced.items():
        command = command.replace(URL if old == "url" else old, new)
    command = re.sub(r"^knet ", f"{sys.executable} -m knet ", command)
    variables = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        ["bash", "-c", command], cwd=folder, env=variables, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture
def here(tmp_path) -> Path:
    """A checkout: examples and models of this one."""
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    shutil.copytree(ROOT / "repository", tmp_path / "repository")
    return tmp_path


@pytest.fixture
def serve(here) -> Iterator[str]:
    """URL of what `knet serve` would serve here."""
    with background(Settings(repository=here / "repository", host="127.0.0.1", port=0, api_keys=())) as url:
        with KNetClient(url) as client:
            client.wait_ready(300)
        yield url


def test_commands_and_options_of_the_pages_exist():
    from typer.main import get_command

    from knet.cli import app
    from knet.serve import command as serve

    known = {**get_command(app).commands, "serve": get_command(serve)}
    for page in ("quick_start.md", "own_data.md", "edge.md"):
        for line in commands(page):
            words = shlex.split(line)
            if words[0] != "knet":
                continue
            options = {text for parameter in known[words[1]].params for text in parameter.opts}
            assert {word for word in words if word.startswith("--")} <= options, line


def test_quick_start_runs(here, serve, monkeypatch):
    seen = []
    for command in commands("quick_start.md"):
        if command == "knet serve":  # it is there
            continue
        seen.append(run(command.replace("--batch 1", "--batch 1 --repeats 3"), here, url=serve))
    table, models, answer, _ = seen
    assert "nucleus" in table
    assert (here / "demo" / "nuclei.png").stat().st_size > 10_000
    assert "cropweed/" in models
    assert len(json.loads(answer)["segments"]) > 10
    monkeypatch.chdir(here)
    (code,) = blocks("quick_start.md", "python")
    names: dict[str, object] = {}
    exec(code.replace(URL, serve), names)
    assert names["mask"].sum() > 0


def test_the_bundle_of_the_edge_page_runs(here):
    first, second, *_ = (line for line in commands("edge.md") if line.startswith(("knet bundle", "tar ")))
    run(first, here)
    run(second, here)
    (folder,) = here.glob("*-arm64")
    run("sha256sum --check --quiet SHA256SUMS", folder)
    shutil.copyfile(ROOT / "examples" / "small.png", folder / "image.jpg")
    assert "nucleus" in run(f"{sys.executable} run.py image.jpg", folder)
    assert (folder / "out" / "image.jpg.overlay.png").is_file()


def test_own_data_until_training(here):
    """What `slow` tests go on from: the toy pictures and their description are good data."""
    make_toy(here)
    assert "The data can be used." in run("knet check field", here)


def make_toy(folder: Path) -> None:
    (code,) = blocks("own_data.md", "python")
    subprocess.run([sys.executable, "-c", code], cwd=folder, check=True)
    described = next(block for block in blocks("own_data.md", "json") if "soil" in block)
    (folder / "field" / "data.json").write_text(described)


def test_one_coco_file_is_taken_as_the_page_says(here):
    make_toy(here)
    from PIL import Image

    folder = here / "tool"
    (folder / "images" / "default").mkdir(parents=True)
    (folder / "annotations").mkdir()
    images, objects = [], []
    for number, path in enumerate(sorted((here / "field" / "images").iterdir()), start=1):
        shutil.copyfile(path, folder / "images" / "default" / path.name)
        width, height = Image.open(path).size
        images.append({"id": number, "file_name": path.name, "width": width, "height": height})
        corners = [10.0, 10.0, 60.0, 10.0, 60.0, 40.0]
        about = {"id": number, "image_id": number, "category_id": 1, "iscrowd": 0, "area": 750.0}
        objects.append({**about, "bbox": [10.0, 10.0, 50.0, 30.0], "segmentation": [corners]})
    document = {"images": images, "annotations": objects, "categories": [{"id": 1, "name": "berry"}]}
    (folder / "annotations" / "instances_default.json").write_text(json.dumps(document))
    described = next(block for block in blocks("own_data.md", "json") if "coco_instances" in block)
    (folder / "data.json").write_text(described)
    report = run(f"knet check {folder}", here)
    assert "for a network of kind instance" in report
    assert "The data can be used." in report


@pytest.mark.slow
def test_own_data_runs_word_by_word(here):
    make_toy(here)
    lines = commands("own_data.md")
    serving = next(number for number, line in enumerate(lines) if line.startswith("knet serve"))
    for line in lines[:serving]:
        steps = re.sub(r"(steps|evaluate_every)=[0-9]+", r"\1=4", line)  # of a run that is to be good
        run(steps, here)
    assert list((here / "runs" / "trial" / "pages").iterdir())
    assert len(list((here / "worst").iterdir())) == 4
    with background(Settings(repository=here / "repository", host="127.0.0.1", port=0, api_keys=())) as url:
        with KNetClient(url) as client:
            client.wait_ready(300)
        for line in lines[serving + 1 :]:
            run(line, here, url=url)
    assert (here / "demo" / "plot_00.png").is_file()
