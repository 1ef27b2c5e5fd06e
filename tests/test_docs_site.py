"""The documentation is a site: it builds, every page is in it, and a link that leads nowhere stops the build."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted(path.name for path in (ROOT / "docs").glob("*.md"))
OF_OTHERS = re.compile(r"https?:|mailto:|data:")


def build(root: Path, out: Path) -> subprocess.CompletedProcess[str]:
    """What `make docs` does."""
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", out]
    variables = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    return subprocess.run(
        [str(part) for part in command], cwd=root, env=variables, capture_output=True, text=True, check=False
    )


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("site")
    done = build(ROOT, out)
    assert done.returncode == 0, done.stderr
    return out


def test_every_page_is_in_the_navigation(site):
    home = (site / "index.html").read_text(encoding="utf-8")
    for page in (name.replace(".md", ".html") for name in PAGES if name != "index.md"):
        assert f'href="{page}"' in home, page
    for page in ("changelog", "contributing", "third_party", "licence"):
        assert f'href="{page}.html"' in home


def test_model_cards_are_pages_that_others_link_to(site):
    cards = {f"{path.parts[-3]}-{path.parts[-2]}.html" for path in ROOT.glob("repository/*/*/README.md")}
    assert {path.name for path in (site / "models").glob("*.html")} == cards
    assert 'href="models/nuclei-' in (site / "results.html").read_text(encoding="utf-8")


def test_pictures_are_there_and_nothing_is_loaded_from_elsewhere(site):
    for path in site.rglob("*.html"):
        text = path.read_text(encoding="utf-8")
        loaded = re.findall(r'<(?:script|img)[^>]* src="([^"]+)"', text)
        loaded += re.findall(r'<link[^>]* rel="stylesheet"[^>]* href="([^"]+)"', text)
        loaded += re.findall(r'<link[^>]* href="([^"]+)"[^>]* rel="stylesheet"', text)
        assert loaded
        assert [target for target in loaded if OF_OTHERS.match(target)] == []
        if path.name != "404.html":  # which names its files from the root of a host
            assert [target for target in loaded if not (path.parent / target.partition("?")[0]).exists()] == []


@pytest.mark.parametrize(
    ("link", "words"), [("nowhere.md", "nowhere.md"), ("api.md#nowhere", "nowhere"), ("../README.txt", "README.txt")]
)
def test_a_link_that_leads_nowhere_stops_the_build(tmp_path, link, words):
    for name in ("docs", "repository"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("*.onnx", "*.png"))
    for picture in (ROOT / "docs").glob("*.png"):
        (tmp_path / "docs" / picture.name).touch()
    for name in ("mkdocs.yml", "CHANGELOG.md", "CONTRIBUTING.md", "THIRD_PARTY.md", "LICENSE"):
        shutil.copyfile(ROOT / name, tmp_path / name)
    page = tmp_path / "docs" / "page.md"
    page.write_text(page.read_text() + f"\n\n[A link]({link})\n")
    done = build(tmp_path, tmp_path / "site")
    assert done.returncode == 1
    assert words in done.stderr


def test_every_target_that_pages_name_is_in_the_makefile():
    makefile = (ROOT / "Makefile").read_text()
    texts = [(ROOT / name).read_text() for name in ("CONTRIBUTING.md", "THIRD_PARTY.md", "README.md")]
    for target in set(re.findall(r"`make ([\w-]+)`", "\n".join(texts))):
        assert re.search(rf"^{target}:", makefile, flags=re.M), target
