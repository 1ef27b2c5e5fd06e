"""What is to be known of the GPU before an engine is loaded; asked through cuda-python, which few machines have."""

import contextlib
import importlib
import importlib.util
import logging
import os
from dataclasses import dataclass
from functools import cache
from typing import Any

from service.errors import ArtifactError

logger = logging.getLogger("knet.gpu")

DEVICE = 0  # of those that CUDA_VISIBLE_DEVICES leaves


@dataclass(frozen=True)
class Gpu:
    """A GPU: its name as the driver has it, and its compute capability as `8.9`."""

    name: str
    compute_capability: str


def is_installed(module: str) -> bool:
    """Whether a module, with dots, can be imported; its packages are imported to find out."""
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # one of the packages around it is missing
        return False


def count_gpus() -> int:
    """GPUs that this process may use; 0 without one, its driver or cuda-python."""
    if not is_installed("cuda.bindings.runtime"):
        return 0
    runtime = load_cuda()
    status, count = runtime.cudaGetDeviceCount()
    return int(count) if status == runtime.cudaError_t.cudaSuccess else 0


def visible_name(number: int) -> str:
    """What CUDA_VISIBLE_DEVICES has to be for a process to see one GPU of those that this one sees."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    return str(number) if visible is None else visible.split(",")[number].strip()


def find_gpu() -> Gpu | None:
    """The GPU that engines run on; None without one, its driver or cuda-python."""
    if not count_gpus():
        return None
    runtime = load_cuda()
    status, properties = runtime.cudaGetDeviceProperties(DEVICE)
    if status != runtime.cudaError_t.cudaSuccess:
        return None
    return Gpu(properties.name.decode(), f"{properties.major}.{properties.minor}")


def memory_used() -> dict[str, float]:
    """Bytes in use on each GPU of the machine, by its number; empty without a GPU, its driver or cuda-python."""
    return {device: float(memory.used) for device, memory in _memory().items()}


def memory_total() -> dict[str, float]:
    """Bytes of each GPU of the machine, by its number; empty without a GPU, its driver or cuda-python."""
    return {device: float(memory.total) for device, memory in _memory().items()}


def _memory() -> dict[str, Any]:
    """Asked through NVML: the CUDA runtime would take hundreds of megabytes of the GPU for this process."""
    if (nvml := _load_nvml()) is None:
        return {}
    found = {}
    for index in range(nvml.device_get_count_v2()):
        with contextlib.suppress(nvml.NvmlError):  # one that shares the machine's memory has none of its own
            found[str(index)] = nvml.device_get_memory_info_v2(nvml.device_get_handle_by_index_v2(index))
    return found


@cache
def _load_nvml() -> Any:
    """NVML, initialised; None where it or its driver is missing, which is not asked again."""
    if not is_installed("cuda.bindings.nvml"):
        return None
    nvml = importlib.import_module("cuda.bindings.nvml")
    try:
        nvml.init_v2()
    except Exception as error:  # a missing library is a RuntimeError, a missing device NVML's own
        logger.debug("no GPU memory in the metrics: %s", error)
        return None
    return nvml


def load_cuda() -> Any:
    """CUDA's runtime API; untyped."""
    return importlib.import_module("cuda.bindings.runtime")


def call(function: Any, *arguments: Any) -> tuple[Any, ...]:
    """Results of a function of CUDA's runtime API, without its status.

    Raises:
        ArtifactError: the status is an error.
    """
    status, *results = function(*arguments)
    runtime = load_cuda()
    if status != runtime.cudaError_t.cudaSuccess:
        _, text = runtime.cudaGetErrorString(status)
        raise ArtifactError(f"CUDA: {function.__name__} failed: {text.decode()}")
    return tuple(results)
