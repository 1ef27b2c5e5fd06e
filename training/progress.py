"""What a person sees of a run: a bar in a terminal, a line now and then elsewhere."""

import resource
import sys
import time

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

_LINE_EVERY = 30.0  # seconds, where there is no terminal


class RunProgress:
    """Steps done, loss parts, images a second, memory and the time left.

    Args:
        console: where to show it.
        step, steps: done so far, and in all.
        is_shown: False for all processes but the first.
    """

    def __init__(self, console: Console, step: int, steps: int, *, is_shown: bool) -> None:
        self._console, self._steps, self._is_shown = console, steps, is_shown
        self._started, self._first = time.monotonic(), step
        self._last_line = -_LINE_EVERY
        self._bar = Progress(
            TextColumn("training"),
            BarColumn(bar_width=20),
            MofNCompleteColumn(),
            TextColumn("{task.fields[text]}"),
            TimeRemainingColumn(),
            console=console,
            disable=not (is_shown and console.is_terminal),
        )
        self._task = self._bar.add_task("", total=steps, completed=step, text="")

    def __enter__(self) -> "RunProgress":
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def advance(self, step: int) -> None:
        """So many steps are done."""
        self._bar.update(self._task, completed=step)

    def show(self, step: int, values: dict[str, float]) -> None:
        """The numbers of a logged step."""
        text = summary(values)
        self._bar.update(self._task, text=text)
        now = time.monotonic()
        is_due = now - self._last_line >= _LINE_EVERY or step == self._steps
        if not self._is_shown or self._console.is_terminal or not is_due:
            return
        self._last_line = now
        left = (now - self._started) / max(1, step - self._first) * (self._steps - step)
        self._console.print(f"step {step}/{self._steps} {text}, {_duration(left)} left")


def summary(values: dict[str, float]) -> str:
    """`loss 3.21 (mask 0.8, dice 1.9), 7.2 images/s, 1.3 GB`: the parts are sums over head and stages."""
    parts: dict[str, float] = {}
    for name, value in values.items():
        place, _, part = name.partition("_")
        if part and (place in ("head", "auxiliary") or (place[0] == "s" and place[1:].isdigit())):
            parts[part] = parts.get(part, 0.0) + value
    listed = ", ".join(f"{name} {value:.3g}" for name, value in parts.items())
    return (
        f"loss {values['total']:.3f} ({listed}), {values['images_per_second']:.3g} images/s, "
        f"{values['memory_gb']:.2g} GB"
    )


def peak_memory_gb(device: torch.device) -> float:
    """Most memory so far: allocated on a GPU, else of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9


def _duration(seconds: float) -> str:
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours}:{minutes:02d} h"
