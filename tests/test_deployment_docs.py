"""docs/deployment.md says what is so."""

import re
import tomllib
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parent.parent
TEXT = (ROOT / "docs/deployment.md").read_text()


def test_files_that_it_names_are_there():
    named = set(re.findall(r"(?<![\w/])(?:docker|kubernetes|tests)/[\w./-]+\w", TEXT))
    assert {"docker/train.Dockerfile", "kubernetes/base", "tests/docker/test_image.py"} <= named
    assert [name for name in named if not (ROOT / name).exists()] == []


def test_every_folder_of_manifests_is_told():
    folders = {path.name for path in (ROOT / "kubernetes").iterdir()}
    assert {name for name in folders if f"kubernetes/{name}" not in TEXT} == set()


def test_compose_commands_are_those_of_the_file():
    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    profiles = {profile for service in compose["services"].values() for profile in service.get("profiles", [])}
    assert set(re.findall(r"--profile (\w+)", TEXT)) | {"train"} == profiles
    for variable in re.findall(r"\$\{(\w+)", (ROOT / "docker-compose.yml").read_text()):
        assert variable in TEXT


def test_images_have_the_version_of_the_software():
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    files = [ROOT / "docker-compose.yml", *ROOT.glob("docker/*.Dockerfile"), *ROOT.glob("kubernetes/**/*.yaml")]
    texts = [TEXT, *(path.read_text() for path in files)]
    found = {tag for text in texts for tag in re.findall(r"knet-(?:serve|serve-gpu|train):([\d.]+)", text)}
    found |= {tag for text in texts for tag in re.findall(r"newTag: (\S+)", text)}
    assert found == {version}
