"""Every command in the README works as written."""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from knet.client import KNetClient
from service.server import background
from service.settings import Settings

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def commands() -> list[str]:
    blocks = re.findall(r"```(?:sh|bash|console)\n(.*?)```", README, flags=re.S)
    text = "\n".join(blocks).replace("\\\n", " ")
    return [line for line in text.splitlines() if line.strip() and not line.startswith("#")]


@pytest.fixture(scope="module")
def url():
    with background(Settings(host="127.0.0.1", port=0, api_keys=())) as url:
        with KNetClient(url) as client:
            client.wait_ready(60)
        yield url


def test_make_targets_exist():
    makefile = (ROOT / "Makefile").read_text()
    targets = [command.split()[1] for command in commands() if command.startswith("make ")]
    assert {"demo", "serve", "test"} <= set(targets)
    for target in targets:
        assert re.search(rf"^{target}:", makefile, flags=re.M), target


def test_knet_commands_and_options_exist():
    seen = set()
    for command in commands():
        words = shlex.split(command, comments=True)
        if words[:1] != ["knet"]:
            continue
        seen.add(words[1])
        result = subprocess.run([sys.executable, "-m", "knet", words[1], "--help"], capture_output=True, text=True)
        assert result.returncode == 0
        for option in (word for word in words if word.startswith("--")):
            assert option in result.stdout, command
    assert {"train", "evaluate", "export", "serve", "segment"} <= seen


def test_curl_example_gives_the_answer_shown(url):
    """The answer in the README is that of the bundled model, shortened after the first object."""
    curl = next(command for command in commands() if command.startswith("curl"))
    words = shlex.split(curl.split("|")[0].replace("http://127.0.0.1:8000", url))
    result = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True)
    answer = json.loads(result.stdout)
    first = next(segment for segment in answer["segments"] if segment["is_thing"])
    shown = re.search(r'"bbox": \[[^]]*\]', README)
    assert shown is not None
    # Processors without bfloat16 run the model in fp32, which moves borders by a pixel.
    assert json.loads(shown[0].removeprefix('"bbox": ')) == pytest.approx(first["bbox"], abs=3)
    assert f'"width": {answer["image"]["width"]}' in README
    told = re.search(r"first of ([0-9]+) segments", README)
    assert told is not None
    assert int(told[1]) == pytest.approx(len(answer["segments"]), abs=8)


def test_python_example_runs(url, monkeypatch):
    code = re.search(r"```python\n(.*?)```", README, flags=re.S)
    assert code is not None
    monkeypatch.chdir(ROOT)
    names: dict[str, object] = {}
    exec(code[1].replace("http://127.0.0.1:8000", url), names)
    assert len(names["masks"]) == len(names["answer"]["segments"]) > 100


def test_pictures_and_links_of_the_readme_exist():
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        if not target.startswith("http"):
            assert (ROOT / target).exists(), target
