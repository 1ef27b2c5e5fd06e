from pathlib import Path

import pytest

from service.artifact import Geometry
from service.onnxruntime_providers import context_entries, cuda_provider, tensorrt_provider, tensorrt_rtx_provider


@pytest.fixture
def metadata(tiny, tmp_path):
    changes = {"geometry": Geometry(mode="tile", sizes=(256, 512), overlap=64), "kind": "semantic"}
    return tiny.write_artifact(tmp_path).model_copy(update=changes | {"uses_image_statistics": False})


def test_tensorrt_has_one_profile_around_all(metadata):
    name, options = tensorrt_provider(metadata, precision="fp16", cache=Path("/cache"))
    assert name == "TensorrtExecutionProvider"
    assert options["trt_profile_min_shapes"] == "image:1x256x256x3,valid_size:1x2"
    assert options["trt_profile_opt_shapes"] == "image:1x512x512x3,valid_size:1x2"
    assert options["trt_profile_max_shapes"] == "image:4x512x512x3,valid_size:4x2"
    assert (options["trt_fp16_enable"], options["trt_int8_enable"]) == ("1", "0")
    assert options["trt_engine_cache_path"] == options["trt_timing_cache_path"] == "/cache"


def test_a_context_holds_its_engine(metadata):
    _, options = tensorrt_provider(metadata, precision="int8", cache=Path("/cache"), context=Path("/cache/a_ctx.onnx"))
    assert options["trt_ep_context_file_path"] == "/cache/a_ctx.onnx"
    assert options["trt_ep_context_embed_mode"] == options["trt_int8_enable"] == "1"
    assert "trt_engine_cache_path" not in options


def test_rtx_repeats_the_inputs_for_each_profile(metadata):
    name, options = tensorrt_rtx_provider(metadata, cache=Path("/cache"))
    assert name == "NvTensorRTRTXExecutionProvider"
    assert options["nv_profile_max_shapes"] == (
        "image:1x512x512x3,valid_size:1x2,image:2x512x512x3,valid_size:2x2,"
        "image:3x256x256x3,valid_size:3x2,image:4x256x256x3,valid_size:4x2"
    )
    assert options["nv_multi_profile_enable"] == "1"
    fixed = metadata.model_copy(update={"geometry": Geometry(mode="fit", size=(256, 256))})
    assert tensorrt_rtx_provider(fixed, cache=Path("/cache"))[1]["nv_multi_profile_enable"] == "0"


def test_fp32_is_not_rounded_to_tf32():
    assert cuda_provider(precision="fp32")[1]["use_tf32"] == "0"
    assert cuda_provider(precision="fp16")[1]["use_tf32"] == "1"


def test_all_options_are_text(metadata):
    cache = Path("/cache")
    given = [
        cuda_provider(precision="fp32"),
        tensorrt_provider(metadata, precision="fp32", cache=cache),
        tensorrt_rtx_provider(metadata, cache=cache),
    ]
    for _, options in given:
        assert all(isinstance(value, str) for value in options.values())
    assert context_entries(Path("a.onnx"))["ep.context_file_path"] == "a.onnx"
