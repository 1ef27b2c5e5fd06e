"""The configuration of a K-Net: everything needed to rebuild the network. Variants are functions."""

import json
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
        for name, values in (
            ("normalisation", Normalisation),
            ("norm", Norm),
            ("first_kernels", FirstKernels),
            ("competitors", Competitors),
            ("geometry", Geometry),
        ):
            if getattr(self, name) not in get_args(values):
                raise ValueError(f"{name} is {getattr(self, name)!r}; legal: {', '.join(get_args(values))}")
        for name in ("fpn_channels", "channels", "num_kernels", "num_stages", "num_heads", "ffn_channels"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; legal: 1 and above")
        if self.feature_stride not in (2, 4, 8):
            raise ValueError(f"feature_stride is {self.feature_stride}; legal: 2, 4, 8")
        if self.mask_upsample not in (1, 2, 4) or self.mask_upsample > self.feature_stride:
            raise ValueError(f"mask_upsample is {self.mask_upsample}; legal: 1, 2, 4, at most feature_stride")
        if self.output_stride < 1 or self.mask_stride % self.output_stride:
            raise ValueError(f"output_stride is {self.output_stride}; legal: divisors of {self.mask_stride}")
        if any(size % self.size_multiple for size in self.canvas_sizes) or not self.canvas_sizes:
            raise ValueError(f"canvas_sizes is {self.canvas_sizes}; legal: multiples of {self.size_multiple}")
        cells = (min(self.canvas_sizes) // self.feature_stride) ** 2
        if self.first_kernels == "seeded" and self.num_kernels > cells:
            raise ValueError(
                f"num_kernels is {self.num_kernels}; legal for seeded kernels: up to {cells}, "
                "the cells of the smallest canvas"
            )
        if self.channels % self.num_heads:
            raise ValueError(f"channels is {self.channels}; legal: a multiple of num_heads ({self.num_heads})")
        if self.norm == "group" and self.channels % 32:
            raise ValueError(f"channels is {self.channels}; legal with group norm: a multiple of 32")
        if self.sine_encoding and self.fpn_channels % 4:
            raise ValueError(f"fpn_channels is {self.fpn_channels}; legal with the encoding: a multiple of 4")
        if self.first_kernels == "learned" and self.num_training_kernels != self.num_kernels:
            raise ValueError(
                f"num_training_kernels is {self.num_training_kernels}; legal for learned kernels: {self.num_kernels}"
            )
        for name in ("score_threshold", "overlap_threshold"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is {getattr(self, name)}; legal: 0..1")
        things = [category.is_thing for category in self.categories]
        if not things or things != sorted(things, reverse=True):
            raise ValueError("categories must not be empty and must list things before stuff")

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
        canvas_sizes=(256, 320, 384, 448, 512, 576, 640, 704),
        tile_overlap=96,
        output_stride=2,
        overlap_threshold=0.5,
    )
