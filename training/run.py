"""A recipe on a data set: what `knet train` does."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path

from rich.console import Console

from batch.lock import hold
from training.changes import with_changes
from training.choose import find_recipe, make_config
from training.config import TrainConfig
from training.data.check import check, compare_splits
from training.data.index import DataIndex
from training.data.open import find_data
from training.engine import Devices, end_with_parent, is_first_process, make_fabric, meeting_point
from training.peers import watched_by_all
from training.recipes import DataFacts
from training.serving_path import metadata_of
from training.train_state import has_state
from training.trainer import Trainer

_MOST_LISTED = 10  # problems of the data


def train_recipe(
    name: str,
    data: Path,
    out: Path,
    *,
    changes: Mapping[str, str],
    devices: Devices,
    description: Path | None = None,
    skip_check: bool = False,
) -> None:
    """Train, from the start or from where an earlier run in `out` stopped.

    Args:
        name: of a recipe.
        data: folder of a data set, see docs/data.md.
        out: folder of the run.
        changes: fields of the recipe's configuration as text, by dotted key.
        devices: what to train on.
        description: file that says what is what in `data`.
        skip_check: do not open every image before the first step. A resumed run never does.

    Raises:
        ValueError: an unknown recipe or setting, data that cannot be used, or another run in `out`, or a process that
            trains there.
    """
    config, train, val = resolve(name, data, changes=changes, description=description)
    fabric = make_fabric(devices, config.precision)
    if is_first_process() and not skip_check and not has_state(out):
        check_data(train, val)
    with _only_run_in(out) if is_first_process() else nullcontext():
        if (where := meeting_point(fabric)) is not None:
            Console(soft_wrap=True).print(f"waiting for {where}", markup=False)
        fabric.launch()
        end_with_parent()
        with watched_by_all(fabric):
            Trainer(config, train, val, out, fabric).run()


@contextmanager
def _only_run_in(out: Path) -> Iterator[None]:
    """Keep other processes from training in `out`, which is made; raises ValueError where one does."""
    out.mkdir(parents=True, exist_ok=True)
    lock = hold(out / ".lock")
    if lock is None:
        raise ValueError(f"another process trains in {out}: wait for it, or name another folder")
    with lock:
        yield


def resolve(
    name: str, data: Path, *, changes: Mapping[str, str], description: Path | None = None
) -> tuple[TrainConfig, DataIndex, DataIndex]:
    """The whole configuration of a run, and its training and validation images.

    Raises:
        ValueError: an unknown recipe or setting, or data that cannot be used.
    """
    find_recipe(name)  # an unknown one before the data is read
    found = find_data(data, description)
    train, val = found.read("train"), found.read("val")
    if train.categories != val.categories:
        raise ValueError(f"{data}: train and val list different categories; give both the same list")
    config = make_config(name, DataFacts.of(train))
    changes = dict(changes)
    is_learned = changes.get("model.first_kernels", config.model.first_kernels) == "learned"
    if is_learned and config.model.kind != "semantic" and "model.num_kernels" in changes:
        changes.setdefault("model.num_training_kernels", changes["model.num_kernels"])
    if config.decay_at and changes.get("steps", "").isdigit():  # a shorter run has its steps down earlier
        places = {round(at * int(changes["steps"]) / config.steps) for at in config.decay_at}
        changes.setdefault("decay_at", ",".join(map(str, sorted(places))))
    config = with_changes(config, changes)
    metadata_of(config.model)  # what no server could run is refused now, and not when it is scored after an hour
    return config, train, val


def check_data(train: DataIndex, val: DataIndex) -> None:
    """Open every image and annotation before time is spent on them. Raises ValueError with all that is wrong."""
    console = Console(soft_wrap=True)
    for note in dict.fromkeys((*train.notes, *val.notes)):
        console.print(note, markup=False)
    reports = {
        split: check(index, show_progress=console.is_terminal) for split, index in (("train", train), ("val", val))
    }
    problems = [problem for report in reports.values() for problem in report.problems]
    if problems:
        raise ValueError(f"problems of the data: {len(problems)} (see also `knet check`):\n" + _listed(problems))
    warnings = [warning for report in reports.values() for warning in report.warnings]
    warnings += compare_splits(reports, "train", "val")
    if warnings:
        console.print("to be looked at:\n" + _listed(warnings), style="yellow", markup=False)
    console.print(f"{len(train.records)} images to train, {len(val.records)} to validate: checked, no problems")


def _listed(messages: list[str]) -> str:
    more = [f"... and {len(messages) - _MOST_LISTED} more"] if len(messages) > _MOST_LISTED else []
    return "\n".join([*messages[:_MOST_LISTED], *more])
