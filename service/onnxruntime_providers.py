"""Options of ONNX Runtime's providers for NVIDIA GPUs, from an artifact's metadata.

Each function gives one entry of `InferenceSession(providers=...)`. List the CUDA provider last: it runs what the others
do not take. Needs a build of ONNX Runtime with the provider; the one that the service installs has none of them.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from service.artifact import ArtifactMetadata
from service.profiles import Shapes, profile_shapes

CUDA_PROVIDER = "CUDAExecutionProvider"

Precision = Literal["fp32", "fp16", "int8"]
Provider = tuple[str, dict[str, str]]


def cuda_provider(*, precision: str) -> Provider:
    """Kernels of cuDNN and cuBLAS; types are those of the graph."""
    return CUDA_PROVIDER, {
        # The default times all algorithms again for every new size of image.
        "cudnn_conv_algo_search": "HEURISTIC",
        "use_tf32": "0" if precision == "fp32" else "1",
    }


def tensorrt_provider(
    metadata: ArtifactMetadata, *, precision: Precision, cache: Path, context: Path | None = None
) -> Provider:
    """TensorRT, with one optimisation profile around all batches that the service makes.

    Args:
        metadata: of the artifact whose graph is run.
        precision: that of the graph: model.onnx, model.fp16.onnx, or a quantised one.
        cache: folder for engines and timings; those of another GPU, TensorRT or range of shapes are built again.
        context: None, or a file to write: a graph of one node that holds the engine, which a session can load in place
            of the artifact's graph. Building it anew ignores engines in `cache`.
    """
    smallest, common, largest = _around(profile_shapes(metadata))
    options = {
        "trt_fp16_enable": _flag(precision == "fp16"),
        "trt_int8_enable": _flag(precision == "int8"),
        "trt_layer_norm_fp32_fallback": "1",
        "trt_profile_min_shapes": _spell(smallest),
        "trt_profile_opt_shapes": _spell(common),
        "trt_profile_max_shapes": _spell(largest),
        "trt_timing_cache_enable": "1",
        "trt_timing_cache_path": str(cache),
    }
    if context is None:
        options |= {"trt_engine_cache_enable": "1", "trt_engine_cache_path": str(cache)}
    else:
        # The engine inside the file: a path to it would have to be relative to the file's folder.
        options |= {
            "trt_dump_ep_context_model": "1",
            "trt_ep_context_file_path": str(context),
            "trt_ep_context_embed_mode": "1",
        }
    return "TensorrtExecutionProvider", options


def tensorrt_rtx_provider(metadata: ArtifactMetadata, *, cache: Path) -> Provider:
    """TensorRT for RTX, with the same profiles as an engine; it takes all types from the graph.

    Args:
        metadata: of the artifact whose graph is run.
        cache: folder for kernels compiled for this GPU.
    """
    profiles = profile_shapes(metadata)
    options = {
        f"nv_profile_{name}_shapes": ",".join(_spell(profile[position]) for profile in profiles)
        for position, name in enumerate(("min", "opt", "max"))
    }
    return "NvTensorRTRTXExecutionProvider", options | {
        "nv_multi_profile_enable": _flag(len(profiles) > 1),
        "nv_runtime_cache_path": str(cache),
    }


def context_entries(context: Path) -> dict[str, str]:
    """Entries of `SessionOptions.add_session_config_entry` with which a provider writes its compiled graph to a file.

    A session then loads that file in place of the artifact's graph. For TensorRT for RTX.
    """
    return {"ep.context_enable": "1", "ep.context_file_path": str(context), "ep.context_embed_mode": "1"}


def _around(profiles: Sequence[tuple[Shapes, Shapes, Shapes]]) -> tuple[Shapes, Shapes, Shapes]:
    """One profile that holds all; common is what is common of the first."""
    smallest, common, largest = profiles[0]
    for low, _, high in profiles[1:]:
        smallest = {name: tuple(map(min, shape, low[name])) for name, shape in smallest.items()}
        largest = {name: tuple(map(max, shape, high[name])) for name, shape in largest.items()}
    return smallest, common, largest


def _spell(shapes: Shapes) -> str:
    """`image:1x256x256x3,valid_size:1x2`."""
    return ",".join(f"{name}:{'x'.join(map(str, shape))}" for name, shape in shapes.items())


def _flag(value: bool) -> str:
    return "1" if value else "0"
