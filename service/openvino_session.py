"""A graph in OpenVINO, in this process."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.errors import ArtifactError
from service.session import Arrays, available_cpus

_HINTS = {"fp32": "f32", "bf16": "bf16", "int8": "bf16"}  # of what is not quantised in the graph


class OpenVinoSession:
    """OpenVINO on the CPU; inputs that the graph does not have are left out.

    Args:
        path: ONNX file, or `.xml` of an IR with its `.bin` beside it.
        precision: "fp32", "bf16" (fp32 on processors without it), or "int8": what the graph quantises in int8 and the
            rest in bf16.
        threads: None: the CPUs that may be used.

    Raises:
        ArtifactError: an unknown precision, or OpenVINO cannot load the graph.
    """

    runs_at_once = 1  # one request and its buffers

    def __init__(self, path: Path | str, *, precision: str, threads: int | None = None) -> None:
        import openvino  # type: ignore[import-untyped]  # here, as the HTTP process needs only the Protocol

        if precision not in _HINTS:
            raise ArtifactError(f"OpenVINO has no precision {precision!r} here; legal: {', '.join(_HINTS)}")
        try:
            core = openvino.Core()
            graph = core.read_model(str(path))
            self._model = core.compile_model(
                graph,
                "CPU",
                {
                    "INFERENCE_PRECISION_HINT": _HINTS[precision],
                    "PERFORMANCE_HINT": "LATENCY",
                    "INFERENCE_NUM_THREADS": threads or available_cpus(),
                    # Pinned, the threads of all processes begin at the same core: two engines would share one.
                    "ENABLE_CPU_PINNING": False,
                },
            )
        except RuntimeError as error:
            raise ArtifactError(f"OpenVINO cannot load {path}: {error}") from error
        self._input_names = [value.any_name for value in self._model.inputs]
        # Of the graph as it was read: compiled, an output has the names of what it is computed from, too.
        self._output_names = [value.any_name for value in graph.outputs]
        self._request = self._model.create_infer_request()

    def run(self, inputs: Arrays) -> dict[str, NDArray[Any]]:
        """Run the graph once; one run at a time."""
        given = {name: np.ascontiguousarray(inputs[name]) for name in self._input_names}
        outputs = self._request.infer(given, share_inputs=True)
        return {name: outputs[i].copy() for i, name in enumerate(self._output_names)}
