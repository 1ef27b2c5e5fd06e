"""config.pbtxt, read by Triton's own definition of it."""

import numpy as np
import onnxruntime
import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from export.command import Wishes, make_options
from export.triton import write_config
from service import artifact
from service.repository import scan

TYPES = {"tensor(uint8)": "TYPE_UINT8", "tensor(int32)": "TYPE_INT32", "tensor(float)": "TYPE_FP32"}
FORMS = ("learned", "seeded", "instance", "semantic")


def read_config(folder):
    path = write_config(folder, artifact.load(folder))
    assert path == folder.parent / "config.pbtxt"
    return text_format.Parse(path.read_text(), model_config_pb2.ModelConfig())


@pytest.mark.parametrize("form", FORMS)
def test_tensors_are_those_of_the_graph(exported, form):
    folder = exported[form].folder
    config = read_config(folder)
    session = onnxruntime.InferenceSession(str(folder / "model.onnx"))
    for told, there in ((config.input, session.get_inputs()), (config.output, session.get_outputs())):
        assert [value.name for value in told] == [value.name for value in there]
        for value, tensor in zip(told, there, strict=True):
            assert model_config_pb2.DataType.Name(value.data_type) == TYPES[tensor.type]
            dims = [] if value.HasField("reshape") else list(value.dims)
            assert dims == [dim if isinstance(dim, int) else -1 for dim in tensor.shape[1:]]
            assert value.dims  # Triton refuses a tensor without


@pytest.mark.parametrize("form", FORMS)
def test_model_is_named_and_batched(exported, form):
    config = read_config(exported[form].folder)
    assert config.name == exported[form].folder.parent.name
    assert config.platform == "onnxruntime_onnx"
    assert config.HasField("dynamic_batching")
    session = onnxruntime.InferenceSession(str(exported[form].folder / "model.onnx"))
    feeds = {}
    for value in config.input:
        dtype = np.dtype(
            {"TYPE_UINT8": "u1", "TYPE_INT32": "i4", "TYPE_FP32": "f4"}[model_config_pb2.DataType.Name(value.data_type)]
        )
        shape = [] if value.HasField("reshape") else [64 if dim == -1 else dim for dim in value.dims]
        feeds[value.name] = np.ones((config.max_batch_size, *shape), dtype)
    answers = session.run([value.name for value in config.output], feeds)
    assert {len(answer) for answer in answers} == {config.max_batch_size}


def test_the_server_reads_the_same_repository(exported):
    folder = exported["seeded"].folder
    write_config(folder, artifact.load(folder))
    assert [stored.folder for stored in scan(folder.parent.parent)] == [folder]


def test_triton_asks_for_the_graph_that_it_runs():
    assert make_options(Wishes(formats=("triton",))).formats == ("onnx",)
    assert make_options(Wishes(formats=("triton", "openvino"))).formats == ("openvino",)
    assert make_options(Wishes()).formats == ("onnx", "openvino")
    with pytest.raises(ValueError, match="legal: onnx, openvino, tensorrt, triton"):
        make_options(Wishes(formats=("torch",)))
