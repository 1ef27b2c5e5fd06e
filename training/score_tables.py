"""Scores as tables for people, 80 columns wide."""

from collections.abc import Iterable, Mapping

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from training.metrics import Scores

MAX_CLASSES = 40  # rows of the table of classes

_SEGMENTS = {
    "PQ": "pq",
    "SQ": "sq",
    "RQ": "rq",
    "PQ\nthings": "pq_things",
    "PQ\nstuff": "pq_stuff",
}
_PIXELS = {"mIoU": "miou", "pixel\naccuracy": "pixel_accuracy"}
_MASK_AP = {
    "mask\nAP": "mask_ap",
    "AP50": "mask_ap50",
    "AP75": "mask_ap75",
    "small": "mask_ap_small",
    "medium": "mask_ap_medium",
    "large": "mask_ap_large",
    "AR": "mask_ar",
}
_SHOWN_THRESHOLDS = (50, 60, 70, 80, 90)
_CLASSES = {"PQ": "pq", "SQ": "sq", "RQ": "rq", "AP50": "ap50", "IoU": "iou", "mask AP": "mask_ap"}


def print_scores(scores: Scores, console: Console | None = None) -> None:
    """Show what is measured: each group and all images; AP by IoU threshold; each class, or the worst of many."""
    console = console or Console(markup=False)
    rows = {**scores.groups, "all": scores.summary}
    for columns in (_SEGMENTS, _PIXELS, _MASK_AP):
        _print(console, "group", rows, columns, counted=True)
    for kind, title in (("pooled", "AP over all objects"), ("mean", "AP, mean of images")):
        thresholds = {f"IoU\n0.{percent}": f"ap{percent}_{kind}" for percent in _SHOWN_THRESHOLDS}
        _print(console, title, rows, {**thresholds, "0.50 to\n0.90": f"ap_{kind}"})
    classes = scores.classes
    title = "class"
    if len(classes) > MAX_CLASSES:
        title = f"lowest {MAX_CLASSES} of {len(classes)} classes"
        by = {"pq": "pq", "mask_ap": "mask_ap", "miou": "iou"}[scores.main[0]]
        classes = dict(sorted(classes.items(), key=lambda item: item[1].get(by, 1.0))[:MAX_CLASSES])
    _print(console, title, classes, _CLASSES)


def _print(
    console: Console,
    title: str,
    rows: Mapping[str, Mapping[str, float]],
    columns: Mapping[str, str],
    *,
    counted: bool = False,
) -> None:
    """A table of the columns that any row has; none where there is no such column."""
    present = {head: name for head, name in columns.items() if any(name in row for row in rows.values())}
    if not present:
        return
    table = Table(title, box=SIMPLE)
    for head in (["images"] if counted else []) + list(present):
        table.add_column(head, justify="right")
    for row_name, row in rows.items():
        count = [f"{row['num_images']:.0f}"] if counted else []
        table.add_row(row_name, *count, *_cells(row, present.values()))
    console.print(table)


def _cells(row: Mapping[str, float], names: Iterable[str]) -> list[str]:
    return [f"{row[name]:.3f}" if name in row else "-" for name in names]
