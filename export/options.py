"""What can be chosen of an export: engines, precisions, and how much each precision may lose."""

from dataclasses import dataclass, field
from typing import Literal

from export.tensorrt_plan import EngineOptions

Format = Literal["onnx", "openvino", "tensorrt"]
Precision = Literal["fp32", "bf16", "fp16", "int8"]
Deformable = Literal["operator", "grid_sample"]

RUNTIMES: dict[Format, str] = {"onnx": "onnxruntime", "openvino": "openvino", "tensorrt": "tensorrt"}
# Best first, as an artifact lists its variants: a server takes the first that runs. int8 is for those who name it.
_ORDER: tuple[tuple[Format, Precision], ...] = (
    ("tensorrt", "fp16"),
    ("tensorrt", "fp32"),
    ("openvino", "bf16"),
    ("onnx", "fp32"),
    ("openvino", "fp32"),
    ("onnx", "fp16"),
    ("tensorrt", "int8"),
    ("openvino", "int8"),
    ("onnx", "int8"),
)
REFERENCE: tuple[Format, Precision] = ("onnx", "fp32")  # which every artifact has, and the other graphs are made of


@dataclass(frozen=True, kw_only=True)
class Limit:
    """Within what a variant of a precision must stay to be written."""

    must_agree: bool = False  # with PyTorch on pixels and scores (export.verify.Comparison.accepted)
    max_loss: float | None = None  # of PQ, mask AP or mIoU on validation images, 0..1


LIMITS: dict[Precision, Limit] = {
    "fp32": Limit(must_agree=True),
    "bf16": Limit(max_loss=0.003),
    "fp16": Limit(max_loss=0.003),
    "int8": Limit(max_loss=0.010),
}


@dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """How an artifact is made.

    Raises:
        ValueError: a precision that none of the formats has.
    """

    formats: tuple[Format, ...] = ("onnx", "openvino")
    precisions: tuple[Precision, ...] = ("fp32", "bf16")
    deformable: Deformable = "operator"  # "grid_sample": for engines without the operator of opset 19
    fixed_size: bool = False  # height and width are constants of the graph
    signed_int8: bool = False  # symmetric signed integers alone, which is what TensorRT takes
    confidence: bool = False  # semantic: an output with the probability of each cell's class
    half_storage: bool = False  # weights rounded to fp16 on disk: half the file, for small artifacts
    force: bool = False  # write variants that are outside their limits, marked as such
    engine: EngineOptions = field(default_factory=EngineOptions)  # of TensorRT; its precision is not looked at

    def __post_init__(self) -> None:
        for precision in self.precisions:
            if not any((format_, precision) in _ORDER for format_ in self.formats):
                having = ", ".join(format_ for format_, of in _ORDER if of == precision)
                raise ValueError(f"precision {precision} is of format {having}, not of {', '.join(self.formats)}")

    @property
    def variants(self) -> tuple[tuple[Format, Precision], ...]:
        """What to make, best first; always with the reference."""
        wanted = {(format_, precision) for format_ in self.formats for precision in self.precisions} | {REFERENCE}
        return tuple(pair for pair in _ORDER if pair in wanted)
