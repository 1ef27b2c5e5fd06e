"""What a run needs to go on where it was, in a file that is whole or not there.

A new state is written beside the old one, checked, and only then takes its name; the old one stays as the previous
state. A state that does not pass the check of its sums (CRC-32 of each tensor, by the zip format) is never loaded.
"""

import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import torch

STATE = "state.pt"
PREVIOUS = "state.previous.pt"


def save_state(state: dict[str, Any], folder: Path) -> None:
    """Write the state of a run.

    Raises:
        OSError: it could not be written, as when the disk is full; what was there is left as it was.
    """
    path, part = folder / STATE, folder / f"{STATE}.part"
    try:
        # By its name: torch's writer ends the process when an error, which signals may raise anywhere, closes a Python
        # file under it.
        torch.save(state, part)
        with part.open("rb") as file:
            os.fsync(file.fileno())
        if fault := _fault(part):
            raise OSError(f"{part} reads back damaged: {fault}")
    except (OSError, RuntimeError) as error:
        part.unlink(missing_ok=True)
        # torch's own writer makes a RuntimeError of a full disk, in words that do not say so.
        reason = error if isinstance(error, OSError) else f"the disk is full, or a limit of it reached ({error})"
        raise OSError(f"cannot write {path}: {reason}") from error
    if path.exists():
        path.replace(folder / PREVIOUS)
    part.replace(path)
    _sync_folder(folder)


def load_state(folder: Path) -> tuple[dict[str, Any] | None, list[str]]:
    """The newest good state of a run, on the CPU, or None where there is none; and what is wrong with newer ones.

    Raises:
        ValueError: there are states, and none is good.
    """
    faults: list[str] = []
    for path in (folder / STATE, folder / PREVIOUS):
        if not path.exists():
            continue
        fault = _fault(path)
        if not fault:
            try:
                return torch.load(path, map_location="cpu", weights_only=True), faults
            except (OSError, RuntimeError, ValueError, EOFError, pickle.UnpicklingError) as error:
                fault = str(error)
        faults.append(f"{path} is damaged ({fault})")
    if faults:
        raise ValueError(f"{'; '.join(faults)}. Name another --out: this run cannot go on")
    return None, faults


def has_state(folder: Path) -> bool:
    """Whether a run in the folder can go on."""
    return any((folder / name).exists() for name in (STATE, PREVIOUS))


def _fault(path: Path) -> str | None:
    """What is wrong with the file, or None."""
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
    except (OSError, zipfile.BadZipFile, ValueError, NotImplementedError, EOFError) as error:
        # All that zipfile raises for files cut off or overwritten anywhere; the caller says so and takes the older one.
        return str(error)
    return None if damaged is None else f"the sum of {damaged} is wrong"


def _sync_folder(folder: Path) -> None:
    """Renames last through a power cut only when their folder is written too."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
