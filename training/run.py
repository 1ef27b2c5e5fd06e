"""A recipe on a data set: what `knet train` does."""

from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from training.formats import PanopticIndex, find_coco_panoptic, read_coco_panoptic
from training.nuclei import convert, is_dsb2018
from training.recipes import RECIPES
from training.trainer import Trainer


def train_recipe(name: str, data: Path, out: Path, changes: dict[str, Any]) -> None:
    """Train, from the start or from where an earlier run in `out` stopped.

    Args:
        name: of a recipe.
        data: a COCO panoptic set, or dsb2018_nuclei, which is converted into `out / "data"` first.
        changes: fields of the recipe's `TrainConfig`; None leaves a field as it is.

    Raises:
        ValueError: an unknown recipe, data that cannot be used, or another run in `out`.
    """
    if name not in RECIPES:
        raise ValueError(f"there is no recipe {name!r}; legal: {', '.join(RECIPES)}")
    train = read_split(data, "train", converted=out / "data")
    val = read_split(data, "val", converted=out / "data")
    if train.categories != val.categories:
        raise ValueError(f"{data}: train and val list different categories")
    config = replace(
        RECIPES[name](train.categories), **{field: value for field, value in changes.items() if value is not None}
    )
    Trainer(config, train.records, val.records, out).run()


def read_split(data: Path, split: Literal["train", "val"], *, converted: Path) -> PanopticIndex:
    """One split of a data set; dsb2018_nuclei is converted into `converted` unless that is there."""
    if is_dsb2018(data):
        if not converted.exists():
            convert(data, converted)
        data = converted
    return read_coco_panoptic(*find_coco_panoptic(data, split))
