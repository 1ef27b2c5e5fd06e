"""A loaded graph behind one small interface, whatever the runtime."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from numpy.typing import NDArray

from service.errors import ArtifactError

Arrays = Mapping[str, NDArray[Any]]
Provider = str | tuple[str, dict[str, str]]  # of ONNX Runtime: name, or name and options
CPU_PROVIDER = "CPUExecutionProvider"


class Session(Protocol):
    """Named arrays in, named arrays out; the first axis of each is the batch."""

    def run(self, inputs: Arrays) -> dict[str, NDArray[Any]]:
        """Run the graph once."""
        ...


class LoadedSession(Session, Protocol):
    """A session that has the graph itself.

    `runs_at_once`: threads that may be in `run`; two on a device, where one copies while the other computes.
    """

    runs_at_once: int

    def crowd(self, pixels: int) -> float:
        """Canvases that must wait before a second run, of so many pixels, is worth its while; infinity: it never is."""
        ...


class OnnxSession:
    """ONNX Runtime in this process, on the CPU unless other providers come first; unknown inputs are left out."""

    def __init__(
        self, path: Path | str, *, threads: int | None = None, providers: Sequence[Provider] = (CPU_PROVIDER,)
    ) -> None:
        import onnxruntime  # type: ignore[import-untyped]  # here, as the HTTP process needs only the Protocol

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads or available_cpus()
        options.inter_op_num_threads = 1
        # Spinning threads slow down whatever runs beside them: decoding, encoding, other replicas.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            self._session = onnxruntime.InferenceSession(str(path), options, providers=list(providers))
        except Exception as error:  # ONNX Runtime's errors share no base but Exception
            raise ArtifactError(f"ONNX Runtime cannot load {path}: {error}") from error
        self.runs_at_once = 1 if providers[0] == CPU_PROVIDER else 2  # on the CPU they would only take turns
        self._input_names = [value.name for value in self._session.get_inputs()]
        self._output_names = [value.name for value in self._session.get_outputs()]

    def run(self, inputs: Arrays) -> dict[str, NDArray[Any]]:
        """Run the graph once."""
        outputs = self._session.run(self._output_names, {name: inputs[name] for name in self._input_names})
        return dict(zip(self._output_names, outputs, strict=True))

    def crowd(self, pixels: int) -> float:
        """A second run takes nothing from the first."""
        return 0


def available_cpus() -> int:
    """CPUs that this process may use: its affinity, or the control group's quota where that is less."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = _cgroup_quota()
    return allowed if quota is None else max(1, min(allowed, round(quota)))


def _cgroup_quota() -> float | None:
    """CPUs that the control group grants (version 2, then version 1); None without a limit."""
    root = Path("/sys/fs/cgroup")
    try:
        quota, period = (root / "cpu.max").read_text().split()
    except (OSError, ValueError):
        try:
            quota = (root / "cpu/cpu.cfs_quota_us").read_text().strip()
            period = (root / "cpu/cpu.cfs_period_us").read_text().strip()
        except OSError:
            return None
    return None if quota in ("max", "-1") else int(quota) / int(period)
