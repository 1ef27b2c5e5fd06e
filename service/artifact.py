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

SCHEMA_VERSION = 4
FILE_NAME = "artifact.json"

Merge = Literal["official", "confident"]
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


# Fields of each geometry: those that it needs, and those that it may have beside them.
_GEOMETRY_FIELDS = {
    "tile": (("sizes",), ("scale", "overlap")),
    "fit": (("size",), ()),
    "shortest_edge": (("shortest", "longest", "multiple"), ()),
}


class Geometry(_Frozen):
    """How an image becomes canvases.

    `tile`: scaled by `scale`, padded to the smallest of `sizes` that holds it (each side on its own), or cut
    into tiles of the largest that share at least `overlap` pixels. `fit`: resized to fit into `size` (H, W).
    `shortest_edge`: resized until its short side is `shortest` or its long side `longest`, whichever is first,
    then each side padded to a multiple of `multiple`.
    """

    mode: Literal["tile", "fit", "shortest_edge"]
    scale: float = Field(default=1.0, gt=0, le=16)
    sizes: tuple[Side, ...] = ()
    size: tuple[Side, Side] | None = None
    overlap: int = Field(default=0, ge=0)
    shortest: Side | None = None
    longest: Side | None = None
    multiple: Side | None = None

    @model_validator(mode="after")
    def _check_mode(self) -> Self:
        needed, optional = _GEOMETRY_FIELDS[self.mode]
        given = [name for name, field in type(self).model_fields.items() if getattr(self, name) != field.default]
        missing = [name for name in needed if name not in given]
        foreign = [name for name in given if name not in ("mode", *needed, *optional)]
        if missing or foreign:
            wrong = [f"without {name}" for name in missing] + [f"with {name}" for name in foreign]
            legal = f"needs {', '.join(needed)}" + (f" and may have {', '.join(optional)}" if optional else "")
            raise ValueError(f"geometry `{self.mode}` {' and '.join(wrong)}: it {legal}")
        if list(self.sizes) != sorted(set(self.sizes)):
            raise ValueError(f"sizes must ascend without repetition, not {self.sizes}")
        if self.sizes and self.overlap > self.sizes[-1] // 2:
            raise ValueError(f"overlap {self.overlap} must be at most half of the largest size {self.sizes[-1]}")
        if self.shortest is not None and self.longest is not None and self.shortest > self.longest:
            raise ValueError(f"shortest {self.shortest} must be at most longest {self.longest}")
        return self

    @property
    def edges(self) -> tuple[int, int, int]:
        """`shortest`, `longest`, `multiple` of geometry `shortest_edge`."""
        assert self.shortest is not None
        assert self.longest is not None
        assert self.multiple is not None
        return self.shortest, self.longest, self.multiple

    @property
    def largest_canvas(self) -> tuple[int, int]:
        """Height and width of a canvas that no other has more pixels than."""
        if self.mode == "shortest_edge":
            shortest, longest, multiple = self.edges
            return round_up(shortest, multiple), round_up(longest, multiple)
        return self.size or (self.sizes[-1], self.sizes[-1])


