"""Tiny artifacts of each kind whose answers can be read off the image: the red values tell.

Panoptic: a pixel's red value is its segment's id. Instance: its bits are the masks that hold the pixel. Semantic: it
is the pixel's class index.
"""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from service import artifact
from service.artifact import ArtifactMetadata, Category, Geometry, Thresholds, Variant

# Slots 1..11 are things (classes 0 and 1 in turn), slot 12 is stuff.
NUM_SLOTS = 12
SCORES = np.array([0.40 + 0.05 * slot for slot in range(1, NUM_SLOTS)] + [0.10], np.float32)
CLASSES = np.array([slot % 2 for slot in range(1, NUM_SLOTS)] + [2], np.int32)
REMAINS = np.array([0.3] + [0.9] * (NUM_SLOTS - 1), np.float32)  # slot 1 loses most of its mask to others
CATEGORIES = (
    Category(id=7, name="cell", is_thing=True, colour=(255, 0, 0)),
    Category(id=3, name="nucleus", is_thing=True, colour=(0, 255, 0)),
    Category(id=9, name="background", is_thing=False, colour=(0, 0, 255)),
)
FAILING_RED = 255  # the panoptic graph fails on an image that has this red value

# Entries of the instance graph; mask m is bit m of red. Mask 0 comes under two classes.
NUM_MASKS = 4
ENTRY_SCORES = np.array([0.9, 0.8, 0.7, 0.6, 0.3], np.float32)
ENTRY_CLASSES = np.array([1, 0, 0, 1, 1], np.int32)
ENTRY_MASKS = np.array([0, 1, 0, 2, 3], np.int32)
INSIDE, OUTSIDE = 3.0, -5.0  # logits; unequal, so that no probability between two pixels is 0.5 to the last bit

# The semantic classes have an order of their own: stuff, thing, stuff.
SEMANTIC_CATEGORIES = (CATEGORIES[2], CATEGORIES[0], Category(id=4, name="glass", is_thing=False, colour=(9, 9, 9)))

KIND_CATEGORIES = {"panoptic": CATEGORIES, "instance": CATEGORIES[:2], "semantic": SEMANTIC_CATEGORIES}
KIND_SLOTS = {"panoptic": NUM_SLOTS, "instance": NUM_MASKS, "semantic": len(SEMANTIC_CATEGORIES)}
TILES = Geometry(mode="tile", sizes=(32, 64), overlap=16)
SHORTEST_EDGE = Geometry(mode="shortest_edge", shortest=64, longest=96, multiple=32)


def write_artifact(
    repository: Path,
    *,
    kind: str = "panoptic",
    name: str = "tiny",
    version: str = "1",
    geometry: Geometry | None = None,
    stride: int = 1,
    mask_upsample: int = 1,
    statistics: bool = False,
    confidence: bool = False,
    work: int = 0,
) -> ArtifactMetadata:
    """Write `repository`/`name`/`version`.

    `statistics` and `work` are of the panoptic graph: every score is `pixel_mean` / 255; each run makes that many
    matrix products of about 0.03 s besides. `confidence` is of the semantic one: (green + 1) / 256 of each cell.
    """
    folder = repository / name / version
    folder.mkdir(parents=True)
    path = folder / "model.onnx"
    if kind == "panoptic":
        graph = panoptic_graph(stride, statistics=statistics, work=work)
    else:
        graph = instance_graph(stride) if kind == "instance" else semantic_graph(stride, confidence=confidence)
    onnx.save(graph, path)
    metadata = ArtifactMetadata(
        name=name,
        version=version,
        kind=kind,
        categories=KIND_CATEGORIES[kind],
        geometry=geometry or (SHORTEST_EDGE if kind == "instance" else TILES),
        output_stride=stride,
        mask_upsample=mask_upsample,
        confidence=confidence,
        num_slots=KIND_SLOTS[kind],
        uses_image_statistics=statistics,
        thresholds=Thresholds(score=0.5, overlap=0.5),
        variants=(Variant(runtime="onnxruntime", precision="fp32", file=path.name, sha256=artifact.file_sha256(path)),),
    )
    artifact.save(metadata, folder)
    return metadata


