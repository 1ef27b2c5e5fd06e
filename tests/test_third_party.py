"""THIRD_PARTY.md has what the server's image ships, and nothing of it is under a licence that asks for more."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
TEXT = (ROOT / "THIRD_PARTY.md").read_text(encoding="utf-8")
LINES = re.findall(r"^\| ([a-z][a-z0-9-]+) \| (\d\S*) \| (.+) \|$", TEXT, flags=re.M)


@pytest.fixture(scope="module")
def third_party(load_module):
    return load_module(ROOT / "docker" / "third_party.py")


def test_the_table_is_that_of_what_is_installed(third_party):
    if not sys.platform.startswith("linux"):
        pytest.skip("the image is of Linux, where other packages are needed")
    assert third_party.with_table(TEXT) == TEXT, "run `make notices`"


def test_every_dependency_of_the_server_is_listed_with_its_pin():
    command = [sys.executable, ROOT / "docker/requirements.py", "serve", "tracing"]
    printed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    direct = {re.split(r"[\[>=<;]", line)[0].strip().lower().replace("_", "-") for line in printed.splitlines()}
    listed = {name: version for name, version, _ in LINES}
    assert direct <= set(listed)
    pins = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line)
    pins = {name.lower().replace("_", "-"): version for name, version in pins.items()}
    assert {name: pins.get(name) for name in listed} == listed


def test_no_package_is_under_the_gpl():
    assert len(LINES) > 40
    assert [name for name, _, licence in LINES if "GPL" in licence] == []


def test_a_licence_that_is_not_accepted_is_refused(third_party, monkeypatch):
    (some, *_) = third_party.shipped()
    assert third_party.licence_of(some) == "MIT"
    monkeypatch.setattr(third_party, "ACCEPTED", {"ISC"})
    with pytest.raises(ValueError, match="annotated-doc has the licence 'MIT'; accepted: ISC"):
        third_party.licence_of(some)


def test_every_bundled_model_is_listed_with_its_licence():
    for card in ROOT.glob("repository/*/*/README.md"):
        assert f"repository/{card.parts[-3]}/" in TEXT, card


def test_it_is_part_of_the_distribution_and_of_images():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["license-files"] == ["LICENSE", "THIRD_PARTY.md"]
    assert "!THIRD_PARTY.md" in (ROOT / ".dockerignore").read_text().splitlines()
