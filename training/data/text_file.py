"""Text files beside a data set, by whatever program they were written."""

from pathlib import Path


def lines_of(path: Path) -> list[str]:
    """The lines of a file in UTF-8, stripped, with Windows' line ends and mark of the byte order or without.

    Raises ValueError, naming the file, where it is of another encoding.
    """
    try:
        return [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines()]
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is no text in UTF-8 ({error}): save it as UTF-8") from error
