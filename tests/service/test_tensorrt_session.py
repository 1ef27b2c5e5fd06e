"""Everything around the library; fakes stand for it and for CUDA, whose device memory is host memory here."""

import ctypes
import logging
import re
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from service.artifact import Variant
from service.errors import ArtifactError
from service.gpu import Gpu
from service.tensorrt_session import TensorRtSession, compare_needs, find_obstacle
from service.variants import choose_variant

NEEDS = {"tensorrt": "11.1.0.1", "gpu": "L4", "compute_capability": "8.9", "hardware_compatible": False}


@pytest.mark.parametrize(
    ("gpu", "version", "changes", "reason"),
    [
        (Gpu("L4", "8.9"), "11.1.0.1", {}, None),
        (Gpu("L4", "8.9"), "11.2.0.1", {}, r"built with TensorRT 11\.1\.0\.1, here is 11\.2\.0\.1"),
        (Gpu("L40", "8.9"), "11.1.0.1", {}, r"built for L4 \(compute capability 8\.9\), here is L40"),
        (Gpu("H100", "9.0"), "11.1.0.1", {"hardware_compatible": True}, None),
        (Gpu("B200", "10.0"), "11.1.0.1", {"hardware_compatible": True}, None),
        (Gpu("T4", "7.5"), "11.1.0.1", {"hardware_compatible": True}, r"8\.0 and above, here is 7\.5 \(T4\)"),
    ],
)
def test_an_engine_needs_its_gpu_and_version(gpu, version, changes, reason):
    found = compare_needs(NEEDS | changes, gpu, version)
    if reason is None:
        assert found is None
    else:
        assert re.search(reason, found)


