"""The configuration of a K-Net: everything needed to rebuild the network. Variants are functions."""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, Self, get_args

Kind = Literal["panoptic", "instance", "semantic"]
Neck = Literal["semantic_fpn", "fcn", "psp", "aspp", "uper"]
Norm = Literal["group", "batch"]
FirstKernels = Literal["learned", "seeded"]
Normalisation = Literal["imagenet", "image"]
Merge = Literal["official", "confident"]
MergeAt = Literal["pixels", "cells"]
Geometry = Literal["fit", "shortest_edge", "tile"]


@dataclass(frozen=True, kw_only=True)
class Category:
    """One category of a data set. Its position in a config's list is its class index."""

    id: int  # the data set's own id
    name: str
    is_thing: bool  # countable: each object is a segment of its own
    colour: tuple[int, int, int]  # RGB, 0..255

    def __post_init__(self) -> None:
        if len(self.colour) != 3 or not all(0 <= value <= 255 for value in self.colour):
            raise ValueError(f"colour of category {self.name!r} is {self.colour}; legal: three values 0..255")


@dataclass(frozen=True, kw_only=True)
class BackboneConfig:
    """Which timm network, cut where, and what is changed in it."""

    name: str = "resnet50"  # a timm model that can give feature maps
    levels: tuple[int, ...] = (1, 2, 3, 4)  # timm out_indices, finest first; level i has stride 2 ** (i + 1)
    max_stride: int = 32  # at 8 or 16 the later levels keep their resolution and dilate their convolutions
    frozen_level: int | None = None  # the stem and everything up to this level get no gradient
    deformable_levels: tuple[int, ...] = ()  # their 3x3 convolutions are deformable (v1); ResNets only
    drop_path: float = 0.0  # share of residual branches dropped in training; Swin only

    def __post_init__(self) -> None:
        levels = self.levels
        consecutive = bool(levels) and levels[0] >= 0 and levels == tuple(range(levels[0], levels[0] + len(levels)))
        inside = ", ".join(map(str, levels))
        rules = (
            ("levels", consecutive, "numbers from 0 up, each one more than the one before"),
            ("max_stride", self.max_stride in (8, 16, 32), "8, 16, 32"),
            ("frozen_level", self.frozen_level is None or self.frozen_level in levels, f"{inside}, or None"),
            ("deformable_levels", set(self.deformable_levels) <= set(levels), f"some of {inside}"),
            ("drop_path", 0 <= self.drop_path < 1, "0 up to, not including, 1"),
            ("drop_path", not self.drop_path or self.name.startswith("swin_"), "0 unless the backbone is a Swin"),
        )
        for name, is_legal, legal in rules:
            if not is_legal:
                raise ValueError(f"backbone.{name} is {getattr(self, name)!r}; legal: {legal}")

    @property
    def strides(self) -> tuple[int, ...]:
        """Input pixels per pixel of each level."""
        return tuple(min(2 ** (level + 1), self.max_stride) for level in self.levels)


