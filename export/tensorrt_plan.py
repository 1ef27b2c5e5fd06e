"""All of a TensorRT build that can be known without TensorRT: files, profiles, needs, and the equal command lines."""

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import onnx
from pydantic import JsonValue

from export.errors import ExportError
from export.fp16 import to_fp16
from export.tensorrt_graph import for_tensorrt
from service.artifact import ArtifactMetadata, file_sha256
from service.gpu import Gpu
from service.profiles import Shapes, profile_shapes

Precision = Literal["fp32", "fp16", "int8"]
GIBIBYTE = 2**30
_SOURCES = {"fp32": "model.onnx", "fp16": "model.onnx", "int8": "model.int8.onnx"}


@dataclass(frozen=True, kw_only=True)
class EngineOptions:
    """What a person chooses of an engine.

    Raises:
        ValueError: a value is out of its range.
    """

    precision: Precision = "fp16"  # int8: what model.int8.onnx quantises, and the rest in fp32
    workspace_gb: float = 4.0  # of memory, at most, for any one layer
    hardware_compatible: bool = False  # runs on all GPUs from Ampere on, slower than an engine for this one
    timing_cache: Path | None = None  # file of measured kernels, read and added to; makes the next build faster

    def __post_init__(self) -> None:
        if self.precision not in get_args(Precision):
            raise ValueError(f"precision is {self.precision!r}; legal: {', '.join(get_args(Precision))}")
        if not self.workspace_gb > 0:
            raise ValueError(f"workspace_gb is {self.workspace_gb}; legal: above 0")

    @property
    def workspace_bytes(self) -> int:
        """The workspace limit as TensorRT takes it."""
        return int(self.workspace_gb * GIBIBYTE)

    @property
    def tf32(self) -> bool:
        """Products of fp32 numbers may be rounded to tf32: where fp32 is only what fp16 or int8 left over."""
        return self.precision != "fp32"

    @property
    def engine_file(self) -> str:
        """Name of the engine in the artifact's folder."""
        return f"model.{self.precision}.engine"

    @property
    def source_file(self) -> str:
        """Name of the graph in the artifact's folder that the engine is made of."""
        return _SOURCES[self.precision]


def load_graph(folder: Path, options: EngineOptions) -> onnx.ModelProto:
    """The graph that TensorRT is given, made from one of the artifact's.

    Raises:
        ExportError: the artifact has no such graph, or it is quantised in a way that TensorRT does not take.
    """
    path = folder / options.source_file
    if not path.is_file():
        raise ExportError(f"{path} is not there; precision {options.precision} is built from it")
    graph = for_tensorrt(onnx.load(path))
    return to_fp16(graph) if options.precision == "fp16" else graph


def needs_of(
    folder: Path, metadata: ArtifactMetadata, options: EngineOptions, gpu: Gpu, version: str
) -> dict[str, JsonValue]:
    """`Variant.needs` of an engine: what `service.tensorrt_session.find_obstacle` checks, and what it was built from.

    Args:
        folder: of the artifact, with the source graph.
        metadata: of the artifact.
        options: of the build.
        gpu: on which it was built.
        version: of TensorRT.
    """
    return {
        "tensorrt": version,
        "gpu": gpu.name,
        "compute_capability": gpu.compute_capability,
        "hardware_compatible": options.hardware_compatible,
        "profiles": [
            {
                name: {key: list(shape) for key, shape in shapes.items()}
                for name, shapes in zip(("min", "opt", "max"), profile, strict=True)
            }
            for profile in profile_shapes(metadata)
        ],
        "source": {"file": options.source_file, "sha256": file_sha256(folder / options.source_file)},
    }


def dry_run(folder: Path, metadata: ArtifactMetadata, options: EngineOptions) -> list[str]:
    """Command lines of NVIDIA's tools, each of which builds the same engine: of trtexec, and of polygraphy.

    They read a graph that this writes beside the artifact's: `model.PRECISION.tensorrt.onnx`.

    Raises:
        ExportError: as `load_graph`.
    """
    graph = folder / f"model.{options.precision}.tensorrt.onnx"
    onnx.save(load_graph(folder, options), graph)
    engine, profiles = folder / options.engine_file, profile_shapes(metadata)
    return [_trtexec(graph, engine, profiles, options), _polygraphy(graph, engine, profiles, options)]


def _trtexec(graph: Path, engine: Path, profiles: list[tuple[Shapes, Shapes, Shapes]], options: EngineOptions) -> str:
    words = ["trtexec", f"--onnx={graph}", f"--saveEngine={engine}", "--stronglyTyped", "--skipInference"]
    for index, profile in enumerate(profiles):
        words.append(f"--profile={index}")
        for name, shapes in zip(("min", "opt", "max"), profile, strict=True):
            words.append(f"--{name}Shapes=" + ",".join(f"{key}:{'x'.join(map(str, s))}" for key, s in shapes.items()))
    words.append(f"--memPoolSize=workspace:{options.workspace_bytes // 2**20}M")
    if not options.tf32:
        words.append("--noTF32")
    if options.hardware_compatible:
        words.append("--hardwareCompatibilityLevel=ampere+")
    if options.timing_cache is not None:
        words.append(f"--timingCacheFile={options.timing_cache}")
    return shlex.join(words)


def _polygraphy(
    graph: Path, engine: Path, profiles: list[tuple[Shapes, Shapes, Shapes]], options: EngineOptions
) -> str:
    words = ["polygraphy", "convert", str(graph), "--convert-to", "trt", "--output", str(engine), "--strongly-typed"]
    for profile in profiles:
        for name, shapes in zip(("min", "opt", "max"), profile, strict=True):
            words.append(f"--trt-{name}-shapes")
            words.extend(f"{key}:[{','.join(map(str, shape))}]" for key, shape in shapes.items())
    words += ["--pool-limit", f"workspace:{options.workspace_bytes}"]
    if options.tf32:
        words.append("--tf32")
    if options.hardware_compatible:
        words += ["--hardware-compatibility-level", "ampere_plus"]
    if options.timing_cache is not None:
        words += ["--load-timing-cache", str(options.timing_cache), "--save-timing-cache", str(options.timing_cache)]
    return shlex.join(words)