def test_a_machine_without_the_library_takes_the_next_variant(tiny, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr("service.tensorrt_session.is_installed", lambda module: True)
    monkeypatch.setattr("service.tensorrt_session.find_gpu", lambda: None)
    monkeypatch.setattr("service.variants.importlib.util.find_spec", lambda name: object())
    metadata = tiny.write_artifact(tmp_path)
    engine = Variant(runtime="tensorrt", precision="fp16", file="model.engine", sha256="0" * 64, needs=NEEDS)
    both = metadata.model_copy(update={"variants": (engine, *metadata.variants)})
    # A server that another test started may have set up the project's loggers, and turned off those that it found.
    logger = logging.getLogger("knet.variants")
    monkeypatch.setattr(logger, "disabled", False)
    caplog.set_level(logging.WARNING, logger=logger.name)
    logger.addHandler(caplog.handler)
    try:
        assert choose_variant(both) == metadata.variants[0]
    finally:
        logger.removeHandler(caplog.handler)
    assert set(caplog.messages) == {"tiny/1: passed over tensorrt-fp16: no CUDA device is found"}


def test_what_is_missing_is_named(monkeypatch):
    monkeypatch.setattr("service.tensorrt_session.is_installed", lambda module: module == "tensorrt")
    assert find_obstacle(NEEDS) == "cuda.bindings.runtime is not installed"


class FakeCuda:
    """Counts what is allocated; copies run at once."""

    cudaError_t = SimpleNamespace(cudaSuccess=0)  # noqa: N815
    cudaMemcpyKind = SimpleNamespace(cudaMemcpyHostToDevice=1, cudaMemcpyDeviceToHost=2)  # noqa: N815

    def __init__(self):
        self.memory = {}

    def cudaSetDevice(self, device):  # noqa: N802
        return (0,)

    def cudaStreamCreate(self):  # noqa: N802
        return 0, 7

    def cudaStreamDestroy(self, stream):  # noqa: N802
        return (0,)

    def cudaStreamSynchronize(self, stream):  # noqa: N802
        return (0,)

    def cudaMalloc(self, size):  # noqa: N802
        block = ctypes.create_string_buffer(size)
        self.memory[ctypes.addressof(block)] = block
        return 0, ctypes.addressof(block)

    def cudaFree(self, address):  # noqa: N802
        del self.memory[address]
        return (0,)

    cudaMallocHost = cudaMalloc  # noqa: N815
    cudaFreeHost = cudaFree  # noqa: N815

    def cudaMemcpyAsync(self, to, source, size, kind, stream):  # noqa: N802
        ctypes.memmove(to, source, size)
        return (0,)


class FakeEngine:
    """`doubled` int32 (B, 4) of `image` uint8 (B, 4), in profiles for batches of 1 and of 2 to 3."""

    num_io_tensors, num_optimization_profiles = 2, 2

    def get_tensor_name(self, index):
        return ("image", "doubled")[index]

    def get_tensor_mode(self, name):
        return "input" if name == "image" else "output"

    def get_tensor_dtype(self, name):
        return np.uint8 if name == "image" else np.int32

    def get_tensor_profile_shape(self, name, index):
        return [((1, 4), (1, 4), (1, 4)), ((2, 4), (2, 4), (3, 4))][index]

    def create_execution_context(self):
        return FakeContext()


class FakeContext:
    def __init__(self):
        self.addresses = {}
        self.profiles = []

    def set_optimization_profile_async(self, index, stream):
        self.profiles.append(index)
        return True

    def set_input_shape(self, name, shape):
        self.shape = shape
        return True

    def get_tensor_shape(self, name):
        return self.shape

    def set_tensor_address(self, name, address):
        self.addresses[name] = address
        return True

    def execute_async_v3(self, stream):
        size = int(np.prod(self.shape))
        image = np.frombuffer(ctypes.string_at(self.addresses["image"], size), np.uint8)
        doubled = image.astype(np.int32) * 2
        ctypes.memmove(self.addresses["doubled"], doubled.ctypes.data, doubled.nbytes)
        return True


class FakeLogger:
    WARNING = 1

    def __init__(self, severity):
        pass


@pytest.fixture
def cuda(monkeypatch):
    cuda = FakeCuda()
    runtime = SimpleNamespace(deserialize_cuda_engine=lambda data: FakeEngine() if data == b"engine" else None)
    trt = SimpleNamespace(
        __version__="0",
        Runtime=lambda logger: runtime,
        TensorIOMode=SimpleNamespace(INPUT="input", OUTPUT="output"),
        init_libnvinfer_plugins=lambda logger, namespace: True,
        nptype=lambda dtype: dtype,
        Logger=FakeLogger,
    )
    monkeypatch.setitem(sys.modules, "tensorrt", trt)
    monkeypatch.setattr("service.tensorrt_session.load_cuda", lambda: cuda)
    monkeypatch.setattr("service.gpu.load_cuda", lambda: cuda)
    return cuda


def test_runs_reuse_the_memory_of_the_largest_shape(cuda, tmp_path):
    (tmp_path / "engine").write_bytes(b"engine")
    session = TensorRtSession(tmp_path / "engine")
    blocks = dict(cuda.memory)
    assert sorted(len(block) for block in blocks.values()) == [12, 12, 48, 48]  # device and host
    images = [np.arange(batch * 4, dtype=np.uint8).reshape(batch, 4) for batch in (1, 3, 2, 1)]
    outputs = [session.run({"image": image, "valid_size": image}) for image in images]
    for image, output in zip(images, outputs, strict=True):  # after all runs: no run changes an earlier answer
        np.testing.assert_array_equal(output["doubled"], image.astype(np.int32) * 2)
    assert cuda.memory == blocks
    assert session._context.profiles == [0, 1, 0, 1, 0]  # two to measure; then only when it changes
    del session
    assert cuda.memory == {}


def test_shapes_without_a_profile_are_refused(cuda, tmp_path):
    (tmp_path / "engine").write_bytes(b"engine")
    with pytest.raises(ArtifactError, match=r"no optimisation profile for \{'image': \(4, 4\)\}"):
        TensorRtSession(tmp_path / "engine").run({"image": np.zeros((4, 4), np.uint8)})


def test_a_damaged_engine_is_refused(cuda, tmp_path):
    (tmp_path / "engine").write_bytes(b"x")
    with pytest.raises(ArtifactError, match="cannot load"):
        TensorRtSession(tmp_path / "engine")
