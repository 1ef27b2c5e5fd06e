"""`knet check`: is a data set as it should be, what is in it, and which settings fit it."""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from training.data.check import Report, check, compare_splits
from training.data.index import DataIndex, Record, evenly_spaced
from training.data.open import find_data
from training.data.statistics import Spread, Statistics
from training.dataset import read_sample
from training.pictures import contact_sheet, draw_segments

MAX_SHOWN = 10  # problems or warnings of a split, and categories that are not named
TILES = 24  # of the contact sheet
COLUMNS = 4
TILE_SIZE = (240, 320)


def check_data(data: Path, description: Path | None, out: Path, console: Console) -> bool:
    """Print the report on the splits of `data`; write it as `out`/check.json, and `out`/images.png to look at.

    Returns:
        Whether the data can be used. Warnings do not keep it from that.

    Raises:
        ValueError: the data is of no known kind, or its files do not belong together.
    """
    found = find_data(data, description)
    indices: dict[str, DataIndex] = {split: found.read(split) for split in found.splits}
    reports = {split: check(index, show_progress=console.is_terminal) for split, index in indices.items()}
    first = next(iter(indices.values()))  # for training, where there are such
    problems = {split: report.problems for split, report in reports.items()}
    warnings = {split: report.warnings for split, report in reports.items()}
    for one, other in combinations(indices, 2):
        name = f"{one} and {other}"
        if indices[one].categories != indices[other].categories:
            problems[name] = (f"{name} have different categories: write the same into both",)
        warnings[name] = compare_splits(reports, one, other)
    console.print(f"{data}: {first.format}, for a network of kind {first.kind}", soft_wrap=True)
    for note in dict.fromkeys(note for index in indices.values() for note in index.notes):
        console.print(f"Note: {note}", soft_wrap=True)
    if "train" not in indices:
        console.print("Note: there are no images to train with; models can be scored on these", soft_wrap=True)
    _print_images({split: report.statistics for split, report in reports.items()}, console)
    if all(index.categories == first.categories for index in indices.values()):
        _print_categories({split: report.statistics for split, report in reports.items()}, console)
    if "train" in reports:
        _print_suggestions(reports["train"], console)
    for split in problems | warnings:
        _print_messages(f"Problems, {split}", problems.get(split, ()), "red", console)
        _print_messages(f"Warnings, {split}", warnings.get(split, ()), "yellow", console)
    out.mkdir(parents=True, exist_ok=True)
    (out / "check.json").write_text(json.dumps(_as_json(indices, reports, problems, warnings), indent=2) + "\n")
    (out / "images.png").write_bytes(picture_of(first))
    is_usable = not any(problems.values())
    console.print(f"wrote {out / 'check.json'} and {out / 'images.png'}", soft_wrap=True)
    verdict, style = ("can be used", "") if is_usable else ("cannot be used as it is", "red")
    console.print(f"The data {verdict}.", style=style)
    return is_usable


def picture_of(index: DataIndex) -> bytes:
    """PNG of images with their segments, evenly spaced over the data set; those that cannot be read are left out."""
    tiles, captions = [], []
    for record in evenly_spaced(index.records, TILES):
        try:
            tiles.append(_drawn(index, record))
        except (ValueError, OSError):  # is among the problems
            continue
        captions.append(record.image_path.stem)
    return contact_sheet(tiles, captions, columns=COLUMNS, tile_size=TILE_SIZE)


def _drawn(index: DataIndex, record: Record) -> NDArray[np.uint8]:
    sample = read_sample(record)
    image = np.ascontiguousarray(sample.image.permute(1, 2, 0).numpy())
    annotation = sample.annotation
    return draw_segments(
        image, annotation.layers, annotation.segments, index.categories, longest_side=2 * max(TILE_SIZE)
    )


