import shlex
from pathlib import Path
from types import SimpleNamespace

import onnx
import pytest
from rich.console import Console
from rich.progress import Progress

from export.errors import ExportError
from export.tensorrt_engine import _make_monitor, build_engine
from export.tensorrt_plan import EngineOptions, dry_run, load_graph, needs_of
from service import artifact
from service.artifact import Variant
from service.gpu import Gpu
from service.tensorrt_session import compare_needs


@pytest.fixture
def stored(exported, tmp_path):
    """A copy of an artifact's folder, and its metadata; canvases of 64 pixels."""
    folder = exported["learned"].folder
    (tmp_path / "model.onnx").write_bytes((folder / "model.onnx").read_bytes())
    geometry = artifact.Geometry(mode="tile", sizes=(64, 128), overlap=16)
    return tmp_path, artifact.load(folder).model_copy(update={"geometry": geometry})


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"precision": "bf16"}, "precision is 'bf16'; legal: fp32, fp16, int8"),
        ({"workspace_gb": 0}, "workspace_gb is 0; legal: above 0"),
        ({"workspace_gb": float("nan")}, "workspace_gb is nan"),
    ],
)
def test_options_are_checked(values, message):
    with pytest.raises(ValueError, match=message):
        EngineOptions(**values)


def test_an_engine_runs_where_it_was_built(stored):
    folder, metadata = stored
    gpu, options = Gpu("L4", "8.9"), EngineOptions(precision="fp16")
    needs = needs_of(folder, metadata, options, gpu, "11.1.0.1")
    assert compare_needs(needs, gpu, "11.1.0.1") is None
    assert needs["source"] == {"file": "model.onnx", "sha256": metadata.variants[0].sha256}
    assert needs["profiles"][0]["max"]["image"] == [1, 128, 128, 3]
    assert len(needs["profiles"]) == 4
    variant = Variant(runtime="tensorrt", precision="fp16", file="model.fp16.engine", sha256="0" * 64, needs=needs)
    assert Variant.model_validate_json(variant.model_dump_json()) == variant


def test_both_tools_are_told_the_same(stored):
    folder, metadata = stored
    options = EngineOptions(
        precision="fp32", workspace_gb=1.5, hardware_compatible=True, timing_cache=folder / "times cache"
    )
    lines = dry_run(folder, metadata, options)
    trtexec, polygraphy = (shlex.split(line) for line in lines)
    graph = folder / "model.fp32.tensorrt.onnx"
    onnx.checker.check_model(str(graph), full_check=True)
    assert trtexec[:3] == ["trtexec", f"--onnx={graph}", f"--saveEngine={folder / 'model.fp32.engine'}"]
    assert trtexec.count("--profile=3") == 1
    thresholds = "score_threshold:4,overlap_threshold:4"
    assert f"--maxShapes=image:4x128x128x3,valid_size:4x2,{thresholds}" in trtexec
    assert {"--memPoolSize=workspace:1536M", "--noTF32", "--hardwareCompatibilityLevel=ampere+"} <= set(trtexec)
    assert f"--timingCacheFile={folder / 'times cache'}" in trtexec
    assert polygraphy[:3] == ["polygraphy", "convert", str(graph)]
    assert polygraphy.count("--trt-max-shapes") == 4
    assert "image:[4,128,128,3]" in polygraphy
    assert polygraphy[polygraphy.index("--pool-limit") + 1] == f"workspace:{1536 * 2**20}"
    assert "--tf32" not in polygraphy
    assert "--tf32" in shlex.split(dry_run(folder, metadata, EngineOptions())[1])


def test_a_missing_graph_is_named(stored):
    with pytest.raises(ExportError, match=r"model\.int8\.onnx is not there; precision int8 is built from it"):
        load_graph(stored[0], EngineOptions(precision="int8"))


@pytest.mark.parametrize(
    ("missing", "message"),
    [
        ("tensorrt", "needs tensorrt, which is not installed: pip install tensorrt cuda-python"),
        ("cuda.bindings.runtime", "needs cuda-python, which is not installed"),
        (None, "needs an NVIDIA GPU with its driver; none is found"),
    ],
)
def test_what_a_build_lacks_is_said(stored, monkeypatch, missing, message):
    monkeypatch.setattr("export.tensorrt_engine.is_installed", lambda module: module != missing)
    monkeypatch.setattr("export.tensorrt_engine.find_gpu", lambda: None)
    with pytest.raises(ExportError, match=message):
        build_engine(*stored, EngineOptions(), console=Console())
    assert [path.name for path in Path(stored[0]).iterdir()] == ["model.onnx"]


def test_each_phase_of_a_build_has_a_bar():
    progress = Progress(console=Console(quiet=True))
    monitor = _make_monitor(SimpleNamespace(IProgressMonitor=object), progress)
    monitor.phase_start("build", None, 4)
    monitor.phase_start("time", "build", 10)
    assert monitor.step_complete("time", 6)
    assert [(task.description, task.completed, task.total) for task in progress.tasks] == [
        ("build", 0, 4),
        ("time", 7, 10),
    ]
    monitor.phase_finish("time")
    assert [task.description for task in progress.tasks] == ["build"]
