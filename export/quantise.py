"""An fp32 graph -> the same graph with its convolutions in int8, calibrated on real images (NNCF).

Quantised are convolutions, weights by channel. Kernel head, stages and merge stay as they are: a product of a kernel
and a feature map decides which pixel is whose.
"""

import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from export.errors import ExportError
from service.artifact import ArtifactMetadata
from service.image import decode
from service.segmenter import Segmenter
from service.session import OnnxSession

Inputs = Mapping[str, NDArray[Any]]

MAX_CALIBRATION_INPUTS = 100
_FLOAT_BLOCKS = ("kernel_head/.*", "stages/.*", "merge/.*", "model/.*")


@dataclass(frozen=True, kw_only=True)
class Rung:
    """How much is quantised: from a ladder whose first rungs are the fastest and whose last the most exact."""

    name: str
    keeps_depthwise: bool = False  # and the first convolution in float: few values a channel, each with its own range
    keeps: tuple[str, ...] = ()  # patterns of names of further nodes that stay in float


LADDER = (
    Rung(name="all convolutions before the kernel head"),
    Rung(name="all but depthwise and the first convolution", keeps_depthwise=True),
    Rung(name="the neck's convolutions", keeps=("backbone/.*",)),
)
SAFE_RUNG = LADDER[1]  # where nothing measures how much a rung loses


def calibration_inputs(metadata: ArtifactMetadata, graph: Path, images: Iterable[Path]) -> list[Inputs]:
    """What the graph is given for image files, one canvas each, up to `MAX_CALIBRATION_INPUTS`."""
    session = _Recorder(OnnxSession(graph))
    segmenter = Segmenter(metadata, session)
    for path in images:
        segmenter.segment(decode(path.read_bytes()))
        if len(session.inputs) >= MAX_CALIBRATION_INPUTS:
            break
    return session.inputs[:MAX_CALIBRATION_INPUTS]


class _Recorder:
    """A session that keeps what it is given."""

    def __init__(self, session: OnnxSession) -> None:
        self._session = session
        self.inputs: list[Inputs] = []

    def run(self, inputs: Inputs) -> dict[str, NDArray[Any]]:
        batch = len(inputs["image"])
        self.inputs += [{name: array[i : i + 1].copy() for name, array in inputs.items()} for i in range(batch)]
        return self._session.run(inputs)


def quantise(
    graph: onnx.ModelProto, inputs: Sequence[Inputs], rung: Rung = SAFE_RUNG, *, signed: bool = False
) -> onnx.ModelProto:
    """A copy of the graph with QuantizeLinear and DequantizeLinear around its convolutions.

    Args:
        graph: of `export.to_onnx.make_graph`, with fp32 weights.
        inputs: of real images, as `calibration_inputs` gives them.
        rung: what is quantised.
        signed: symmetric signed integers alone, which is what TensorRT takes; a little less exact.
    """
    os.environ.setdefault("NNCF_CI", "1")  # it would report its use to its makers
    import nncf  # type: ignore[import-untyped]  # here: it takes seconds, and int8 is made on request

    nncf.set_log_level(logging.ERROR)
    names = {value.name for value in graph.graph.input}
    rows = [{name: array for name, array in row.items() if name in names} for row in inputs]
    quantised: onnx.ModelProto = nncf.quantize(
        graph,
        nncf.Dataset(rows),
        preset=nncf.QuantizationPreset.PERFORMANCE if signed else nncf.QuantizationPreset.MIXED,
        subset_size=len(rows),
        ignored_scope=nncf.IgnoredScope(
            names=_sensitive(graph.graph) if rung.keeps_depthwise else [],
            patterns=[f"^{pattern}" for pattern in (*_FLOAT_BLOCKS, *rung.keeps)],
            validate=False,  # not every graph has every block
        ),
    )
    if signed:
        _use_signed(quantised.graph)
    return quantised


def _use_signed(graph: onnx.GraphProto) -> None:
    """Symmetric unsigned integers of activations become signed ones, of which half are not used."""
    constants = {constant.name: constant for constant in graph.initializer}
    scales, zeros = {}, {}
    for node in graph.node:
        if node.op_type not in ("QuantizeLinear", "DequantizeLinear") or len(node.input) < 3:
            continue
        scale, zero = constants[node.input[1]], constants[node.input[2]]
        if zero.data_type != onnx.TensorProto.UINT8:
            continue
        if (values := numpy_helper.to_array(zero)).any():
            raise ExportError(f"node {node.name} quantises around {values.max()}; signed integers need symmetric ones")
        scales[scale.name], zeros[zero.name] = scale, zero
    for name, scale in scales.items():
        wider = numpy_helper.to_array(scale) * np.float32(np.iinfo(np.uint8).max / np.iinfo(np.int8).max)
        scale.CopyFrom(numpy_helper.from_array(wider, name))
    for name, zero in zeros.items():
        zero.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(zero).astype(np.int8), name))
    del graph.value_info[:]  # notes of types, some of which are no longer true


def _sensitive(graph: onnx.GraphProto) -> list[str]:
    """Names of the first convolution and of the depthwise ones."""
    convolutions = [node for node in graph.node if node.op_type == "Conv"]
    groups = {node.name: next((a.i for a in node.attribute if a.name == "group"), 1) for node in convolutions}
    return [name for place, (name, group) in enumerate(groups.items()) if place == 0 or group > 1]