@dataclass(frozen=True, kw_only=True)
class KNetConfig:
    """A K-Net. The defaults are the paper's for panoptic segmentation (ResNet-50, section 4)."""

    categories: tuple[Category, ...]  # panoptic: things first, then stuff; instance: things; semantic: any order
    kind: Kind = "panoptic"  # semantic: one kernel a class, and every class is treated as stuff
    backbone: BackboneConfig = BackboneConfig()
    normalisation: Normalisation = "imagenet"  # "image": by the image's own mean and deviation, then asinh
    neck: Neck = "semantic_fpn"  # backbone levels -> maps; the others are for kind semantic, each with one map
    fpn_channels: int = 256  # semantic_fpn only
    channels: int = 256  # C: of a kernel and of the feature map it filters
    feature_stride: int = 8  # input pixels per feature pixel
    mask_upsample: int = 2  # masks are enlarged by this before losses and merge
    norm: Norm = "group"  # of the convolutions after the backbone; "batch" is trained with the network
    sine_encoding: bool = True  # semantic_fpn: added to the coarsest level; ties kernels to places of the image
    dropout: float = 0.0  # semantic: of whole channels, before the first masks
    auxiliary: bool = False  # semantic: a second segmentation, from the last level but one, in training
    first_kernels: FirstKernels = "learned"  # "seeded": taken from the image, our extension
    num_kernels: int = 100  # thing kernels of an image; semantic: 0
    num_training_kernels: int = 100  # the same on training crops; differs only for seeded kernels
    seed_radius: float = 4.0  # seeded kernels: of a typical object, in feature cells; where training starts from
    num_stages: int = 3  # S
    num_heads: int = 8
    ffn_channels: int = 2048
    update_channels: int | None = None  # of one adaptive update; kernels are split into parts of it; None: whole
    padding_in_masks: bool = False  # True: masks may reach into an image's padding, as in the paper's detection code
    merge_at: MergeAt = (
        "pixels"  # panoptic: where all kernels compete; "cells": nearly the same, faster (cell_merge.py)
    )
    merge: Merge = "official"  # panoptic: every kernel competes for a pixel; "confident": those above the threshold
    mask_quality: bool = False  # scores are multiplied by the mean probability inside the mask (Mask2Former)
    fixed_stuff_score: float | None = None  # score of every stuff kernel in the merge; None: the predicted one
    max_instances: int = 100  # instance: the best of all pairs of kernel and class
    geometry: Geometry = "fit"  # of served images: see service/geometry.py
    # "fit": height, width; "shortest_edge": the shorter side, and the most for the longer; "tile": legal side lengths
    canvas_sizes: tuple[int, ...] = (800, 1344)
    tile_overlap: int = 0  # pixels that neighbouring tiles share at least
    output_stride: int = 4  # image pixels per pixel of the id-map; instance: of the masks, the feature stride
    score_threshold: float = 0.3  # defaults of the merge
    overlap_threshold: float = 0.6
    min_area: int = 0  # panoptic: pixels of the posted image; smaller things are dropped

    def __post_init__(self) -> None:
        for name, is_legal, legal in self._rules():
            if not is_legal:
                raise ValueError(f"{name} is {getattr(self, name)!r}; legal: {legal}")
        things = [category.is_thing for category in self.categories]
        if self.kind == "panoptic" and (not any(things) or things != sorted(things, reverse=True)):
            raise ValueError("categories must hold at least one thing and list things before stuff")
        if self.kind == "instance" and not (things and all(things)):
            raise ValueError("categories of kind instance must be things, at least one")
        if not things:
            raise ValueError("categories are missing; legal: at least one")
        if len({category.id for category in self.categories}) < len(things):
            raise ValueError(f"ids of categories must differ: {[category.id for category in self.categories]}")

    def _rules(self) -> Iterator[tuple[str, bool, str]]:
        """Field, whether its value is legal, and what is. A rule may rely on those before it."""
        for name, values in (
            ("kind", Kind),
            ("normalisation", Normalisation),
            ("neck", Neck),
            ("norm", Norm),
            ("first_kernels", FirstKernels),
            ("merge", Merge),
            ("merge_at", MergeAt),
            ("geometry", Geometry),
        ):
            yield name, getattr(self, name) in get_args(values), ", ".join(get_args(values))
        for name in ("fpn_channels", "channels", "num_stages", "num_heads", "ffn_channels", "max_instances"):
            yield name, getattr(self, name) >= 1, "1 and above"
        yield from self._network_rules()
        yield from self._kernel_rules()
        yield from self._geometry_rules()
        yield "merge", self.kind == "panoptic" or self.merge == "official", "for kind instance and semantic: official"
        fits = self.kind == "panoptic" or self.merge_at == "pixels"
        yield "merge_at", fits, "for kind instance and semantic: pixels"
        yield "mask_quality", self.kind != "semantic" or not self.mask_quality, "for kind semantic: False"
        for name in ("score_threshold", "overlap_threshold"):
            yield name, 0 <= getattr(self, name) <= 1, "0..1"
        yield "min_area", self.min_area >= 0 and (self.kind == "panoptic" or not self.min_area), "0 and above; panoptic"
        score = self.fixed_stuff_score
        yield "fixed_stuff_score", score is None or 0 <= score <= 1, "0..1, or None"

    def _network_rules(self) -> Iterator[tuple[str, bool, str]]:
        is_semantic = self.kind == "semantic"
        legal = "fcn, psp, aspp, uper for kind semantic, semantic_fpn for the others"
        yield "neck", is_semantic != (self.neck == "semantic_fpn"), legal
        if is_semantic:
            strides = self.backbone.strides
            stride = strides[0] if self.neck == "uper" else strides[-1]
            yield "feature_stride", self.feature_stride == stride, f"with neck {self.neck}: {stride}"
            yield "mask_upsample", self.mask_upsample == 1, "for kind semantic: 1"
            yield "neck", self.neck != "uper" or strides[-1] == 32, "uper needs a backbone of max_stride 32"
        else:
            yield "feature_stride", self.feature_stride in (2, 4, 8), "2, 4, 8"
            fits = self.mask_upsample in (1, 2, 4) and self.mask_upsample <= self.feature_stride
            yield "mask_upsample", fits, "1, 2, 4, at most feature_stride"
        yield "dropout", 0 <= self.dropout < 1 and (is_semantic or not self.dropout), "0..1; 0 unless semantic"
        fits = is_semantic and len(self.backbone.levels) > 1
        yield "auxiliary", fits or not self.auxiliary, "False unless semantic, with two backbone levels or more"
        yield "channels", self.channels % self.num_heads == 0, f"a multiple of num_heads ({self.num_heads})"
        yield "channels", self.norm == "batch" or self.channels % 32 == 0, "with group norm: a multiple of 32"
        part = self.update_channels
        yield "update_channels", part is None or self.channels % part == 0, f"divisors of {self.channels}, or None"
        fits = not self.sine_encoding or self.fpn_channels % 4 == 0
        yield "fpn_channels", fits, "with the encoding: a multiple of 4"

    def _kernel_rules(self) -> Iterator[tuple[str, bool, str]]:
        if self.kind == "semantic":
            yield "num_kernels", self.num_kernels == 0, "for kind semantic: 0, as each class has its kernel"
        else:
            yield "num_kernels", self.num_kernels >= 1, "1 and above"
            yield "num_training_kernels", self.num_training_kernels >= 1, "1 and above"
        if self.first_kernels == "seeded":
            yield "first_kernels", self.kind == "panoptic", "for kind instance and semantic: learned"
            cells = (min(self.canvas_sizes, default=0) // self.feature_stride) ** 2
            legal = f"for seeded kernels: up to {cells}, the cells of the smallest canvas"
            yield "num_kernels", self.num_kernels <= cells or not cells, legal
            yield "seed_radius", self.seed_radius > 0, "above 0"
        else:
            fits = self.num_training_kernels == self.num_kernels
            yield "num_training_kernels", fits, f"for learned kernels: {self.num_kernels}"

    def _geometry_rules(self) -> Iterator[tuple[str, bool, str]]:
        if self.kind == "instance":
            fits = self.output_stride == self.feature_stride
            yield "output_stride", fits, f"for kind instance: the feature stride {self.feature_stride}"
            yield "geometry", self.geometry != "tile", "for kind instance: fit, shortest_edge"
            yield "padding_in_masks", self.padding_in_masks, "for kind instance, enlarged by the host: True"
        stride = self.feature_stride if self.kind == "instance" else self.mask_stride
        fits = self.output_stride in (1, 2, 4, 8) and stride % self.output_stride == 0
        yield "output_stride", fits, f"those of 1, 2, 4, 8 that divide {stride}"
        sizes, multiple = self.canvas_sizes, self.size_multiple
        if self.geometry == "shortest_edge":
            fits = len(sizes) == 2 and 0 < sizes[0] <= sizes[1]
            yield "canvas_sizes", fits, "with geometry shortest_edge: shortest, longest side"
        else:
            fits = bool(sizes) and all(size > 0 and size % multiple == 0 for size in sizes)
            yield "canvas_sizes", fits, f"multiples of {multiple}"
            yield "canvas_sizes", self.geometry == "tile" or len(sizes) == 2, "with geometry fit: height, width"
            fits = self.geometry != "tile" or sizes == tuple(sorted(set(sizes)))
            yield "canvas_sizes", fits, "with geometry tile: each above the one before"
        fits = 0 <= self.tile_overlap < min(sizes) and self.tile_overlap <= max(sizes) // 2
        yield "tile_overlap", fits, f"0 up to {min(min(sizes) - 1, max(sizes) // 2)}, for these canvas_sizes"

    @property
    def num_classes(self) -> int:
        """K, things and stuff."""
        return len(self.categories)

    @property
    def num_things(self) -> int:
        """Classes whose objects are segments of their own; they have the first class indices. Semantic: none."""
        return 0 if self.kind == "semantic" else sum(category.is_thing for category in self.categories)

    @property
    def num_stuff(self) -> int:
        """Stuff classes, each with one semantic kernel."""
        return self.num_classes - self.num_things

    @property
    def num_slots(self) -> int:
        """N, kernels of an image: those of things, then one a stuff class."""
        return self.num_kernels + self.num_stuff

    @property
    def mask_stride(self) -> int:
        """Input pixels per pixel of the masks that losses and merge see."""
        return self.feature_stride // self.mask_upsample

    @property
    def size_multiple(self) -> int:
        """Image height and width must be multiples of this: the stride of the coarsest level."""
        return int(2 ** (max(self.backbone.levels) + 1))

    def to_json(self) -> str:
        """Readable JSON; `from_json` gives the same config."""
        return json.dumps(asdict(self), indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Build from `to_json`'s text.

        Raises:
            ValueError: not JSON, an unknown or missing field, or a value that is not legal.
        """
        values = _checked(json.loads(text), cls, "a K-Net config")
        backbone = _checked(values["backbone"], BackboneConfig, "its backbone")
        for name in ("levels", "deformable_levels"):
            backbone[name] = tuple(backbone[name])
        return cls(
            **values
            | {
                "categories": tuple(_category(entry) for entry in values["categories"]),
                "backbone": BackboneConfig(**backbone),
                "canvas_sizes": tuple(values["canvas_sizes"]),
            }
        )


def _checked(values: Any, owner: type, what: str) -> dict[str, Any]:
    """The values, if they are one for each field of a dataclass."""
    if not isinstance(values, dict):
        raise ValueError(f"{what} must be an object, not {values!r}")
    names = {field.name for field in fields(owner)}
    if unknown := sorted(set(values) - names):
        raise ValueError(f"unknown fields in {what}: {', '.join(unknown)}")
    if missing := sorted(names - set(values)):
        raise ValueError(f"missing fields in {what}: {', '.join(missing)}")
    return values


def _category(entry: dict[str, Any]) -> Category:
    return Category(**entry | {"colour": tuple(entry["colour"])})


def knet_r50(categories: tuple[Category, ...]) -> KNetConfig:
    """The paper's panoptic K-Net: ResNet-50, 100 learned kernels, three stages (section 4.1)."""
    return KNetConfig(categories=categories)


def knet_nuclei(categories: tuple[Category, ...]) -> KNetConfig:
    """Many small objects in images of any size: seeded kernels at stride 2 on a small backbone."""
    return KNetConfig(
        categories=categories,
        backbone=BackboneConfig(name="tf_efficientnet_lite2", levels=(0, 1, 2, 3, 4)),
        normalisation="image",
        fpn_channels=64,
        channels=128,
        feature_stride=2,
        mask_upsample=1,
        norm="batch",
        sine_encoding=False,
        first_kernels="seeded",
        num_kernels=300,
        num_training_kernels=100,
        num_stages=1,
        num_heads=4,
        ffn_channels=256,
        merge_at="cells",
        fixed_stuff_score=1.0,
        geometry="tile",
        canvas_sizes=(256, 320, 384, 448, 512),
        tile_overlap=96,
        output_stride=1,
        score_threshold=0.45,
        overlap_threshold=0.5,
        min_area=20,
    )
