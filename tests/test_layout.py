"""The packages are ours, and the light parts stay light."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.parametrize("package", ["knet", "export", "training", "batch", "service", "model"])
def test_package_is_that_of_this_checkout(package: str) -> None:
    found = __import__(package).__path__
    assert [Path(path).resolve() for path in found] == [ROOT / package]


@pytest.mark.parametrize(
    "module", ["service.app", "service.segmenter", "service.server", "batch.job", "knet.client", "knet.segment"]
)
def test_serving_and_client_do_without_torch(module: str) -> None:
    heavy = {"torch", "timm", "onnx", "scipy"}
    code = f"import sys, {module}; print(sorted({heavy} & set(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_help_imports_nothing_heavy() -> None:
    heavy = {"torch", "onnxruntime", "cv2", "fastapi"}
    code = (
        "import sys, contextlib, typer.testing; from knet.cli import app\n"
        "result = typer.testing.CliRunner().invoke(app, ['train', '--help'])\n"
        f"print(result.exit_code, sorted({heavy} & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert result.stdout.split("\n")[0] == "0 []"
