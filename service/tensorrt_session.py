"""A TensorRT engine in this process.

The calls are those of TensorRT 10 and 11's Python API (IRuntime, ICudaEngine, IExecutionContext).
"""

import contextlib
import ctypes
import importlib
import math
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.errors import ArtifactError
from service.gpu import DEVICE, Gpu, call, find_gpu, is_installed, load_cuda
from service.session import Arrays

_AMPERE = 8.0  # compute capability from which on engines run that were built to be compatible


def find_obstacle(needs: Mapping[str, Any]) -> str | None:
    """Why an engine with these needs (`export.tensorrt_plan.needs_of`) cannot run here; None: nothing is in its way."""
    for module in ("tensorrt", "cuda.bindings.runtime"):
        if not is_installed(module):
            return f"{module} is not installed"
    gpu = find_gpu()
    if gpu is None:
        return "no CUDA device is found"
    try:
        version = importlib.import_module("tensorrt").__version__
    except (ImportError, OSError) as error:  # its Python package is there, its libraries are not
        return f"tensorrt cannot be imported: {error}"
    return compare_needs(needs, gpu, version)


def compare_needs(needs: Mapping[str, Any], gpu: Gpu, version: str) -> str | None:
    """Why an engine with these needs does not run on a GPU with a version of TensorRT; None: it does."""
    if needs.get("tensorrt") != version:
        return f"built with TensorRT {needs.get('tensorrt')}, here is {version}"
    if needs.get("hardware_compatible"):
        if float(gpu.compute_capability) < _AMPERE:
            return f"built for compute capability {_AMPERE} and above, here is {gpu.compute_capability} ({gpu.name})"
        return None
    built = Gpu(str(needs.get("gpu")), str(needs.get("compute_capability")))
    if built != gpu:
        return (
            f"built for {built.name} (compute capability {built.compute_capability}), "
            f"here is {gpu.name} ({gpu.compute_capability})"
        )
    return None


