"""What the shell gets when somebody presses tab."""

import os
import subprocess
import sys

import pytest

from knet.completion import RECIPES
from training.choose import RECIPES as ALL_RECIPES


@pytest.fixture
def complete(nuclei_repository):
    """Completions of a line, of which the last word may be empty."""

    def call(line: str, **variables: str) -> list[str]:
        words = line.split(" ")
        variables = {
            "_KNET_COMPLETE": "complete_bash",
            "COMP_WORDS": line,
            "COMP_CWORD": str(len(words) - 1),
            **variables,
        }
        code = "from knet.cli import app; app(prog_name='knet')"
        done = subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "KNET_REPOSITORY": str(nuclei_repository), **variables},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.stderr == ""
        return done.stdout.split()

    return call


def test_commands_and_options(complete):
    assert complete("knet be") == ["bench"]
    assert complete("knet segment --score") == ["--score-threshold"]
    assert complete("knet train --acc") == ["--accelerator"]


def test_models_versions_and_variants_of_the_repository(complete, tiny, tmp_path):
    for command in ("segment", "bench", "batch"):
        assert complete(f"knet {command} --model ") == ["nuclei"]
        assert complete(f"knet {command} --model nuclei --version ") == ["1", "2"]
    assert complete("knet bench --variant o") == ["onnxruntime-fp32"]
    tiny.write_artifact(tmp_path, name="mine")
    assert complete(f"knet bench --repository {tmp_path} --model ") == ["mine"]
    assert complete(f"knet bundle {tmp_path}/mine/1 --variant ") == ["onnxruntime-fp32"]
    assert complete(f"knet segment --repository {tmp_path}/nowhere --model ") == []


def test_a_damaged_artifact_is_no_trouble(complete, tiny, tmp_path):
    tiny.write_artifact(tmp_path)
    (tmp_path / "tiny" / "1" / "artifact.json").write_text("{")
    assert complete(f"knet bench --repository {tmp_path} --variant ") == []


def test_settings_of_the_server(complete):
    assert complete("knet serve --max-q") == ["--max-queue", "--max-queue-per-client"]
    assert complete("knet serve --log-level w") == ["warning"]


def test_recipes_tasks_and_formats(complete):
    assert complete("knet train small_") == ["small_instance", "small_panoptic", "small_semantic"]
    assert complete("knet segment --task s") == ["semantic"]
    assert complete("knet segment --format p") == ["polygon", "png"]
    assert set(RECIPES) == set(ALL_RECIPES)


def test_a_tab_loads_nothing_heavy():
    code = """
import os, sys
os.environ.update(_KNET_COMPLETE="complete_bash", COMP_WORDS="knet segment --model ", COMP_CWORD="3")
from knet.cli import app
try:
    app(prog_name="knet")
except SystemExit:
    print(sorted({"torch", "cv2", "fastapi", "onnxruntime", "numpy"} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip().endswith("[]")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_every_shell_has_a_script(shell):
    code = "from knet.cli import app; app(prog_name='knet')"
    environment = {**os.environ, "_KNET_COMPLETE": f"source_{shell}"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert "_KNET_COMPLETE=complete_" in done.stdout
