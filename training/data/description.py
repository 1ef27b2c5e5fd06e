"""`data.json`: what a folder of images does not say by itself. Every key is optional."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from training.data.splits import VAL_FRACTION
from training.data.text_file import lines_of, text_of

FILE_NAME = "data.json"
Format = Literal["coco_panoptic", "coco_instances", "semantic", "label_maps"]
Byte = Annotated[int, Field(ge=0, le=255)]
Colour = tuple[Byte, Byte, Byte]


def _numbers(entry: Any) -> Any:
    """One number, none or several, as several."""
    return () if entry is None else (entry,) if isinstance(entry, int) else entry


def _colours(entry: Any) -> Any:
    """One colour or several, as several."""
    return (entry,) if isinstance(entry, list | tuple) and entry and isinstance(entry[0], int) else entry


Values = Annotated[tuple[Annotated[int, Field(ge=0)], ...], BeforeValidator(_numbers)]
Colours = Annotated[tuple[Colour, ...], BeforeValidator(_colours)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Folders(_Strict):
    """Where images and their labels are, relative to the data's folder."""

    images: str
    labels: str  # a folder, or COCO's JSON
    list: str | None = None  # a text file that names the images to take, one a line; beside data.json too; None: all


class DescribedCategory(_Strict):
    """A category, as the user describes it. What is left out is chosen."""

    name: Annotated[str, Field(min_length=1)]
    id: int | None = None
    value: Values = ()  # in semantic labels; several are merged into one class
    colour: Colours = ()  # in colour-coded labels; the first is the one it is drawn in
    is_thing: bool | None = None


def check_unique(categories: Sequence[DescribedCategory]) -> None:
    """Raise ValueError where two categories share a name, id, value or colour."""
    for what, keys in (
        ("name", [category.name for category in categories]),
        ("id", [category.id for category in categories if category.id is not None]),
        ("value", [value for category in categories for value in category.value]),
        ("colour", [colour for category in categories for colour in category.colour]),
    ):
        counts = Counter(map(str, keys))
        if repeated := [key for key, count in counts.items() if count > 1]:
            raise ValueError(f"categories with the same {what}: {', '.join(repeated[:5])}")


class Description(_Strict):
    """The content of data.json, or what a known layout stands for."""

    format: Format | None = None
    train: Folders | None = None
    val: Folders | None = None
    test: Folders | None = None
    images: str | None = None  # with `labels`: folders without a split of their own
    labels: str | None = None
    categories: tuple[DescribedCategory, ...] = ()
    ignore_index: Values = (255,)  # values of void pixels; null: none
    ignore_colour: Colours = ()  # of void pixels in colour-coded labels
    reduce_zero_label: bool = False  # value 0 is void, and classes are counted from 1
    val_fraction: Annotated[float, Field(gt=0, lt=1)] = VAL_FRACTION

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (self.images is None) != (self.labels is None):
            raise ValueError("'images' and 'labels' belong together: give both, or both in 'train' and 'val'")
        if self.val is not None and self.train is None:
            raise ValueError("'val' is there but not 'train': give both, or 'train' alone to have it divided")
        if self.test is not None and self.train is None and self.images is None:
            raise ValueError("'test' is there but not 'train': give 'train' too, or 'images' and 'labels'")
        check_unique(self.categories)
        return self

    @property
    def whole(self) -> Folders | None:
        """The folders of a data set that has no split of its own."""
        if self.images is not None and self.labels is not None:
            return Folders(images=self.images, labels=self.labels)
        return self.train if self.val is None else None

    def overridden(self, given: "Description") -> "Description":
        """This one, with the keys that `given` has."""
        return self.model_copy(update={key: getattr(given, key) for key in given.model_fields_set})


def read_description(data: Path, path: Path | None) -> Description:
    """Read `path`, or data.json in the folder `data`, or nothing.

    Raises ValueError with the file and each wrong entry.
    """
    if path is None:
        path = data / FILE_NAME
        if not path.is_file():
            return Description()
    try:
        return _with_lists_beside(path, Description.model_validate_json(text_of(path)))
    except FileNotFoundError as error:
        raise ValueError(f"{path} is missing") from error
    except ValidationError as error:
        lines = [f"{'.'.join(map(str, entry['loc']))}: {entry['msg']}".removeprefix(": ") for entry in error.errors()]
        raise ValueError(f"{path} cannot be used (docs/data.md has examples):\n  " + "\n  ".join(lines)) from error


def _with_lists_beside(path: Path, description: Description) -> Description:
    """Lists that lie beside the description's file are taken from there."""
    changed = {}
    for name in ("train", "val", "test"):
        folders: Folders | None = getattr(description, name)
        if folders is not None and folders.list is not None and (path.parent / folders.list).is_file():
            changed[name] = folders.model_copy(update={"list": str((path.parent / folders.list).resolve())})
    return description.model_copy(update=changed)


def listed_names(data: Path, folders: Folders) -> list[str] | None:
    """The images to take, by path or the last part of it; None: all. Raises ValueError where the list is missing."""
    if folders.list is None:
        return None
    path = data / folders.list
    if not path.is_file():
        raise ValueError(f"{path} is missing: the list of images, one a line")
    return [line for line in lines_of(path) if line]
