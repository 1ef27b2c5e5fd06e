"""What COCO's two annotation files have in common: categories, images, and annotations that point to both."""

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeGuard

from model.config import Category
from training.data.colours import distinct_colour
from training.data.problems import Problems


@dataclass(kw_only=True)
class CocoJson:
    """A COCO annotation file with its images. Problems are collected, each with the entry it is in and what to do."""

    path: Path
    image_dir: Path
    problems: Problems = field(init=False)
    entries: dict[str, list[dict[str, Any]]] = field(init=False)

    def __post_init__(self) -> None:
        self.problems = Problems(where=self.path)
        document = load_json(self.path)
        self.entries = {name: self._list_of(document, name) for name in ("categories", "images", "annotations")}
        self.problems.raise_if_any()

    def _list_of(self, document: Mapping[str, Any], name: str) -> list[dict[str, Any]]:
        entries = document.get(name)
        if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
            self.problems.add(f"{name!r} is missing or not a list of objects: is this COCO JSON?")
            return []
        return entries

    def categories(self, *, is_thing: int | None = None) -> tuple[Category, ...]:
        """Things first, then stuff, each by id. `is_thing` is taken where an entry has no 'isthing'."""
        entries = self.entries["categories"]
        self.check_unique("categories", [entry.get("id") for entry in entries])
        valid = []
        for index, entry in enumerate(entries):
            entry = {"isthing": is_thing} | entry
            if not is_int(entry.get("id")) or not isinstance(entry.get("name"), str):
                self.problems.add(f"categories[{index}]: needs an integer 'id' and a 'name'; has {entries[index]}")
            elif entry["id"] < 0:
                self.problems.add(f"category {entry['id']} ({entry['name']}): the id is negative; legal: 0 and above")
            elif entry["isthing"] not in (0, 1):
                self.problems.add(f"category {entry['id']} ({entry['name']}): set 'isthing' to 0 or 1")
            else:
                valid.append(entry)
        self._check_names(valid)
        valid.sort(key=lambda entry: (not entry["isthing"], entry["id"]))
        categories = tuple(self._coloured(valid))
        self.problems.raise_if_any()  # without categories every annotation would be a problem
        return categories

    def _check_names(self, entries: list[dict[str, Any]]) -> None:
        """Models and data meet by names. An annotation tool may list its project as a category of the same name."""
        of_name: dict[str, list[int]] = {}
        for entry in entries:
            of_name.setdefault(entry["name"], []).append(entry["id"])
        for name, ids in of_name.items():
            if not name.strip():
                self.problems.add(f"category {ids[0]} has no name: give it one")
            if len(ids) > 1:
                self.problems.add(
                    f"categories {', '.join(map(str, ids))} have the same name {name!r}: rename all but one, or remove "
                    "those that no annotation has"
                )

    def _coloured(self, entries: list[dict[str, Any]]) -> Iterator[Category]:
        for index, entry in enumerate(entries):
            colour = entry.get("color") or distinct_colour(index)
            try:
                yield Category(
                    id=entry["id"], name=entry["name"], is_thing=bool(entry["isthing"]), colour=tuple(colour)
                )
            except (TypeError, ValueError) as error:
                self.problems.add(f"category {entry['id']} ({entry['name']}): 'color': {error}")

    def images(self) -> dict[int | str, dict[str, Any]]:
        """Images by id; their files exist."""
        entries = self.entries["images"]
        self.check_unique("images", [entry.get("id") for entry in entries])
        images: dict[int | str, dict[str, Any]] = {}
        for index, entry in enumerate(entries):
            name, sizes = entry.get("file_name"), [entry.get("height"), entry.get("width")]
            where = f"images[{index}] (id {entry.get('id')!r})"
            if not isinstance(entry.get("id"), int | str) or not isinstance(name, str):
                self.problems.add(f"{where}: needs an 'id' (integer or text) and a 'file_name'")
                continue
            if any(not is_int(size) or size < 1 for size in sizes):
                self.problems.add(f"{where}: height and width are {sizes}; write the image's own, in pixels")
            elif not (self.image_dir / name).is_file():
                self.problems.add(f"{where}: {self.image_dir / name} is missing; add it or remove the entry")
            images[entry["id"]] = entry
        return images

    def annotations(
        self, images: Mapping[int | str, dict[str, Any]]
    ) -> Iterator[tuple[str, dict[str, Any], dict[str, Any]]]:
        """Each annotation with the words for where it is, before it, and its image, after it."""
        for index, entry in enumerate(self.entries["annotations"]):
            image_id = entry.get("image_id")
            where = f"annotations[{index}] (image id {image_id!r})"
            image = images.get(image_id) if isinstance(image_id, int | str) else None
            if image is None:
                self.problems.add(f"{where}: no image has this id; add it to 'images' or remove the entry")
            else:
                yield where, entry, image

    def check_unique(self, where: str, ids: list[Any]) -> None:
        """Collect a problem if `ids` are not all different."""
        repeated = [key for key, count in Counter(map(repr, ids)).items() if count > 1]
        if repeated:
            self.problems.add(f"{where}: ids that occur more than once: {', '.join(repeated[:5])}")

    def category_problem(self, category_id: Any) -> str:
        """The words for a category id that is not listed."""
        return f"category {category_id!r} is not in 'categories'; add it there or correct the segment"


def load_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file. Raises ValueError, naming file and place."""
    try:
        document = json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise ValueError(f"{path} is missing") from error
    except json.JSONDecodeError as error:
        raise ValueError(
            f"{path}, line {error.lineno}, column {error.colno}: {error.msg}. "
            "The file is damaged or cut off: write or download it again"
        ) from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not a text file ({error}): give a JSON file") from error
    if not isinstance(document, dict):
        raise ValueError(f"{path} holds a {type(document).__name__}, not an object {{...}}")
    return document


def is_int(value: Any) -> TypeGuard[int]:
    """Whether `value` is a JSON integer; true and false are none."""
    return isinstance(value, int) and not isinstance(value, bool)
