"""`artifact.json` without pydantic: bundles take this file in place of `service/artifact.py`.

The exporter has checked what it wrote; here, only the graph's digest is.
"""

import hashlib
import json
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

from service.errors import ArtifactError

FILE_NAME = "artifact.json"

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Category:
    """One category; its position in the list is its `class_index`."""

    id: int
    name: str
    is_thing: bool
    colour: tuple[int, int, int]


@dataclass(frozen=True, kw_only=True)
class Geometry:
    """How an image becomes canvases."""

    mode: str
    scale: float
    sizes: tuple[int, ...]
    size: tuple[int, int] | None
    overlap: int
    shortest: int
    longest: int
    multiple: int

    @property
    def edges(self) -> tuple[int, int, int]:
        """`shortest`, `longest`, `multiple` of geometry `shortest_edge`."""
        return self.shortest, self.longest, self.multiple

    @property
    def largest_canvas(self) -> tuple[int, int]:
        """Height and width of a canvas that no other has more pixels than."""
        if self.mode == "shortest_edge":
            return round_up(self.shortest, self.multiple), round_up(self.longest, self.multiple)
        return self.size or (self.sizes[-1], self.sizes[-1])


@dataclass(frozen=True, kw_only=True)
class Thresholds:
    """Defaults of the merge."""

    score: float
    overlap: float
    min_area: int


@dataclass(frozen=True, kw_only=True)
class Variant:
    """The graph file and what runs it."""

    runtime: str
    precision: str
    file: str
    sha256: str


@dataclass(frozen=True, kw_only=True)
class ArtifactMetadata:
    """What `artifact.json` holds and a host needs."""

    name: str
    version: str
    kind: str
    categories: tuple[Category, ...]
    geometry: Geometry
    output_stride: int
    mask_upsample: int
    num_slots: int
    uses_image_statistics: bool
    thresholds: Thresholds
    variants: tuple[Variant, ...]
    confidence: bool = False  # not in artifacts of schema 3

    @property
    def num_thing_slots(self) -> int:
        """Slots of a panoptic artifact that can hold a thing."""
        return self.num_slots - sum(not category.is_thing for category in self.categories)


def round_up(length: int, multiple: int) -> int:
    """The least multiple of `multiple` that is at least `length`."""
    return -(-length // multiple) * multiple


def load(folder: Path | str) -> ArtifactMetadata:
    """Read `artifact.json` of a bundle; raises ArtifactError where it is missing or damaged."""
    path = Path(folder) / FILE_NAME
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return _read(
            ArtifactMetadata,
            content
            | {
                "categories": tuple(_read(Category, entry) for entry in content["categories"]),
                "geometry": _read(Geometry, content["geometry"]),
                "thresholds": _read(Thresholds, content["thresholds"]),
                "variants": tuple(_read(Variant, entry) for entry in content["variants"]),
            },
        )
    except OSError as error:
        raise ArtifactError(f"cannot read {path}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise ArtifactError(f"{path} is damaged ({error!r}); unpack the bundle again") from error


def verify_files(folder: Path | str, metadata: ArtifactMetadata) -> None:
    """Raise ArtifactError unless the graph is there with the digest that the metadata names."""
    for variant in metadata.variants:
        path = Path(folder) / variant.file
        try:
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
        except OSError as error:
            raise ArtifactError(f"cannot read {path}: {error.strerror}") from error
        if digest != variant.sha256:
            raise ArtifactError(f"{path} is damaged: its sha256 is {digest}, but {FILE_NAME} says {variant.sha256}")


def _read(kind: type[T], values: dict[str, Any]) -> T:
    """An object of the fields that it has; lists become tuples."""
    names = [field.name for field in fields(kind) if field.name in values]  # type: ignore[arg-type]
    return kind(**{name: tuple(values[name]) if isinstance(values[name], list) else values[name] for name in names})