def _print_images(statistics: dict[str, Statistics], console: Console) -> None:
    table = Table("", *statistics, title="Images", title_justify="left")
    rows: tuple[tuple[str, Callable[[Statistics], str]], ...] = (
        ("images", lambda s: f"{s.num_images:,}"),
        ("  without segments", lambda s: f"{s.num_empty:,}"),
        ("shorter side, pixels", lambda s: _spread(s.shorter_side)),
        ("longer side, pixels", lambda s: _spread(s.longer_side)),
        ("most frequent size", _sizes),
        ("pixels in no segment", lambda s: f"{s.void_share:.1%}"),
        ("objects in an image", lambda s: _spread(s.objects)),
        ("area of an object, pixels", lambda s: _spread(s.object_area)),
        ("crowds", lambda s: f"{s.num_crowds:,}"),
    )
    has_objects = any(some.objects.largest for some in statistics.values())
    for name, text in rows:
        if has_objects or not ("object" in name or "crowd" in name):
            table.add_row(name, *(text(some) for some in statistics.values()))
    for group in dict.fromkeys(name for some in statistics.values() for name in some.groups):
        table.add_row(f"  {group}", *(f"{some.groups.get(group, 0):,}" for some in statistics.values()))
    table.caption = "of sides, objects and areas: least / median / 95 % / largest"
    table.caption_justify = "left"
    console.print(table)


def _print_categories(statistics: dict[str, Statistics], console: Console) -> None:
    """Segments, images and share of the pixels; of many categories those that occur most."""
    table = Table("category", "", title="Segments", title_justify="left")
    for split in statistics:
        table.add_column(split, justify="right")
        table.add_column("images", justify="right")
        table.add_column("pixels", justify="right")
    rows = list(zip(*(some.categories for some in statistics.values()), strict=True))
    shown = sorted(range(len(rows)), key=lambda number: -rows[number][0].num_segments)[: 3 * MAX_SHOWN]
    for number in sorted(shown):
        first = rows[number][0]
        cells = [
            cell
            for some in rows[number]
            for cell in (f"{some.num_segments:,}", f"{some.num_images:,}", _share(some.pixel_share))
        ]
        table.add_row(first.name, "thing" if first.is_thing else "stuff", *cells)
    if len(rows) > len(shown):
        table.caption = f"... and {len(rows) - len(shown)} categories that occur less: check.json has them"
        table.caption_justify = "left"
    console.print(table)


def _print_suggestions(report: Report, console: Console) -> None:
    table = Table("setting", "value", "because", title="Suggested, from the training images", title_justify="left")
    for suggestion in report.suggestions:
        table.add_row(suggestion.setting, suggestion.value, suggestion.reason)
    table.caption = "advice alone: a recipe has its own settings, which knet train --print shows and --set changes"
    table.caption_justify = "left"
    console.print(table)


def _print_messages(title: str, messages: Sequence[str], colour: str, console: Console) -> None:
    if not messages:
        return
    console.print(f"{title}: {len(messages)}", style=colour)
    for message in messages[:MAX_SHOWN]:
        console.print(f"  {message}", soft_wrap=True)
    if len(messages) > MAX_SHOWN:
        console.print(f"  ... and {len(messages) - MAX_SHOWN} more, in check.json")


def _spread(spread: Spread) -> str:
    return " / ".join(f"{value:,.0f}" for value in (spread.least, spread.median, spread.most, spread.largest))


def _sizes(statistics: Statistics) -> str:
    if not statistics.common_sizes:
        return ""
    height, width, count = statistics.common_sizes[0]
    return f"{width}x{height} ({count:,} of {statistics.num_images:,})"


def _share(share: float) -> str:
    return f"{share:.1%}" if share >= 0.001 or not share else "<0.1%"


def _as_json(
    indices: dict[str, DataIndex],
    reports: dict[str, Report],
    problems: dict[str, tuple[str, ...]],
    warnings: dict[str, tuple[str, ...]],
) -> dict[str, Any]:
    first = next(iter(indices.values()))
    return {
        "format": first.format,
        "kind": first.kind,
        "notes": first.notes,
        "categories": [asdict(category) for category in first.categories],
        "statistics": {split: asdict(report.statistics) for split, report in reports.items()},
        "suggestions": [asdict(suggestion) for suggestion in reports["train"].suggestions]
        if "train" in reports
        else [],
        "problems": problems,
        "warnings": warnings,
    }
