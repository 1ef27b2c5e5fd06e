"""The two checkpoints of a run: the best by its evaluations in the run's folder, and the last one below it."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from batch.durable import write_bytes
from model.checkpoint import save
from model.knet import KNet

LAST = "last"
METRICS = "metrics.json"


class Checkpoints:
    """Keeps them.

    Args:
        folder: of the run.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def save_last(self, network: KNet) -> None:
        """Raises OSError where it cannot be written; then the earlier one stays."""
        with without_parts(self._folder / LAST):
            save(network, self._folder / LAST)

    def add_scores(self, step: int, network: KNet, scores: dict[str, float], main: tuple[str, float]) -> bool:
        """Keep the scores of an evaluation, and the network where it is the best so far.

        Args:
            main: name and value of the score that decides; higher is better.

        Returns:
            Whether it is.
        """
        name, value = main
        best = self._read(self._folder)
        is_best = best is None or value > best["main"][1]
        document = {"step": step, "main": [name, value], **scores}
        if is_best:
            with without_parts(self._folder):
                save(network, self._folder)
            _write(self._folder, document)
        _write(self._folder / LAST, document)
        return is_best

    def scored_step(self) -> int | None:
        """Step of the last evaluation."""
        last = self._read(self._folder / LAST)
        return None if last is None else int(last["step"])

    @staticmethod
    def _read(folder: Path) -> dict[str, Any] | None:
        try:
            document: dict[str, Any] = json.loads((folder / METRICS).read_text())
        except FileNotFoundError:
            return None
        return document


@contextmanager
def without_parts(folder: Path) -> Iterator[None]:
    """A write that fails leaves no half of a file, which on a full disk would be in the way of the next one."""
    try:
        yield
    except OSError:
        for part in folder.glob("*.part"):
            part.unlink(missing_ok=True)
        raise


def _write(folder: Path, document: dict[str, Any]) -> None:
    write_bytes(folder / METRICS, (json.dumps(document, indent=2) + "\n").encode())
