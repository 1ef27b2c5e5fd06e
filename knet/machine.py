"""What this machine is, and what of it this process has taken: figures without a machine mean nothing."""

import platform
import resource
from pathlib import Path

_EXTENSIONS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16", "asimddp", "bf16")  # those that decide how fast a graph is


def processor() -> str:
    """Name of the processor and what matters of its instructions."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    fields = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    flags = fields.get("flags", fields.get("Features", "")).split()
    name = fields.get("model name") or platform.machine()
    return f"{name} ({', '.join(extension for extension in _EXTENSIONS if extension in flags)})"


def peak_mb() -> float:
    """Most memory that this process has had, in MB, all of it: interpreter, libraries, weights, activations."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
        # Not ru_maxrss, in which a process that was started by a larger one begins with that one's.
        return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) * 1024 / 1e6
    except (OSError, StopIteration):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6
