"""A graph in OpenVINO, in this process."""

import math
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.errors import ArtifactError
from service.session import Arrays, available_cpus

_HINTS = {"fp32": "f32", "bf16": "bf16", "int8": "bf16"}  # of what is not quantised in the graph


class OpenVinoSession:
    """OpenVINO on the CPU; inputs that the graph does not have are left out.

    A run that is alone has all threads. Two at once have half of them each, which takes less time than one after the
    other, as fewer threads wait for each other. That takes memory for three runs, and so it is for small ones alone.

    Args:
        path: ONNX file, or `.xml` of an IR with its `.bin` beside it.
        precision: "fp32", "bf16" (fp32 on processors without it), or "int8": what the graph quantises in int8 and the
            rest in bf16.
        threads: None: the CPUs that may be used.
        paired_pixels: pixels of canvases up to which a run may be one of two; 0: none is.

    Raises:
        ArtifactError: an unknown precision, or OpenVINO cannot load the graph.
    """

    def __init__(self, path: Path | str, *, precision: str, threads: int | None = None, paired_pixels: int = 0) -> None:
        if precision not in _HINTS:
            raise ArtifactError(f"OpenVINO has no precision {precision!r} here; legal: {', '.join(_HINTS)}")
        self._path = path
        self._precision = precision
        self._threads = threads or available_cpus()
        self._paired_pixels = paired_pixels
        self.runs_at_once = 2 if paired_pixels and self._threads > 1 else 1
        self._whole = self._compile(self._threads)
        self._whole_is_free = threading.Lock()
        self._halves: deque[_Compiled] = deque()  # free ones; compiled when they are needed
        self._choosing = threading.Lock()
        self._num_running = 0

    def run(self, inputs: Arrays) -> dict[str, NDArray[Any]]:
        """Run the graph once; `runs_at_once` threads may."""
        with self._compiled_for(math.prod(inputs["image"].shape[:3])) as compiled:
            return compiled.run(inputs)

    def crowd(self, pixels: int) -> float:
        """Two for a small run, as each of fewer would wait longer for its answer; a large one would wait in `run`."""
        return 2 if pixels <= self._paired_pixels else math.inf

    @contextmanager
    def _compiled_for(self, pixels: int) -> Iterator["_Compiled"]:
        """A compiled graph that is free, for a run of so many pixels."""
        with self._choosing:
            is_half = self._num_running > 0 and pixels <= self._paired_pixels
            self._num_running += 1
        try:
            if is_half:
                half = self._halves.popleft() if self._halves else self._compile(self._threads // 2)
                try:
                    yield half
                finally:
                    self._halves.append(half)
            else:
                with self._whole_is_free:
                    yield self._whole
        finally:
            with self._choosing:
                self._num_running -= 1

    def _compile(self, threads: int) -> "_Compiled":
        options = {
            "INFERENCE_PRECISION_HINT": _HINTS[self._precision],
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": threads,
            # Pinned, the threads of all processes begin at the same core: two engines would share one.
            "ENABLE_CPU_PINNING": False,
        }
        try:
            core = _core()
            graph = core.read_model(str(self._path))
            return _Compiled(graph, core.compile_model(graph, "CPU", options))
        except RuntimeError as error:
            raise ArtifactError(f"OpenVINO cannot load {self._path}: {error}") from error


@cache
def _core() -> Any:
    """The one Core of this process, which it keeps.

    A CPU plugin gives its signal stack to the thread that loads it, and unmaps it where the last of its graphs is
    dropped: were that another thread, the next signal would end the process.
    """
    import openvino  # type: ignore[import-untyped]  # here, as the HTTP process needs only the Protocol

    return openvino.Core()


class _Compiled:
    """A compiled graph with one request and its buffers: one run at a time."""

    def __init__(self, graph: Any, model: Any) -> None:
        self._input_names = [value.any_name for value in model.inputs]
        # Of the graph as it was read: compiled, an output has the names of what it is computed from, too.
        self._output_names = [value.any_name for value in graph.outputs]
        self._request = model.create_infer_request()

    def run(self, inputs: Arrays) -> dict[str, NDArray[Any]]:
        given = {name: np.ascontiguousarray(inputs[name]) for name in self._input_names}
        outputs = self._request.infer(given, share_inputs=True)
        return {name: outputs[i].copy() for i, name in enumerate(self._output_names)}
