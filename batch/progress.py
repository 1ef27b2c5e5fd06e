"""What a person sees of a job: a bar in a terminal, a line now and then elsewhere."""

import threading
import time

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from batch.steps import Outcome

_LINE_EVERY_S = 30.0  # where there is no terminal


class JobProgress:
    """Images done, those of this run that failed, images a second, and the time left.

    Args:
        console: where to show it.
        num_done, num_items: before this run, and in all.
    """

    def __init__(self, console: Console, num_done: int, num_items: int) -> None:
        self._console = console
        self._lock = threading.Lock()
        self._done, self._first, self._items, self._failed = num_done, num_done, num_items, 0
        self._started: float | None = None
        self._last_line = time.monotonic()
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=30),
            MofNCompleteColumn(),
            TextColumn("{task.fields[text]}"),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
        )
        self._slides: dict[str, TaskID] = {}
        self._task = self._bar.add_task("segmenting", total=num_items, completed=num_done, text="")

    def __enter__(self) -> "JobProgress":
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    @property
    def rate(self) -> float:
        """Images a second, from the first of this run on: loading the model does not count."""
        seconds = time.monotonic() - self._started if self._started is not None else 0.0
        return (self._done - self._first - 1) / seconds if seconds else 0.0

    def tell_slide(self, name: str, done: int, total: int) -> None:
        """Of a slide that is worked at, `done` of `total` rows of tiles are done; for any thread."""
        with self._lock:
            if name not in self._slides:
                self._slides[name] = self._bar.add_task(name, total=total, text="rows of tiles")
            self._bar.update(self._slides[name], completed=done)
            if done == total:
                self._bar.remove_task(self._slides.pop(name))
            self._print_sometimes(f"{name}: {done} of {total} rows of tiles")

    def advance(self, outcome: Outcome) -> None:
        """One more image is done; for any thread."""
        with self._lock:
            self._done += 1
            self._failed += outcome.is_failed
            if self._started is None:
                self._started = time.monotonic()
            rate = self.rate
            text = f"{rate:.1f} images/s" + (f", {self._failed} failed" if self._failed else "")
            self._bar.update(self._task, completed=self._done, text=text)
            left = (self._items - self._done) / rate / 60 if rate else 0.0
            self._print_sometimes(f"{self._done} of {self._items} images, {text}, {left:.0f} min left")

    def _print_sometimes(self, line: str) -> None:
        """For logs, which have no bar."""
        if not self._console.is_terminal and time.monotonic() - self._last_line >= _LINE_EVERY_S:
            self._last_line = time.monotonic()
            self._console.print(line, highlight=False)