class TensorRtSession:
    """An engine; inputs that it does not have are left out. Memory for the largest shapes is taken once.

    Raises:
        ArtifactError: TensorRT cannot load the engine, or CUDA fails.
    """

    runs_at_once = 1  # one execution context and its buffers

    def __init__(self, path: Path | str) -> None:
        trt = importlib.import_module("tensorrt")
        cuda = load_cuda()
        call(cuda.cudaSetDevice, DEVICE)
        release = contextlib.ExitStack()
        weakref.finalize(self, release.close)
        logger = trt.Logger(trt.Logger.WARNING)
        trt.init_libnvinfer_plugins(logger, "")  # deformable convolutions are a plugin of the library
        self._runtime = trt.Runtime(logger)  # must outlive the engine
        self._engine = self._runtime.deserialize_cuda_engine(Path(path).read_bytes())
        if self._engine is None:
            raise ArtifactError(f"TensorRT {trt.__version__} cannot load {path}; its log says why: build it anew")
        self._context = self._engine.create_execution_context()
        if self._context is None:
            raise ArtifactError(f"TensorRT cannot run {path}: not enough memory on the GPU, most likely")
        (self._stream,) = call(cuda.cudaStreamCreate)
        release.callback(cuda.cudaStreamDestroy, self._stream)
        names = [self._engine.get_tensor_name(index) for index in range(self._engine.num_io_tensors)]
        modes = {name: self._engine.get_tensor_mode(name) for name in names}
        self._input_names = [name for name in names if modes[name] == trt.TensorIOMode.INPUT]
        self._output_names = [name for name in names if modes[name] == trt.TensorIOMode.OUTPUT]
        self._dtypes = {name: np.dtype(trt.nptype(self._engine.get_tensor_dtype(name))) for name in names}
        self._limits = [self._limits_of(index) for index in range(self._engine.num_optimization_profiles)]
        self._profile = -1
        self._buffers = {name: _Buffer(size, release) for name, size in self._largest_sizes().items()}

    def run(self, inputs: Arrays) -> dict[str, NDArray[Any]]:
        """Run the engine once; one run at a time.

        Raises:
            ArtifactError: no profile of the engine holds the shapes, or CUDA fails.
        """
        cuda = load_cuda()
        given = {name: np.ascontiguousarray(inputs[name], self._dtypes[name]) for name in self._input_names}
        self._prepare({name: array.shape for name, array in given.items()})
        for name, array in given.items():
            self._buffers[name].upload(array, self._stream)
        self._require(self._context.execute_async_v3(int(self._stream)), "run the engine")
        outputs = {}
        for name in self._output_names:
            shape = tuple(self._context.get_tensor_shape(name))
            outputs[name] = self._buffers[name].download(shape, self._dtypes[name], self._stream)
        call(cuda.cudaStreamSynchronize, self._stream)
        return {name: view.copy() for name, view in outputs.items()}  # the next run writes where the views look

    def crowd(self, pixels: int) -> float:
        """There is no second run."""
        return math.inf

    def _prepare(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        """Set profile, input shapes and addresses for the next run."""
        profile = self._find_profile(shapes)
        if profile != self._profile:
            self._select(profile)
        for name, shape in shapes.items():
            self._require(self._context.set_input_shape(name, shape), f"take {name} of shape {shape}")
        for name, buffer in self._buffers.items():
            self._require(self._context.set_tensor_address(name, buffer.device), f"take memory for {name}")

    def _find_profile(self, shapes: Mapping[str, tuple[int, ...]]) -> int:
        for index, limits in enumerate(self._limits):
            if all(_lies_within(shape, *limits[name]) for name, shape in shapes.items()):
                return index
        raise ArtifactError(f"the engine has no optimisation profile for {dict(shapes)}: build it anew")

    def _select(self, profile: int) -> None:
        self._require(self._context.set_optimization_profile_async(profile, int(self._stream)), "select a profile")
        call(load_cuda().cudaStreamSynchronize, self._stream)
        self._profile = profile

    def _limits_of(self, profile: int) -> dict[str, tuple[tuple[int, ...], tuple[int, ...]]]:
        """Smallest and largest shape of each input."""
        limits = {}
        for name in self._input_names:
            smallest, _, largest = self._engine.get_tensor_profile_shape(name, profile)
            limits[name] = (tuple(smallest), tuple(largest))
        return limits

    def _largest_sizes(self) -> dict[str, int]:
        """Bytes of each input and output, over all profiles."""
        sizes: dict[str, int] = {}
        for index, limits in enumerate(self._limits):
            self._select(index)
            for name, (_, largest) in limits.items():
                self._require(self._context.set_input_shape(name, largest), f"take {name} of shape {largest}")
            for name, dtype in self._dtypes.items():
                size = math.prod(self._context.get_tensor_shape(name)) * dtype.itemsize
                sizes[name] = max(sizes.get(name, 0), size)
        return sizes

    @staticmethod
    def _require(succeeded: bool, what: str) -> None:
        if not succeeded:
            raise ArtifactError(f"TensorRT cannot {what}; its log says why")


class _Buffer:
    """Memory for one tensor, on the device and, where copies can run while the host goes on, on the host."""

    def __init__(self, size: int, release: contextlib.ExitStack) -> None:
        cuda = load_cuda()
        (self.device,) = call(cuda.cudaMalloc, size)
        release.callback(cuda.cudaFree, self.device)
        (host,) = call(cuda.cudaMallocHost, size)
        release.callback(cuda.cudaFreeHost, host)
        self._host = np.ctypeslib.as_array(ctypes.cast(host, ctypes.POINTER(ctypes.c_uint8)), (size,))

    def upload(self, array: NDArray[Any], stream: Any) -> None:
        """Queue a copy of a contiguous array to the device."""
        cuda = load_cuda()
        self._host[: array.nbytes] = array.reshape(-1).view(np.uint8)
        kind = cuda.cudaMemcpyKind.cudaMemcpyHostToDevice
        call(cuda.cudaMemcpyAsync, self.device, self._host.ctypes.data, array.nbytes, kind, stream)

    def download(self, shape: tuple[int, ...], dtype: np.dtype[Any], stream: Any) -> NDArray[Any]:
        """Queue a copy to the host; the array given back is filled when the stream is done."""
        cuda = load_cuda()
        size = math.prod(shape) * dtype.itemsize
        kind = cuda.cudaMemcpyKind.cudaMemcpyDeviceToHost
        call(cuda.cudaMemcpyAsync, self._host.ctypes.data, self.device, size, kind, stream)
        return self._host[:size].view(dtype).reshape(shape)


def _lies_within(shape: tuple[int, ...], smallest: tuple[int, ...], largest: tuple[int, ...]) -> bool:
    return len(shape) == len(smallest) and all(
        low <= length <= high for low, length, high in zip(smallest, shape, largest, strict=True)
    )