def round_up(length: int, multiple: int) -> int:
    """The least multiple of `multiple` that is at least `length`."""
    return -(-length // multiple) * multiple


class Thresholds(_Frozen):
    """Defaults of the merge; a request may name others for the first two."""

    score: Fraction
    overlap: Fraction
    min_area: Annotated[int, Field(ge=0)] = 0  # panoptic: pixels of the posted image; smaller things are dropped


class Variant(_Frozen):
    """One way to run the artifact: a graph file, what runs it, and its agreement with the network it came from.

    Variants may share a file that runtimes compute in different precisions.
    """

    runtime: str  # "onnxruntime", "openvino", "tensorrt"
    precision: str  # that is computed in: "fp32", "fp16", "bf16", "int8"
    file: str
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    accuracy: dict[str, float] = {}  # against PyTorch with the same weights
    outside_limits: bool = False  # its accuracy is not within the limits of its precision; written as that was forced
    needs: dict[str, JsonValue] = {}  # of the machine: a TensorRT engine's GPU, version, profiles

    @property
    def name(self) -> str:
        """What people call it: `openvino-bf16`."""
        return f"{self.runtime}-{self.precision}"

    @field_validator("file")
    @classmethod
    def _stays_inside(cls, file: str) -> str:
        path = PurePosixPath(file)
        if not path.parts or path.is_absolute() or ".." in path.parts or "\\" in file or ":" in file:
            raise ValueError(f"{file!r} must be a relative path inside the artifact's folder")
        return file


class ArtifactMetadata(_Frozen):
    """What `artifact.json` holds.

    `output_stride`: canvas pixels per cell of the graph's map or mask logits. `mask_upsample`: what a host enlarges an
    instance graph's mask logits by before it makes probabilities of them. `merge` and `mask_quality` tell people what
    is in the graph: whether all kernels compete for a pixel ("official") or only those above the score threshold
    ("confident"), and whether scores are multiplied by the mean probability inside the mask. `confidence`: a semantic
    graph also gives the probability of each cell's class.
    """

    schema_version: Literal[1, 2, 3, 4] = 4
    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    version: str = Field(pattern=r"^[0-9]+$")
    kind: Literal["panoptic", "instance", "semantic"]
    categories: tuple[Category, ...] = Field(min_length=1)
    geometry: Geometry
    output_stride: Literal[1, 2, 4, 8]
    mask_upsample: Literal[1, 2, 4] = 1
    merge: Merge = "official"
    mask_quality: bool = False
    confidence: bool = False
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
    def _check_categories(self) -> Self:
        for what in ("id", "name"):
            values = [getattr(category, what) for category in self.categories]
            if len(set(values)) != len(values):
                raise ValueError(f"each category needs a {what} of its own, not {values}")
        return self

    @model_validator(mode="after")
    def _check_kind(self) -> Self:
        if self.kind == "panoptic":
            things = [category.is_thing for category in self.categories]
            if things != sorted(things, reverse=True):
                raise ValueError("categories must list things before stuff")
            if self.num_slots <= self.num_stuff:
                raise ValueError(
                    f"num_slots {self.num_slots} leaves none for things beside {self.num_stuff} stuff slots"
                )
        if self.confidence and self.kind != "semantic":
            raise ValueError(f"confidence is for semantic artifacts; a {self.kind} one has scores")
        if self.kind == "instance":
            if stuff := [category.name for category in self.categories if not category.is_thing]:
                raise ValueError(f"an instance artifact has things only, not the stuff {', '.join(stuff)}")
            if self.geometry.mode == "tile":
                raise ValueError("an instance artifact takes geometry fit or shortest_edge, as masks are not joined")
        elif self.mask_upsample != 1:
            raise ValueError(f"mask_upsample {self.mask_upsample} is for instance artifacts; a {self.kind} one has 1")
        return self

    @model_validator(mode="after")
    def _check_strides(self) -> Self:
        geometry = self.geometry
        for side in (*geometry.sizes, *(geometry.size or ()), geometry.multiple or self.output_stride):
            if side % self.output_stride:
                raise ValueError(f"canvas side {side} must be a multiple of output_stride {self.output_stride}")
        if self.mask_upsample > self.output_stride:
            raise ValueError(f"mask_upsample {self.mask_upsample} must be at most output_stride {self.output_stride}")
        return self

    @property
    def num_stuff(self) -> int:
        """Stuff categories; in a panoptic artifact each has one slot of its own."""
        return sum(not category.is_thing for category in self.categories)

    @property
    def num_thing_slots(self) -> int:
        """Slots of a panoptic artifact that can hold a thing: the most things that one canvas can give."""
        return self.num_slots - self.num_stuff


def load(folder: Path | str) -> ArtifactMetadata:
    """Read and check `artifact.json` of a folder; the graph files are not opened (see `verify_files`)."""
    path = Path(folder) / FILE_NAME
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ArtifactError(f"cannot read {path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
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
        verify_file(folder, variant)


def verify_file(folder: Path | str, variant: Variant) -> None:
    """Raise ArtifactError unless a variant's file is there with the digest that the metadata names."""
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
