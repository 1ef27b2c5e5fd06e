"""Which of an artifact's variants runs here, and a session of it."""

import importlib.util
import logging
from collections.abc import Sequence
from pathlib import Path

from service.artifact import ArtifactMetadata, Variant
from service.errors import ArtifactError
from service.gpu import count_gpus, is_installed
from service.onnxruntime_providers import CUDA_PROVIDER, cuda_provider
from service.openvino_session import OpenVinoSession
from service.session import CPU_PROVIDER, LoadedSession, OnnxSession, Provider
from service.tensorrt_session import TensorRtSession, find_obstacle

logger = logging.getLogger("knet.variants")

_RUNTIMES = ("onnxruntime", "openvino", "tensorrt")


def choose_variant(metadata: ArtifactMetadata, name: str | None = None) -> Variant:
    """The first of `runnable_variants`."""
    return runnable_variants(metadata, name)[0]


def runnable_variants(metadata: ArtifactMetadata, name: str | None = None) -> list[Variant]:
    """The variant of that name, or without one all that can run here as far as is known: the best first, as listed.

    Raises:
        ArtifactError: there is none.
    """
    label = f"{metadata.name}/{metadata.version}"
    asked = [variant for variant in metadata.variants if name in (None, variant.name)]
    if not asked:
        there = ", ".join(variant.name for variant in metadata.variants)
        raise ArtifactError(f"{label} has no variant {name!r}; legal: {there}")
    obstacles = {variant.name: _obstacle(variant) for variant in asked}
    found = [variant for variant in asked if obstacles[variant.name] is None]
    reasons = [f"{variant}: {reason}" for variant, reason in obstacles.items() if reason is not None]
    if not found:
        raise ArtifactError(f"{label} cannot run here: {'; '.join(reasons)}")
    for reason in reasons:
        logger.warning("%s: passed over %s", label, reason)
    # On a GPU before on the processor, whatever the artifact's author measured.
    return sorted(found, key=lambda variant: not uses_gpu(variant))


def open_session(
    folder: Path, variant: Variant, *, threads: int | None = None, paired_pixels: int = 0
) -> LoadedSession:
    """Load a variant of the artifact in `folder`.

    `threads` and `paired_pixels` are of a CPU, the latter of OpenVINO alone (see `OpenVinoSession`).

    Raises:
        ArtifactError: its runtime is unknown, or cannot load it.
    """
    file = folder / variant.file
    match variant.runtime:
        case "onnxruntime":
            return OnnxSession(file, threads=threads, providers=_providers(variant))
        case "openvino":
            return OpenVinoSession(file, precision=variant.precision, threads=threads, paired_pixels=paired_pixels)
        case "tensorrt":
            return TensorRtSession(file)
    raise ArtifactError(f"runtime {variant.runtime!r} is not known; legal: {', '.join(_RUNTIMES)}")


def uses_gpu(variant: Variant) -> bool:
    """Whether a variant runs on a GPU here."""
    # CUDA's kernels are for floats: quantised graphs are slower there.
    return variant.runtime == "tensorrt" or (
        variant.runtime == "onnxruntime" and variant.precision != "int8" and has_cuda()
    )


def has_cuda() -> bool:
    """Whether this machine has a GPU that ONNX Runtime can use."""
    if not is_installed("onnxruntime") or not count_gpus():
        return False
    import onnxruntime  # type: ignore[import-untyped]  # here, as most machines never get so far

    return CUDA_PROVIDER in onnxruntime.get_available_providers()


def _providers(variant: Variant) -> Sequence[Provider]:
    """ONNX Runtime's, the best first."""
    return [cuda_provider(precision=variant.precision), CPU_PROVIDER] if uses_gpu(variant) else [CPU_PROVIDER]


def _obstacle(variant: Variant) -> str | None:
    """Why a variant cannot run here; None: nothing is known to be in its way."""
    if variant.runtime not in _RUNTIMES:
        return f"runtime {variant.runtime!r} is not known"
    if importlib.util.find_spec(variant.runtime) is None:
        return f"{variant.runtime} is not installed"
    if variant.runtime == "tensorrt":
        return find_obstacle(variant.needs)
    return None
