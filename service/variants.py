"""Which of an artifact's variants runs here, and a session of it."""

import importlib.util
import logging
from collections.abc import Callable
from pathlib import Path

from service.artifact import ArtifactMetadata, Variant
from service.errors import ArtifactError
from service.openvino_session import OpenVinoSession
from service.session import OnnxSession, Session
from service.tensorrt_session import TensorRtSession, find_obstacle

logger = logging.getLogger("knet.variants")


def choose_variant(metadata: ArtifactMetadata, name: str | None = None) -> Variant:
    """The variant of that name, or without one the first that can run here: an artifact lists the best first.

    Raises:
        ArtifactError: there is none.
    """
    obstacles: dict[str, str] = {}
    for variant in metadata.variants:
        if name in (None, variant.name):
            if (obstacle := _obstacle(variant)) is None:
                for passed, reason in obstacles.items():
                    logger.warning("%s/%s: not %s: %s", metadata.name, metadata.version, passed, reason)
                return variant
            obstacles[variant.name] = obstacle
    label = f"{metadata.name}/{metadata.version}"
    if name is not None and not obstacles:
        there = ", ".join(variant.name for variant in metadata.variants)
        raise ArtifactError(f"{label} has no variant {name!r}; legal: {there}")
    reasons = "; ".join(f"{variant}: {reason}" for variant, reason in obstacles.items())
    raise ArtifactError(f"{label} cannot run here: {reasons}")


def open_session(folder: Path, variant: Variant, *, threads: int | None = None) -> Session:
    """Load a variant of the artifact in `folder`.

    Raises:
        ArtifactError: its runtime is unknown, or cannot load it.
    """
    if variant.runtime not in _OPENERS:
        raise ArtifactError(f"runtime {variant.runtime!r} is not known; legal: {', '.join(_OPENERS)}")
    return _OPENERS[variant.runtime](folder / variant.file, variant, threads)


def _open_onnxruntime(path: Path, variant: Variant, threads: int | None) -> Session:
    return OnnxSession(path, threads=threads)


def _open_openvino(path: Path, variant: Variant, threads: int | None) -> Session:
    return OpenVinoSession(path, precision=variant.precision, threads=threads)


def _open_tensorrt(path: Path, variant: Variant, threads: int | None) -> Session:
    return TensorRtSession(path)


_OPENERS: dict[str, Callable[[Path, Variant, int | None], Session]] = {
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
