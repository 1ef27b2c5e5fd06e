"""Expected failures of a command: one line on standard error and exit code 1, in place of a traceback."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import typer


@contextmanager
def explained(extra: str) -> Iterator[None]:
    """Turn expected failures into a line on standard error; `extra` is what the command needs installed."""
    from knet.client import KNetError

    expected: tuple[type[Exception], ...] = (KNetError, OSError, ValueError, FloatingPointError)
    try:
        from pydantic import ValidationError

        from service.errors import ServiceError

        expected = (*expected, ServiceError, ValidationError)
    except ModuleNotFoundError:
        pass
    try:
        from export.errors import ExportError

        expected = (*expected, ExportError)
    except ModuleNotFoundError:  # an installation that only serves
        pass
    try:
        yield
    except ModuleNotFoundError as error:
        _fail(f"{error.name} is not installed; this command needs: pip install '.[{extra}]'")
    except expected as error:
        _fail(_words(error))


def _words(error: Any) -> str:
    """Message of an expected error; pydantic's without its web addresses."""
    if hasattr(error, "errors"):
        return "; ".join(
            f"{'.'.join(map(str, entry['loc'])) or 'settings'}: {entry['msg'].removeprefix('Value error, ')}"
            for entry in error.errors()
        )
    return str(error)


def _fail(message: str) -> None:
    typer.secho(f"knet: {message}", fg=typer.colors.RED, err=True)
    raise typer.Exit(1)
