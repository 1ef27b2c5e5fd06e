"""What mkdocs does with these pages beside what mkdocs.yml says.

Pages are written to be read where they lie, in the repository. Some files of it are pages of the site as well: model
cards, the change log and others. Links are changed to where their files are on the site; the rest is mkdocs' to check.
"""

import re
from pathlib import Path, PurePosixPath
from posixpath import normpath, relpath
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parent.parent
_BROUGHT_IN = {
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "THIRD_PARTY.md": "third_party.md",
    "LICENSE": "licence.md",
}
_LINK = re.compile(r"(?<=\]\()([^)\s#:]+)(?=[)#])")


def _cards() -> dict[str, str]:
    """Model cards in the repository, and their pages."""
    paths = sorted(path.relative_to(ROOT) for path in ROOT.glob("repository/*/*/README.md"))
    return {path.as_posix(): f"models/{path.parts[1]}-{path.parts[2]}.md" for path in paths}


def _pages() -> dict[str, str]:
    """Every file that is a page, by its path in the repository."""
    own = {f"docs/{path.name}": path.name for path in sorted((ROOT / "docs").glob("*.md"))}
    return own | _BROUGHT_IN | _cards()


def on_config(config: Any) -> Any:
    """Put model cards into the navigation, and pages that nobody put there."""
    named = set(re.findall(r"[\w/-]+\.md", str(config.nav)))
    project = next(section["Project"] for section in config.nav if "Project" in section)
    project += [page for page in _BROUGHT_IN.values() if page not in named]
    config.nav.insert(-1, {"Models": list(_cards().values())})
    if others := [page for path, page in _pages().items() if path.startswith("docs/") and page not in named]:
        config.nav.insert(-1, {"More": others})
    return config


def on_files(files: Files, config: Any) -> Files:
    """Add what lies outside of docs/."""
    for path, page in (_BROUGHT_IN | _cards()).items():
        text = (ROOT / path).read_text(encoding="utf-8")
        if page == "licence.md":
            text = f"# Licence\n\n```text\n{text}\n```\n"
        files.append(File.generated(config, page, content=text))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Let links lead to where their files are on the site."""
    pages = _pages()
    here = page.file.src_uri
    folder = PurePosixPath(next(path for path, other in pages.items() if other == here)).parent

    def moved(link: re.Match[str]) -> str:
        target = normpath(str(folder / link[0]))
        if target in pages:
            return relpath(pages[target], str(PurePosixPath(here).parent))
        if target.startswith("docs/") and (ROOT / target).is_file():  # pictures
            return relpath(target.removeprefix("docs/"), str(PurePosixPath(here).parent))
        return link[0]

    return _LINK.sub(moved, markdown)
