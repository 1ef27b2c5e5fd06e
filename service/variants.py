"""Which of an artifact's variants runs here, and a session of it."""

import importlib.util
import logging
import math
from collections.abc import Callable
from pathlib import Path

from service import artifact
from service.artifact import ArtifactMetadata, Variant
from service.errors import ArtifactError
from service.geometry import canvas_sizes
from service.gpu import count_gpus, is_installed
from service.onnxruntime_providers import CUDA_PROVIDER, cuda_provider
from service.openvino_session import OpenVinoSession
from service.session import CPU_PROVIDER, LoadedSession, OnnxSession, Provider
from service.tensorrt_session import TensorRtSession, find_obstacle

logger = logging.getLogger("knet.variants")

_PAIRED_SHARE = 0.25  # of OpenVINO's largest canvas: what a run may have that is one of two


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


def open_session(folder: Path, variant: Variant, *, threads: int | None = None) -> LoadedSession:
    """Load a variant of the artifact in `folder`.

    Raises:
        ArtifactError: its runtime is unknown, or cannot load it.
    """
    if variant.runtime not in _OPENERS:
        raise ArtifactError(f"runtime {variant.runtime!r} is not known; legal: {', '.join(_OPENERS)}")
    return _OPENERS[variant.runtime](folder / variant.file, variant, threads)


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


def _open_onnxruntime(path: Path, variant: Variant, threads: int | None) -> LoadedSession:
    if uses_gpu(variant):
        providers: list[Provider] = [cuda_provider(precision=variant.precision), CPU_PROVIDER]
        return OnnxSession(path, threads=threads, providers=providers)
    return OnnxSession(path, threads=threads)


def _open_openvino(path: Path, variant: Variant, threads: int | None) -> LoadedSession:
    # Small beside what there must be memory for anyway.
    largest = max(map(math.prod, canvas_sizes(artifact.load(path.parent).geometry)))
    paired_pixels = int(largest * _PAIRED_SHARE)
    return OpenVinoSession(path, precision=variant.precision, threads=threads, paired_pixels=paired_pixels)


def _open_tensorrt(path: Path, variant: Variant, threads: int | None) -> LoadedSession:
    return TensorRtSession(path)


_OPENERS: dict[str, Callable[[Path, Variant, int | None], LoadedSession]] = {
    "onnxruntime": _open_onnxruntime,
    "openvino": _open_openvino,
    "tensorrt": _open_tensorrt,
}


def _obstacle(variant: Variant) -> str | None:
    """Why a variant cannot run here; None: nothing is known to be in its way."""
    if variant.runtime not in _OPENERS:
        return f"runtime {variant.runtime!r} is not known"
    if importlib.util.find_spec(variant.runtime) is None:
        return f"{variant.runtime} is not installed"
    if variant.runtime == "tensorrt":
        return find_obstacle(variant.needs)
    return None