class Builder:
    """Nodes and constants of a graph, in the order in which they are asked for."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def const(self, value: Any) -> str:
        self.constants.append(numpy_helper.from_array(np.asarray(value), f"c{len(self.constants)}"))
        return self.constants[-1].name

    def ints(self, *values: int) -> str:
        return self.const(np.array(values, np.int64))

    def op(self, kind: str, *inputs: str, out: str | None = None, **attributes: Any) -> str:
        result = out or f"n{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [result], **attributes))
        return result

    def batch(self) -> str:
        """Shape (1): the number of canvases."""
        return self.op("Shape", "valid_size", start=0, end=1)

    def red(self, stride: int, channel: int = 0) -> str:
        """Red, or another channel, of the first pixel of each cell (B, h, w), int64."""
        first, end, axes, steps = (0, 0, channel), (2**31, 2**31, channel + 1), (1, 2, 3), (stride, stride, 1)
        strided = self.op("Slice", "image", *(self.ints(*values) for values in (first, end, axes, steps)))
        return self.op("Cast", self.op("Squeeze", strided, self.ints(3)), to=TensorProto.INT64)

    def inside(self, cells: str, stride: int) -> str:
        """Which cells (B, h, w) begin within the valid size."""
        results = []
        for axis, shape in ((1, (1, -1, 1)), (2, (1, 1, -1))):
            length = self.op("Squeeze", self.op("Shape", cells, start=axis, end=axis + 1))
            index = self.op("Range", self.const(np.int64(0)), length, self.const(np.int64(1)))
            start = self.op("Reshape", self.op("Mul", index, self.const(np.int64(stride))), self.ints(*shape))
            limit = self.op("Gather", "valid_size", self.const(np.int64(axis - 1)), axis=1)
            limit = self.op("Reshape", self.op("Cast", limit, to=TensorProto.INT64), self.ints(-1, 1, 1))
            results.append(self.op("Less", start, limit))
        return self.op("And", *results)

    def repeat(self, row: np.ndarray, out: str) -> str:
        """The same row (K) for each canvas: (B, K)."""
        shape = self.op("Concat", self.batch(), self.ints(len(row)), axis=0)
        return self.op("Expand", self.const(row[None]), shape, out=out)

    def build(self, scalars: list[str], outputs: dict[str, tuple[int, list[Any]]]) -> onnx.ModelProto:
        """The model; `scalars` are inputs (B), `outputs` have type and shape by name."""
        inputs = [
            helper.make_tensor_value_info("image", TensorProto.UINT8, ["B", "H", "W", 3]),
            helper.make_tensor_value_info("valid_size", TensorProto.INT32, ["B", 2]),
            *(helper.make_tensor_value_info(name, TensorProto.FLOAT, ["B"]) for name in scalars),
        ]
        values = [helper.make_tensor_value_info(name, kind, shape) for name, (kind, shape) in outputs.items()]
        graph = helper.make_graph(self.nodes, "tiny", inputs, values, initializer=self.constants)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def panoptic_graph(stride: int, *, statistics: bool, work: int) -> onnx.ModelProto:
    """Kept ids at their pixels, void elsewhere."""
    b = Builder()
    red = b.red(stride)
    known = b.op("Or", b.op("LessOrEqual", red, b.ints(NUM_SLOTS)), b.op("Equal", red, b.ints(FAILING_RED)))
    red = b.op("Where", known, red, b.ints(0))
    score = b.const(SCORES[None])
    if statistics:
        mean = b.op("Div", b.op("Unsqueeze", "pixel_mean", b.ints(1)), b.const(np.float32(255)))
        score = b.op("Add", mean, b.op("Mul", score, b.const(np.float32(0))))
    segment_id = keep_slots(b, score)

    batch = b.batch()
    void = b.op("Expand", b.const(np.zeros((1, 1), np.int32)), b.op("Concat", batch, b.ints(1), axis=0))
    table = b.op("Concat", void, segment_id, axis=1)
    flat = b.op("Reshape", red, b.op("Concat", batch, b.ints(-1), axis=0))
    ids = b.op("Reshape", b.op("GatherElements", table, flat, axis=1), b.op("Shape", red))
    ids = b.op("Mul", ids, b.op("Cast", b.inside(red, stride), to=TensorProto.INT32))
    if work:
        ids = b.op("Add", ids, busy_zero(b, work))
    b.op("Identity", ids, out="id_map")

    slots = b.const(np.arange(1, NUM_SLOTS + 1, dtype=np.int32)[None, :, None])
    pixels = b.op("Reshape", ids, b.op("Concat", batch, b.ints(1, -1), axis=0))
    b.op(
        "ReduceSum", b.op("Cast", b.op("Equal", pixels, slots), to=TensorProto.INT32), b.ints(2), keepdims=0, out="area"
    )
    b.repeat(CLASSES, "class_index")
    b.op("Expand", score, b.op("Concat", batch, b.ints(NUM_SLOTS), axis=0), out="score")
    numbers = {"segment_id": TensorProto.INT32, "class_index": TensorProto.INT32, "score": TensorProto.FLOAT,
               "area": TensorProto.INT32}  # fmt: skip
    outputs = {name: (kind, ["B", NUM_SLOTS]) for name, kind in numbers.items()}
    scalars = ["score_threshold", "overlap_threshold"] + (["pixel_mean", "pixel_std"] if statistics else [])
    return b.build(scalars, {"id_map": (TensorProto.INT32, ["B", "h", "w"]), **outputs})


def keep_slots(b: Builder, score: str) -> str:
    """`segment_id` (B, N): the slots that pass both thresholds have their number, the others 0."""
    passes = b.op("GreaterOrEqual", score, b.op("Unsqueeze", "score_threshold", b.ints(1)))
    passes = b.op("Or", passes, b.const((CLASSES == 2)[None]))
    remains = b.op("GreaterOrEqual", b.const(REMAINS[None]), b.op("Unsqueeze", "overlap_threshold", b.ints(1)))
    keep = b.op("Cast", b.op("And", passes, remains), to=TensorProto.INT32)
    return b.op("Mul", keep, b.const(np.arange(1, NUM_SLOTS + 1, dtype=np.int32)[None]), out="segment_id")


def busy_zero(b: Builder, work: int) -> str:
    """An int32 0 that takes its time."""
    seed = b.op(
        "Mul", b.op("ReduceSum", "score_threshold", keepdims=0), b.const(np.full((1024, 1024), 1e-9, np.float32))
    )
    for _ in range(work):
        seed = b.op("MatMul", seed, seed)
    zero = b.op("Mul", b.op("ReduceMax", seed, keepdims=0), b.const(np.float32(0)))
    return b.op("Cast", zero, to=TensorProto.INT32)


def instance_graph(stride: int) -> onnx.ModelProto:
    """A mask for each bit of red, and the entries."""
    b = Builder()
    red = b.red(stride)
    powers = b.const(2 ** np.arange(NUM_MASKS, dtype=np.int64)[None, :, None, None])
    bits = b.op("Mod", b.op("Div", b.op("Unsqueeze", red, b.ints(1)), powers), b.ints(2))
    is_set = b.op("Equal", bits, b.ints(1))
    b.op("Where", is_set, b.const(np.float32(INSIDE)), b.const(np.float32(OUTSIDE)), out="mask_logits")
    b.repeat(ENTRY_SCORES, "score")
    b.repeat(ENTRY_CLASSES, "class_index")
    b.repeat(ENTRY_MASKS, "mask_index")
    entries = ["B", len(ENTRY_SCORES)]
    outputs = {
        "score": (TensorProto.FLOAT, entries),
        "class_index": (TensorProto.INT32, entries),
        "mask_index": (TensorProto.INT32, entries),
        "mask_logits": (TensorProto.FLOAT, ["B", NUM_MASKS, "h", "w"]),
    }
    return b.build([], outputs)


def semantic_graph(stride: int, *, confidence: bool = False) -> onnx.ModelProto:
    """Red as the class, the first class outside of the content; green, if wanted, as the confidence."""
    b = Builder()
    red = b.red(stride)
    classes = b.op("Where", b.inside(red, stride), red, b.ints(0))
    b.op("Cast", classes, to=TensorProto.INT32, out="class_map")
    outputs = {"class_map": (TensorProto.INT32, ["B", "h", "w"])}
    if confidence:
        green = b.op("Cast", b.red(stride, channel=1), to=TensorProto.FLOAT)
        steps = b.op("Add", green, b.const(np.float32(1)))
        b.op("Div", steps, b.const(np.float32(256)), out="confidence")
        outputs["confidence"] = (TensorProto.FLOAT, ["B", "h", "w"])
    return b.build([], outputs)
