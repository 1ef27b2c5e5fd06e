"""What Triton has to know of a model. Its repository is ours, NAME/VERSION/model.onnx, with NAME/config.pbtxt beside.

The graph holds everything from the image to the segments, so that Triton runs it without any Python.
"""

from pathlib import Path

import onnx
from onnx import TensorProto, ValueInfoProto

from service.artifact import ArtifactMetadata

FILE_NAME = "config.pbtxt"
_MAX_BATCH = 8  # as the server's
_TYPES: dict[int, str] = {
    TensorProto.UINT8: "TYPE_UINT8",
    TensorProto.INT32: "TYPE_INT32",
    TensorProto.INT64: "TYPE_INT64",
    TensorProto.FLOAT: "TYPE_FP32",
}


def write_config(artifact: Path, metadata: ArtifactMetadata) -> Path:
    """Write the model's config.pbtxt beside the version in `artifact`, in place of one that is there; gives its path.

    Requests of the same size that wait run as one batch.
    """
    graph = onnx.load(str(artifact / "model.onnx"), load_external_data=False).graph
    path = artifact.parent / FILE_NAME
    path.write_text(
        f'name: "{metadata.name}"\n'
        'platform: "onnxruntime_onnx"\n'
        f"max_batch_size: {_MAX_BATCH}\n"
        "dynamic_batching { }\n"
        + "".join(_tensor("input", value) for value in graph.input)
        + "".join(_tensor("output", value) for value in graph.output)
    )
    return path


def _tensor(direction: str, value: ValueInfoProto) -> str:
    """An entry; its dimensions are those of one image, -1 where they vary."""
    tensor = value.type.tensor_type
    dims = [dim.dim_value or -1 for dim in tensor.shape.dim][1:]
    # Triton has no tensor without dimensions: a number for each image is sent as a vector of one.
    reshape = "" if dims else " reshape { shape: [ ] }"
    listed = ", ".join(map(str, dims or [1]))
    return f'{direction} {{ name: "{value.name}" data_type: {_TYPES[tensor.elem_type]} dims: [ {listed} ]{reshape} }}\n'
