"""A tiny artifact whose answer can be read off the image: a pixel's red value is its segment's id."""

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
FAILING_RED = 255  # the graph fails on an image that has this red value
TILES = Geometry(mode="tile", sizes=(32, 64), overlap=16)


def write_artifact(
    repository: Path,
    *,
    name: str = "tiny",
    version: str = "1",
    geometry: Geometry = TILES,
    stride: int = 1,
    statistics: bool = False,
    work: int = 0,
) -> ArtifactMetadata:
    """Write `repository`/`name`/`version`; `work`: matrix products of about 0.03 s that each run makes besides."""
    folder = repository / name / version
    folder.mkdir(parents=True)
    path = folder / "model.onnx"
    onnx.save(make_graph(stride, statistics=statistics, work=work), path)
    metadata = ArtifactMetadata(
        name=name,
        version=version,
        kind="panoptic",
        categories=CATEGORIES,
        geometry=geometry,
        output_stride=stride,
        num_slots=NUM_SLOTS,
        uses_image_statistics=statistics,
        thresholds=Thresholds(score=0.5, overlap=0.5),
        variants=(Variant(runtime="onnxruntime", precision="fp32", file=path.name, sha256=artifact.file_sha256(path)),),
    )
    artifact.save(metadata, folder)
    return metadata


def make_graph(stride: int, *, statistics: bool, work: int) -> onnx.ModelProto:
    """The graph; with `statistics` every score is `pixel_mean` / 255."""
    nodes: list[onnx.NodeProto] = []
    constants: list[onnx.TensorProto] = []

    def const(value: Any) -> str:
        constants.append(numpy_helper.from_array(np.asarray(value), f"c{len(constants)}"))
        return constants[-1].name

    def op(kind: str, *inputs: str, out: str | None = None, **attributes: Any) -> str:
        result = out or f"n{len(nodes)}"
        nodes.append(helper.make_node(kind, list(inputs), [result], **attributes))
        return result

    ints = np.int64
    strided = op("Slice", "image", const(np.array([0, 0, 0], ints)), const(np.array([2**31, 2**31, 1], ints)),
                 const(np.array([1, 2, 3], ints)), const(np.array([stride, stride, 1], ints)))  # fmt: skip
    red = op("Cast", op("Squeeze", strided, const(np.array([3], ints))), to=TensorProto.INT64)
    known = op("Or", op("LessOrEqual", red, const(ints(NUM_SLOTS))), op("Equal", red, const(ints(FAILING_RED))))
    red = op("Where", known, red, const(ints(0)))

    # Which slots are kept: (B, N).
    score = const(SCORES[None])
    if statistics:
        mean = op("Div", op("Unsqueeze", "pixel_mean", const(np.array([1], ints))), const(np.float32(255)))
        score = op("Add", mean, op("Mul", score, const(np.float32(0))))
    column = const(np.array([1], ints))
    passes = op("GreaterOrEqual", score, op("Unsqueeze", "score_threshold", column))
    passes = op("Or", passes, const((CLASSES == 2)[None]))
    remains = op("GreaterOrEqual", const(REMAINS[None]), op("Unsqueeze", "overlap_threshold", column))
    keep = op("Cast", op("And", passes, remains), to=TensorProto.INT32)
    segment_id = op("Mul", keep, const(np.arange(1, NUM_SLOTS + 1, dtype=np.int32)[None]), out="segment_id")

    # Pixels to kept ids: (B, h * w), then void outside of the valid size.
    batch = op("Shape", "valid_size", start=0, end=1)
    void = op("Expand", const(np.zeros((1, 1), np.int32)), op("Concat", batch, column, axis=0))
    table = op("Concat", void, segment_id, axis=1)
    shape = op("Shape", red)
    flat = op("Reshape", red, op("Concat", batch, const(np.array([-1], ints)), axis=0))
    ids = op("Reshape", op("GatherElements", table, flat, axis=1), shape)
    for axis, extent in ((1, [0, -1, 1]), (2, [0, 1, -1])):
        length = op("Squeeze", op("Shape", red, start=axis, end=axis + 1))
        start = op("Mul", op("Range", const(ints(0)), length, const(ints(1))), const(ints(stride)))
        start = op("Reshape", start, const(np.array([1 if e >= 0 else -1 for e in extent], ints)))
        limit = op("Cast", op("Gather", "valid_size", const(ints(axis - 1)), axis=1), to=TensorProto.INT64)
        inside = op("Less", start, op("Reshape", limit, const(np.array([-1, 1, 1], ints))))
        ids = op("Mul", ids, op("Cast", inside, to=TensorProto.INT32))
    if work:
        seed = op("Mul", op("ReduceSum", "score_threshold", keepdims=0), const(np.full((1024, 1024), 1e-9, np.float32)))
        for _ in range(work):
            seed = op("MatMul", seed, seed)
        extra = op("Cast", op("Mul", op("ReduceMax", seed, keepdims=0), const(np.float32(0))), to=TensorProto.INT32)
        ids = op("Add", ids, extra)
    op("Identity", ids, out="id_map")

    slots = const(np.arange(1, NUM_SLOTS + 1, dtype=np.int32)[None, :, None])
    pixels = op("Reshape", ids, op("Concat", batch, const(np.array([1, -1], ints)), axis=0))
    equal = op("Cast", op("Equal", pixels, slots), to=TensorProto.INT32)
    op("ReduceSum", equal, const(np.array([2], ints)), keepdims=0, out="area")
    slots_shape = op("Concat", batch, const(np.array([NUM_SLOTS], ints)), axis=0)
    op("Expand", const(CLASSES[None]), slots_shape, out="class_index")
    op("Expand", score, slots_shape, out="score")

    names = ["score_threshold", "overlap_threshold"] + (["pixel_mean", "pixel_std"] if statistics else [])
    graph = helper.make_graph(
        nodes,
        "tiny",
        [
            helper.make_tensor_value_info("image", TensorProto.UINT8, ["B", "H", "W", 3]),
            helper.make_tensor_value_info("valid_size", TensorProto.INT32, ["B", 2]),
            *(helper.make_tensor_value_info(name, TensorProto.FLOAT, ["B"]) for name in names),
        ],
        [
            helper.make_tensor_value_info("id_map", TensorProto.INT32, ["B", "h", "w"]),
            *(
                helper.make_tensor_value_info(name, kind, ["B", NUM_SLOTS])
                for name, kind in (
                    ("segment_id", TensorProto.INT32),
                    ("class_index", TensorProto.INT32),
                    ("score", TensorProto.FLOAT),
                    ("area", TensorProto.INT32),
                )
            ),
        ],
        initializer=constants,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
