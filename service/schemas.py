"""Query parameters, and the shapes of the answers as the API's documentation shows them."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from service.artifact import Category, Geometry, Merge, Thresholds, Variant

Task = Literal["panoptic", "instance", "semantic"]
Format = Literal["rle", "polygon", "png", "overlay", "huggingface"]
Threshold = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]


class SegmentQuery(BaseModel):
    """Query parameters of the segment route."""

    model_config = ConfigDict(extra="forbid")

    task: Task | None = Field(
        default=None,
        description="default: the model's kind; a panoptic model answers all, the others answer their kind alone",
    )
    format: Format | None = Field(
        default=None,
        description="`rle`: COCO RLE of each segment (default); `polygon`: a GeoJSON MultiPolygon of each, along the "
        "edges of pixels, with its holes; `png`: a base64 COCO panoptic PNG beside the segments; `overlay`: RLE, and "
        "a base64 PNG of the masks drawn over the image; `huggingface`: the list that Hugging Face's "
        "image-segmentation task answers. With `Accept: image/png` the PNG alone (`png` unless `overlay` is named), "
        "for one image. The masks of an instance model may overlap and have no `png`.",
    )
    score_threshold: Threshold | None = Field(
        default=None, description="least score of a thing; default: the model's; not for semantic models"
    )
    overlap_threshold: Threshold | None = Field(
        default=None,
        description="least share of a mask that must remain after the merge; default: the model's; for panoptic models",
    )
    views: Annotated[int, Field(ge=1)] = Field(
        default=1,
        description="1 to 3: how often the image is segmented, larger and turned from the second time on; things that "
        "most views show are answered. 3 takes about five times as long as 1; for panoptic models "
        "and images of up to 16.7 million pixels",
    )
    timeout_ms: Annotated[int, Field(gt=0, le=86_400_000)] | None = Field(
        default=None,
        description="milliseconds after which the answer is of no use: 504; the server's own limit may be shorter",
    )
    categories: list[str] = Field(
        default=[], description="only these: ids or names, repeated or separated by commas; default: all"
    )


class Rle(BaseModel):
    """COCO run-length encoding; pycocotools reads it as it is."""

    size: tuple[int, int] = Field(description="height, width")
    counts: str


class MultiPolygon(BaseModel):
    """GeoJSON geometry: polygons of rings of (x, y); the first ring of each is its outline, the others are holes.

    Pixel (x, y) is the square from (x, y) to (x + 1, y + 1), and rings follow the edges of pixels.
    """

    type: Literal["MultiPolygon"]
    coordinates: list[list[list[tuple[int, int]]]]


class SegmentAnswer(BaseModel):
    """One region; those of an instance model may overlap."""

    id: int = Field(description="1, 2, ... by descending score, or by class without scores; its value in the PNG")
    category_id: int
    category: str
    is_thing: bool
    score: float | None = Field(description="null in the semantic task, unless the model has a confidence")
    area: int = Field(description="pixels")
    bbox: tuple[int, int, int, int] = Field(description="x, y, width, height")
    segmentation: Rle | MultiPolygon | None = Field(default=None, description="by the format; absent with `format=png`")


class ImageSize(BaseModel):
    """Size of the posted image after its EXIF orientation; that of all masks."""

    width: int
    height: int


class Timing(BaseModel):
    """Milliseconds; `queue` is waiting for a place and for the engine, `total` holds everything."""

    decode: float
    queue: float
    engine: float
    encode: float
    total: float


class Answer(BaseModel):
    """The segments of one image."""

    model: str
    version: str
    task: Task
    image: ImageSize
    segments: list[SegmentAnswer]
    warnings: list[str]
    timing_ms: Timing
    png: str | None = Field(default=None, description="with `format=png`: base64 COCO panoptic PNG")
    overlay: str | None = Field(default=None, description="with `format=overlay`: base64 PNG")


class HuggingFaceSegment(BaseModel):
    """One segment as Hugging Face's image-segmentation task answers it, with `format=huggingface`."""

    label: str = Field(description="name of the category")
    score: float | None = Field(description="null in the semantic task")
    mask: str = Field(description="base64 gray PNG of the image's size: 255 inside, 0 outside")


class Problem(BaseModel):
    """An error (RFC 9457)."""

    type: str = Field(description="stable name of the kind of error")
    title: str
    status: int
    detail: str = Field(description="what happened and what to do")
    instance: str
    request_id: str


class Answers(BaseModel):
    """Several images: an answer or a problem for each, in their order."""

    results: list[Answer | list[HuggingFaceSegment] | Problem]


class ModelSummary(BaseModel):
    """A model and its versions, oldest first."""

    name: str
    versions: list[str]
    kind: Task
    tasks: list[Task]
    ready: bool = Field(description="whether its newest version answers now")


class ModelList(BaseModel):
    """All models of this server."""

    models: list[ModelSummary]


class ModelVersion(BaseModel):
    """One version of a model."""

    version: str
    ready: bool
    state: str
    kind: Task
    tasks: list[Task]
    categories: tuple[Category, ...]
    geometry: Geometry
    thresholds: Thresholds
    output_stride: int
    merge: Merge = Field(
        description="`official`: all kernels compete for a pixel, and those rejected leave void; `confident`: only "
        "kernels above the score threshold compete"
    )
    mask_quality: bool = Field(description="whether scores are multiplied by the mean probability inside the mask")
    most_things_per_tile: int | None = Field(description="null unless the model is panoptic")
    variants: tuple[Variant, ...]
    running: str = Field(description="the variant that this server runs: `openvino-bf16`")


class ModelDetail(BaseModel):
    """A model, its newest version last; requests without a version go to that one."""

    name: str
    versions: list[ModelVersion]


class Reloaded(BaseModel):
    """What a reload of the repository changed, and what failed and was left as it was; by `name/version`."""

    changed: list[str]
    problems: dict[str, Problem]


class Health(BaseModel):
    """State of the server."""

    status: str
