"""An artifact's graph -> a TensorRT engine for the GPU of this machine.

The calls are those of TensorRT 10 and 11's Python API; no test here can make them without the library and a GPU
(tests/gpu does). Everything else is in `export.tensorrt_plan`.
"""

import importlib
import threading
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from batch.durable import write_bytes
from export.errors import ExportError
from export.tensorrt_plan import EngineOptions, load_graph, needs_of
from service.artifact import ArtifactMetadata, Variant, file_sha256
from service.gpu import find_gpu, is_installed
from service.profiles import profile_shapes


def build_engine(folder: Path, metadata: ArtifactMetadata, options: EngineOptions, *, console: Console) -> Variant:
    """Build an engine into an artifact's folder; takes minutes, and all of the GPU.

    Returns:
        The variant for `artifact.json`, which is not written here; its accuracy is still to be measured.

    Raises:
        ExportError: TensorRT, cuda-python or a GPU is missing, or TensorRT refuses the graph.
    """
    for module, package in (("tensorrt", "tensorrt"), ("cuda.bindings.runtime", "cuda-python")):
        if not is_installed(module):
            raise ExportError(
                f"building a TensorRT engine needs {package}, which is not installed: "
                "pip install tensorrt cuda-python; or build with NVIDIA's tools, which --dry-run prints the commands of"
            )
    if (gpu := find_gpu()) is None:
        raise ExportError("building a TensorRT engine needs an NVIDIA GPU with its driver; none is found")
    graph = load_graph(folder, options).SerializeToString()
    plan, version = _build(graph, metadata, options, console)
    path = folder / options.engine_file
    write_bytes(path, plan)
    return Variant(
        runtime="tensorrt",
        precision=options.precision,
        file=path.name,
        sha256=file_sha256(path),
        needs=needs_of(folder, metadata, options, gpu, version),
    )


def _build(graph: bytes, metadata: ArtifactMetadata, options: EngineOptions, console: Console) -> tuple[bytes, str]:
    """The serialised engine, and the version of TensorRT."""
    trt: Any = importlib.import_module("tensorrt")
    logger = trt.Logger(trt.Logger.WARNING)
    trt.init_libnvinfer_plugins(logger, "")  # deformable convolutions are a plugin of the library
    builder = trt.Builder(logger)
    # TensorRT 11 has no other networks and ignores the flag.
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse(graph):
        errors = "; ".join(parser.get_error(index).desc() for index in range(parser.num_errors))
        raise ExportError(f"TensorRT {trt.__version__} does not take the graph: {errors}")
    config = _configure(trt, builder, metadata, options)
    with Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), console=console
    ) as progress:
        # Held in a variable: TensorRT keeps no reference that Python knows of.
        monitor = _make_monitor(trt, progress)
        config.progress_monitor = monitor
        plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise ExportError(
            f"TensorRT {trt.__version__} cannot build the engine; its messages above say why. "
            "Out of memory: lower --workspace-gb, or stop what else runs on the GPU"
        )
    if options.timing_cache is not None:
        options.timing_cache.write_bytes(bytes(config.get_timing_cache().serialize()))
    return bytes(plan), str(trt.__version__)


def _configure(trt: Any, builder: Any, metadata: ArtifactMetadata, options: EngineOptions) -> Any:
    """The builder's IBuilderConfig."""
    config = builder.create_builder_config()
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, options.workspace_bytes)
    if not options.tf32:
        config.clear_flag(trt.BuilderFlag.TF32)
    if options.hardware_compatible:
        config.hardware_compatibility_level = trt.HardwareCompatibilityLevel.AMPERE_PLUS
    if options.timing_cache is not None:
        known = options.timing_cache.read_bytes() if options.timing_cache.is_file() else b""
        if not config.set_timing_cache(config.create_timing_cache(known), ignore_mismatch=False):
            raise ExportError(f"{options.timing_cache} is of another GPU or TensorRT version; name another file")
    for smallest, common, largest in profile_shapes(metadata):
        profile = builder.create_optimization_profile()
        for name in smallest:
            profile.set_shape(name, smallest[name], common[name], largest[name])
        if config.add_optimization_profile(profile) < 0:
            raise ExportError(f"TensorRT does not take the profile from {smallest} to {largest}")
    return config


def _make_monitor(trt: Any, progress: Progress) -> Any:
    """An IProgressMonitor that shows each phase of a build as a bar, for as long as the phase lasts."""

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]  # TensorRT has no types
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self._lock = threading.Lock()  # TensorRT calls from several threads
            self._bars: dict[str, TaskID] = {}

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            with self._lock:
                self._bars[phase_name] = progress.add_task(phase_name, total=num_steps)

        def step_complete(self, phase_name: str, step: int) -> bool:
            with self._lock:
                progress.update(self._bars[phase_name], completed=step + 1)
            return True  # go on

        def phase_finish(self, phase_name: str) -> None:
            with self._lock:
                progress.remove_task(self._bars.pop(phase_name))

    return Monitor()
