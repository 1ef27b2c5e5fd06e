"""What a run leaves to read: log.csv and TensorBoard's files. Both survive a resume: what is done again is cut off."""

import csv
import io
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from torch.utils.tensorboard import SummaryWriter

from batch.durable import write_bytes
from service.image import decode

LOG = "log.csv"
TENSORBOARD = "tensorboard"


class RunLog:
    """Writes numbers as a run goes.

    Args:
        folder: of the run.
        step: of which the state is; rows after it are of steps that are done again.
    """

    def __init__(self, folder: Path, step: int) -> None:
        self._path, self._board_path = folder / LOG, folder / TENSORBOARD
        _cut(self._path, step)
        self._board = SummaryWriter(str(self._board_path), purge_step=step + 1)

    def write(self, step: int, values: dict[str, float]) -> None:
        """One row. Raises OSError where it cannot be written."""
        row = {"step": step} | {name: float(f"{value:.6g}") for name, value in values.items()}
        text = io.StringIO()
        writer = csv.DictWriter(text, list(row), lineterminator="\n")
        if not self._path.exists():
            writer.writeheader()
        writer.writerow(row)
        try:
            with self._path.open("a", newline="") as file:
                file.write(text.getvalue())
        except OSError as error:
            raise OSError(f"cannot write {self._path}: {error}") from error
        with self._new_board_after_an_error():
            for name, value in values.items():
                self._board.add_scalar(f"training/{name}", value, step)

    def write_scores(self, step: int, scores: dict[str, float], page: Path) -> None:
        """Scores of an evaluation and its page of predictions, for TensorBoard. Raises OSError likewise."""
        with self._new_board_after_an_error():
            for name, value in scores.items():
                self._board.add_scalar(f"evaluation/{name}", value, step)
            if page.exists():
                self._board.add_image("predictions", decode(page.read_bytes()), step, dataformats="HWC")
            self._board.flush()

    def close(self) -> None:
        """Write what is not yet written, as far as the disk has room: no reason for a run to fail at its end."""
        with suppress(OSError):
            self._board.close()

    @contextmanager
    def _new_board_after_an_error(self) -> Iterator[None]:
        """TensorBoard's writer never writes again after an error, though the disk may have room again."""
        try:
            yield
        except OSError as error:
            self.close()
            self._board = SummaryWriter(str(self._board_path))
            raise OSError(f"cannot write {self._board_path}: {error}") from error


def _cut(path: Path, step: int) -> None:
    """Drop the rows after a step, and one that a kill left half-written."""
    if not path.exists():
        return
    header, *rows = path.read_text().splitlines(keepends=True) or [""]
    whole = [row for row in rows if row.endswith("\n") and row.count(",") == header.count(",")]
    write_bytes(path, "".join([header, *(row for row in whole if int(row.split(",")[0]) <= step)]).encode())
    if not header.endswith("\n"):
        path.unlink()
