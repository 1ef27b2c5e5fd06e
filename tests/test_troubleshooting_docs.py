"""Every message in docs/troubleshooting.md is one that the software has."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
TEXT = (ROOT / "docs/troubleshooting.md").read_text(encoding="utf-8")
FILLED_IN = ("artifact.json", "(train)", "(val)", "--format", "--precision", "Address already in use")
FOLDERS = ("knet", "export", "training", "batch", "service", "model")


def texts_of(tree: ast.AST) -> list[str]:
    """Every text of a module; a NUL stands for what is filled in."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            found.append("".join(part.value if isinstance(part, ast.Constant) else "\0" for part in node.values))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            found.append(node.value)
    return found


@pytest.fixture(scope="module")
def sources() -> list[str]:
    modules = [path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py"))]
    texts = [text for path in modules for text in texts_of(ast.parse(path.read_text(encoding="utf-8")))]
    return [*texts, (ROOT / "Makefile").read_text()]


def messages() -> list[str]:
    """What stands as code in the first column of the tables, but for what other programs say."""
    rows = [line.split(" | ")[0] for line in TEXT.splitlines() if line.startswith("| ") and " | " in line]
    own = [row for row in rows if not row.endswith(("(pip)", "(the shell)"))]
    return [message for row in own for message in re.findall(r"`([^`]+)`", row)]


def is_said(message: str, texts: list[str]) -> bool:
    """Whether one text has the message's words in their order."""
    for filled_in in FILLED_IN:
        message = message.replace(filled_in, "...")
    parts = message.split("...")
    return any(follow(text, parts) for text in texts)


def follow(text: str, parts: list[str]) -> bool:
    """Whether a text has the parts one after the other."""
    place = 0
    for part in parts:
        found = text.find(part, place)
        if found < 0:
            return False
        place = found + len(part)
    return True


@pytest.mark.parametrize("message", messages())
def test_message_is_one_of_ours(sources, message):
    assert is_said(message, sources)


def test_others_are_not(sources):
    assert len(messages()) > 50
    assert not is_said("no model of ...: expected ... in it", sources)
    assert not is_said("there is ...; there is no model", sources)
