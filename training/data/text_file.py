"""Text files beside a data set, by whatever program they were written."""

from pathlib import Path


def text_of(path: Path) -> str:
    """A file in UTF-8, with Windows' mark of the byte order or without.

    Raises ValueError, naming the file, where it is of another encoding.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is no text in UTF-8 ({error}): save it as UTF-8") from error


def lines_of(path: Path) -> list[str]:
    """The lines of a file in UTF-8, stripped, with Windows' line ends or without. Raises what `text_of` does."""
    return [line.strip() for line in text_of(path).splitlines()]
