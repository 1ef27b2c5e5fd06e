"""The configuration of a K-Net: everything needed to rebuild the network. Variants are functions."""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, Self, get_args

Norm = Literal["group", "batch"]
FirstKernels = Literal["learned", "seeded"]
Normalisation = Literal["imagenet", "image"]
Competitors = Literal["all", "confident"]
Geometry = Literal["fit", "tile"]


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
class KNetConfig:
    """A panoptic K-Net. The defaults are the paper's (ResNet-50, section 4)."""

    categories: tuple[Category, ...]  # things first, then stuff
    backbone: str = "resnet50"  # a timm model that can give feature maps
    backbone_levels: tuple[int, ...] = (
        1,
        2,
        3,
        4,
    )  # timm out_indices, finest first, each half the one before
    normalisation: Normalisation = "imagenet"  # "image": by the image's own mean and deviation, then asinh
    fpn_channels: int = 256
    channels: int = 256  # C: of a kernel and of the feature map it filters
    feature_stride: int = 8  # input pixels per feature pixel
    mask_upsample: int = 2  # masks are enlarged by this before losses and merge
    norm: Norm = "group"  # of the convolutions after the FPN; "batch" is trained with the network
    sine_encoding: bool = True  # added to the coarsest FPN level; ties kernels to places of the whole image
    first_kernels: FirstKernels = "learned"  # "seeded": taken from the image, our extension
    num_kernels: int = 100  # thing kernels of an image
    num_training_kernels: int = 100  # the same on training crops; differs only for seeded kernels
    num_stages: int = 3  # S
    num_heads: int = 8
    ffn_channels: int = 2048
    fixed_stuff_score: float | None = None  # score of every stuff kernel in the merge; None: the predicted one
    competitors: Competitors = "all"  # for a pixel: every kernel (official) or "confident" ones, above threshold
    geometry: Geometry = "fit"  # of served images: fitted to one canvas, or cut into tiles at their own scale
    canvas_sizes: tuple[int, ...] = (800, 1344)  # "fit": height, width; "tile": side lengths a canvas may have
    tile_overlap: int = 0  # pixels that neighbouring tiles share at least
    output_stride: int = 4  # image pixels per pixel of the id-map
    score_threshold: float = 0.3  # defaults of the merge
    overlap_threshold: float = 0.6

    def __post_init__(self) -> None:
        for name, is_legal, legal in self._rules():
            if not is_legal:
                raise ValueError(f"{name} is {getattr(self, name)!r}; legal: {legal}")
        things = [category.is_thing for category in self.categories]
        if not any(things) or things != sorted(things, reverse=True):
            raise ValueError("categories must hold at least one thing and list things before stuff")
        if len({category.id for category in self.categories}) < len(things):
            raise ValueError(f"ids of categories must differ: {[category.id for category in self.categories]}")

    def _rules(self) -> Iterator[tuple[str, bool, str]]:
        """Field, whether its value is legal, and what is. A rule may rely on those before it."""
        for name, values in (
            ("normalisation", Normalisation),
            ("norm", Norm),
            ("first_kernels", FirstKernels),
            ("competitors", Competitors),
            ("geometry", Geometry),
        ):
            yield name, getattr(self, name) in get_args(values), ", ".join(get_args(values))
        for name in ("fpn_channels", "channels", "num_kernels", "num_training_kernels", "num_stages", "num_heads"):
            yield name, getattr(self, name) >= 1, "1 and above"
        yield "ffn_channels", self.ffn_channels >= 1, "1 and above"
        levels = self.backbone_levels
        consecutive = bool(levels) and levels[0] >= 0 and levels == tuple(range(levels[0], levels[0] + len(levels)))
        yield "backbone_levels", consecutive, "numbers from 0 up, each one more than the one before"

        yield "feature_stride", self.feature_stride in (2, 4, 8), "2, 4, 8"
        fits = self.mask_upsample in (1, 2, 4) and self.mask_upsample <= self.feature_stride
        yield "mask_upsample", fits, "1, 2, 4, at most feature_stride"
        fits = self.output_stride >= 1 and self.mask_stride % self.output_stride == 0
        yield "output_stride", fits, f"divisors of {self.mask_stride}"
        sizes, multiple = self.canvas_sizes, self.size_multiple
        fits = bool(sizes) and all(size > 0 and size % multiple == 0 for size in sizes)
        yield "canvas_sizes", fits, f"multiples of {multiple}"
        yield "canvas_sizes", self.geometry == "tile" or len(sizes) == 2, "with geometry fit: height, width"
        fits = 0 <= self.tile_overlap < min(sizes)
        yield "tile_overlap", fits, f"0 up to, not including, the smallest canvas ({min(sizes)})"

        yield "channels", self.channels % self.num_heads == 0, f"a multiple of num_heads ({self.num_heads})"
        yield "channels", self.norm == "batch" or self.channels % 32 == 0, "with group norm: a multiple of 32"
        fits = not self.sine_encoding or self.fpn_channels % 4 == 0
        yield "fpn_channels", fits, "with the encoding: a multiple of 4"
        if self.first_kernels == "seeded":
            cells = (min(sizes) // self.feature_stride) ** 2
            legal = f"for seeded kernels: up to {cells}, the cells of the smallest canvas"
            yield "num_kernels", self.num_kernels <= cells, legal
        else:
            fits = self.num_training_kernels == self.num_kernels
            yield "num_training_kernels", fits, f"for learned kernels: {self.num_kernels}"
        for name in ("score_threshold", "overlap_threshold"):
            yield name, 0 <= getattr(self, name) <= 1, "0..1"
        score = self.fixed_stuff_score
        yield "fixed_stuff_score", score is None or 0 <= score <= 1, "0..1, or None"

    @property
    def num_classes(self) -> int:
        """K, things and stuff."""
        return len(self.categories)

    @property
    def num_things(self) -> int:
        """Thing classes; they have the first class indices."""
        return sum(category.is_thing for category in self.categories)

    @property
    def num_stuff(self) -> int:
        """Stuff classes, each with one semantic kernel."""
        return self.num_classes - self.num_things

    @property
    def mask_stride(self) -> int:
        """Input pixels per pixel of the masks that losses and merge see."""
        return self.feature_stride // self.mask_upsample

    @property
    def size_multiple(self) -> int:
        """Image height and width must be multiples of this: the stride of the coarsest level."""
        return int(2 ** (max(self.backbone_levels) + 1))

    def to_json(self) -> str:
        """Readable JSON; `from_json` gives the same config."""
        return json.dumps(asdict(self), indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Build from `to_json`'s text.

        Raises:
            ValueError: not JSON, an unknown or missing field, or a value that is not legal.
        """
        values = json.loads(text)
        names = {field.name for field in fields(cls)}
        if unknown := sorted(set(values) - names):
            raise ValueError(f"unknown fields in a K-Net config: {', '.join(unknown)}")
        if missing := sorted(names - set(values)):
            raise ValueError(f"missing fields in a K-Net config: {', '.join(missing)}")
        return cls(
            **values
            | {
                "categories": tuple(_category(entry) for entry in values["categories"]),
                "backbone_levels": tuple(values["backbone_levels"]),
                "canvas_sizes": tuple(values["canvas_sizes"]),
            }
        )


def _category(entry: dict[str, Any]) -> Category:
    return Category(**entry | {"colour": tuple(entry["colour"])})


def knet_r50(categories: tuple[Category, ...]) -> KNetConfig:
    """The paper's panoptic K-Net: ResNet-50, 100 learned kernels, three stages (section 4.1)."""
    return KNetConfig(categories=categories)


def knet_nuclei(categories: tuple[Category, ...]) -> KNetConfig:
    """Many small objects in images of any size: seeded kernels at stride 2 on a small backbone."""
    return KNetConfig(
        categories=categories,
        backbone="tf_efficientnet_lite0",
        backbone_levels=(0, 1, 2, 3, 4),
        normalisation="image",
        fpn_channels=64,
        channels=128,
        feature_stride=2,
        mask_upsample=1,
        norm="batch",
        sine_encoding=False,
        first_kernels="seeded",
        num_kernels=400,
        num_training_kernels=100,
        num_stages=2,
        num_heads=4,
        ffn_channels=256,
        fixed_stuff_score=1.0,
        geometry="tile",
        canvas_sizes=(256, 320, 384, 448, 512),
        tile_overlap=96,
        output_stride=1,
        score_threshold=0.45,
        overlap_threshold=0.5,
    )
