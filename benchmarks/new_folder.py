"""A folder that a benchmark may fill: one that is not there yet, so that no run finds what another has left."""

import argparse
from pathlib import Path


def new_folder(text: str) -> Path:
    """For `type` of an argument: its path; the folder is not made yet."""
    path = Path(text)
    if path.exists():
        raise argparse.ArgumentTypeError(f"{text} exists already; name a folder that does not")
    return path
