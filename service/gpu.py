"""What is to be known of the GPU before an engine is loaded; asked through cuda-python, which few machines have."""

import importlib
import importlib.util
import os
from dataclasses import dataclass
from typing import Any

from service.errors import ArtifactError

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
