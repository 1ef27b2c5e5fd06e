"""What needs TensorRT and an NVIDIA GPU. On a machine with both, a few minutes:

    pip install tensorrt cuda-python
    pytest tests/gpu

Engines of the bundled nuclei model are built and must answer as ONNX Runtime does.
"""

import shlex
import shutil
import subprocess
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from rich.console import Console

from export.tensorrt_engine import build_engine
from export.tensorrt_plan import EngineOptions, dry_run
from export.verify import compare
from service import artifact
from service.gpu import find_gpu, is_installed
from service.image import decode
from service.onnxruntime_providers import cuda_provider, tensorrt_provider
from service.profiles import input_shapes, make_profiles
from service.segmenter import Segmenter
from service.session import OnnxSession
from service.variants import choose_variant, open_session

ROOT = Path(__file__).parents[2]
ARTIFACT = ROOT / "repository" / "nuclei" / "4"


def lacking() -> str | None:
    """Why nothing here can run."""
    for module in ("tensorrt", "cuda.bindings.runtime"):
        if not is_installed(module):
            return f"{module} is not installed"
    return None if find_gpu() else "no CUDA device is found"


pytestmark = [pytest.mark.gpu, pytest.mark.skipif(lacking() is not None, reason=str(lacking()))]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A copy of the artifact, to build into."""
    return Path(shutil.copytree(ARTIFACT, tmp_path_factory.mktemp("repository") / "nuclei" / "4"))


@pytest.fixture(scope="module")
def image():
    return decode((ROOT / "examples" / "nuclei.png").read_bytes())


@pytest.fixture(scope="module", params=["fp32", "fp16"])
def built(request, folder):
    """Metadata with an engine of each precision as its first variant."""
    metadata = artifact.load(folder)
    options = EngineOptions(precision=request.param, timing_cache=folder / "timing.cache")
    variant = build_engine(folder, metadata, options, console=Console())
    return metadata.model_copy(update={"variants": (variant, *metadata.variants)})


def test_an_engine_answers_as_onnxruntime(built, folder, image):
    variant = choose_variant(built)
    assert variant.runtime == "tensorrt"
    artifact.verify_files(folder, built)
    candidate = Segmenter(built, open_session(folder, variant))
    comparison = compare(Segmenter(built, OnnxSession(folder / "model.onnx")), candidate, [image, image[:200, :150]])
    assert comparison.segments > 100
    # fp16 on a CPU: 3 of 65536 pixels differ, and no score by more than 6e-4.
    assert comparison.pixel_difference < (1e-3 if variant.precision == "fp32" else 1e-2)
    assert comparison.largest_score_difference < (1e-2 if variant.precision == "fp32" else 5e-2)


def test_every_profile_runs_and_canvases_do_not_depend_on_their_neighbours(built, folder):
    session = open_session(folder, built.variants[0])
    rng = np.random.default_rng(0)
    for profile in make_profiles(built.geometry):
        size = profile.common
        shapes = input_shapes(built, profile.batch, size)
        inputs = {name: np.full(shape, 0.5, np.float32) for name, shape in shapes.items()}
        inputs["image"] = rng.integers(0, 256, shapes["image"], dtype=np.uint8)
        inputs["valid_size"] = np.array([size] * profile.batch, np.int32)
        inputs["pixel_mean"] = np.full(profile.batch, 127.5, np.float32)
        inputs["pixel_std"] = np.full(profile.batch, 73.9, np.float32)
        together = session.run(inputs)
        for index in range(profile.batch):
            alone = session.run({name: value[index : index + 1] for name, value in inputs.items()})
            assert (together["id_map"][index] != alone["id_map"][0]).mean() < 0.02  # other kernels, other last bits


def test_a_second_build_knows_the_timings(built, folder):
    assert (folder / "timing.cache").stat().st_size > 0


def test_an_engine_for_all_gpus_runs(folder, image):
    metadata = artifact.load(folder)
    variant = build_engine(folder, metadata, EngineOptions(hardware_compatible=True), console=Console())
    changed = metadata.model_copy(update={"variants": (variant,)})
    assert Segmenter(metadata, open_session(folder, choose_variant(changed))).segment(image).segments


@pytest.mark.parametrize("tool", ["trtexec", "polygraphy"])
def test_the_tools_take_the_printed_command(tool, folder):
    if shutil.which(tool) is None:
        pytest.skip(f"{tool} is not installed")
    (line,) = (line for line in dry_run(folder, artifact.load(folder), EngineOptions()) if line.startswith(tool))
    subprocess.run(shlex.split(line), check=True)


def test_onnxruntime_takes_the_provider_options(folder, image, tmp_path):
    if "TensorrtExecutionProvider" not in onnxruntime.get_available_providers():
        pytest.skip("this ONNX Runtime has no TensorRT provider")
    metadata = artifact.load(folder)
    dry_run(folder, metadata, EngineOptions(precision="fp32"))  # for the graph that it writes
    session = onnxruntime.InferenceSession(
        str(folder / "model.fp32.tensorrt.onnx"),
        providers=[
            tensorrt_provider(metadata, precision="fp32", cache=tmp_path),
            cuda_provider(precision="fp32"),
        ],
    )
    shapes = input_shapes(metadata, 1, (256, 256))
    inputs = {name: np.full(shape, 0.5, np.float32) for name, shape in shapes.items()}
    inputs["image"] = np.ascontiguousarray(image[None, :256, :256])
    inputs["valid_size"] = np.array([(256, 256)], np.int32)
    inputs["pixel_mean"], inputs["pixel_std"] = np.full(1, 60.0, np.float32), np.full(1, 50.0, np.float32)
    expected = OnnxSession(folder / "model.onnx").run(inputs)
    (id_map, *_) = session.run(["id_map"], inputs)
    assert (id_map != expected["id_map"]).mean() < 0.01
