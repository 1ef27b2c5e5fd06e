"""The artifact: a folder with `artifact.json` and graphs, which a server runs without torch."""

import hashlib
import json
from pathlib import Path, PurePosixPath
from typing import Annotated, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    JsonValue,
    ValidationError,
    field_validator,
    model_validator,
)

from service.errors import ArtifactError

SCHEMA_VERSION = 1
FILE_NAME = "artifact.json"

Fraction = Annotated[float, Field(ge=0, le=1)]
Side = Annotated[int, Field(gt=0)]
Byte = Annotated[int, Field(ge=0, le=255)]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Category(_Frozen):
    """One category; its position in the list is its `class_index`."""

    id: int = Field(ge=0)
    name: str = Field(min_length=1)
    is_thing: bool
    colour: tuple[Byte, Byte, Byte]


class Geometry(_Frozen):
    """How an image becomes canvases of fixed sizes.

    `tile`: scaled by `scale`, padded to the smallest of `sizes` that holds it (each side on its own), or cut
    into tiles of the largest that share at least `overlap` pixels. `fit`: resized to fit into `size` (H, W).
    """

    mode: Literal["tile", "fit"]
    scale: float = Field(default=1.0, gt=0, le=16)
    sizes: tuple[Side, ...] = ()
    size: tuple[Side, Side] | None = None
    overlap: int = Field(default=0, ge=0)

    @model_validator(mode="after")
    def _check_mode(self) -> Self:
        if self.mode == "fit":
            if self.size is None or self.sizes or self.overlap or self.scale != 1:
                raise ValueError("geometry `fit` needs `size`, and neither `sizes`, `overlap` nor `scale`")
            return self
        if self.size is not None or not self.sizes:
            raise ValueError("geometry `tile` needs `sizes`, and no `size`")
        if list(self.sizes) != sorted(set(self.sizes)):
            raise ValueError(f"sizes must ascend without repetition, not {self.sizes}")
        if self.overlap > self.sizes[-1] // 2:
            raise ValueError(f"overlap {self.overlap} must be at most half of the largest size {self.sizes[-1]}")
        return self


class Thresholds(_Frozen):
    """Defaults of the merge; a request may name others."""

    score: Fraction
    overlap: Fraction


class Variant(_Frozen):
    """One graph file: what runs it, its digest, and its agreement with the network it came from."""

    runtime: str
    precision: str
    file: str
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    accuracy: dict[str, float] = {}

    @field_validator("file")
    @classmethod
    def _stays_inside(cls, file: str) -> str:
        path = PurePosixPath(file)
        if not path.parts or path.is_absolute() or ".." in path.parts or "\\" in file or ":" in file:
            raise ValueError(f"{file!r} must be a relative path inside the artifact's folder")
        return file


class ArtifactMetadata(_Frozen):
    """What `artifact.json` holds."""

    schema_version: Literal[1] = 1
    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    version: str = Field(pattern=r"^[0-9]+$")
    kind: Literal["panoptic", "instance", "semantic"]
    categories: tuple[Category, ...] = Field(min_length=1)
    geometry: Geometry
    output_stride: Literal[1, 2, 4]
    num_slots: int = Field(gt=0)
    uses_image_statistics: bool
    thresholds: Thresholds
    variants: tuple[Variant, ...] = ()
    provenance: dict[str, JsonValue] = {}

    @field_validator("version", mode="before")
    @classmethod
    def _version_text(cls, version: object) -> object:
        return str(version) if isinstance(version, int) else version

    @model_validator(mode="after")
    def _check_whole(self) -> Self:
        things = [category.is_thing for category in self.categories]
        if things != sorted(things, reverse=True):
            raise ValueError("categories must list things before stuff")
        for what in ("id", "name"):
            values = [getattr(category, what) for category in self.categories]
            if len(set(values)) != len(values):
                raise ValueError(f"each category needs a {what} of its own, not {values}")
        if self.num_slots <= self.num_stuff:
            raise ValueError(f"num_slots {self.num_slots} leaves none for things beside {self.num_stuff} stuff slots")
        for side in (*self.geometry.sizes, *(self.geometry.size or ())):
            if side % self.output_stride:
                raise ValueError(f"canvas side {side} must be a multiple of output_stride {self.output_stride}")
        return self

    @property
    def num_stuff(self) -> int:
        """Stuff categories; each has one slot of its own."""
        return sum(not category.is_thing for category in self.categories)

    @property
    def num_thing_slots(self) -> int:
        """Slots that can hold a thing: the most things that one canvas can give."""
        return self.num_slots - self.num_stuff


def load(folder: Path | str) -> ArtifactMetadata:
    """Read and check `artifact.json` of a folder; the graph files are not opened (see `verify_files`)."""
    path = Path(folder) / FILE_NAME
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ArtifactError(f"cannot read {path}: {error.strerror}") from error
    except ValueError as error:
        raise ArtifactError(f"{path} is not JSON: {error}") from error
    found = content.get("schema_version") if isinstance(content, dict) else None
    if isinstance(found, int) and found > SCHEMA_VERSION:
        raise ArtifactError(f"{path} has schema_version {found}; this release reads up to {SCHEMA_VERSION}: update it")
    try:
        metadata = ArtifactMetadata.model_validate(content)
    except ValidationError as error:
        raise ArtifactError(f"{path} is not a valid artifact: {error}") from error
    if not metadata.variants:
        raise ArtifactError(f"{path} lists no variant: an artifact needs at least one graph")
    return metadata


def save(metadata: ArtifactMetadata, folder: Path | str) -> None:
    """Write `artifact.json` into an existing folder."""
    text = json.dumps(metadata.model_dump(mode="json"), indent=2, ensure_ascii=False)
    (Path(folder) / FILE_NAME).write_text(text + "\n", encoding="utf-8")


def verify_files(folder: Path | str, metadata: ArtifactMetadata) -> None:
    """Raise ArtifactError unless every variant's file is there with the digest that the metadata names."""
    for variant in metadata.variants:
        path = Path(folder) / variant.file
        try:
            digest = file_sha256(path)
        except OSError as error:
            raise ArtifactError(f"cannot read {path}: {error.strerror}") from error
        if digest != variant.sha256:
            raise ArtifactError(f"{path} has sha256 {digest}, but {FILE_NAME} says {variant.sha256}")


def file_sha256(path: Path) -> str:
    """Hexadecimal SHA-256 of a file; exporters fill `Variant.sha256` with it."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
