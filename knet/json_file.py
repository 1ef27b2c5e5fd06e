"""The option `--json`: the same in every command that has it."""

from pathlib import Path
from typing import Annotated

import typer

JsonFile = Annotated[
    typer.FileTextWrite | None,
    typer.Option("--json", help="Write JSON there, and print nothing else; - is standard output."),
]


def write_json(file: typer.FileTextWrite, text: str) -> None:
    """Write a text and the end of a line; the folder is made, if need be."""
    Path(file.name).parent.mkdir(parents=True, exist_ok=True)  # the file is opened by the first write
    file.write(text + "\n")
