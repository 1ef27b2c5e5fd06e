import dataclasses
import importlib.util
import os
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from model.config import BackboneConfig, Category, KNetConfig

# Before torch is imported. Its threads wait for each other by spinning: where the processors are busy with other work,
# the many small operations of tiny networks take a hundred times as long with two threads as with one.
os.environ.setdefault("OMP_NUM_THREADS", "1")

PARITY = Path(__file__).parents[2] / "shared" / "parity"


def pytest_addoption(parser):
    parser.addoption(
        "--golden", type=Path, metavar="DIR", help="golden files of the official code; all of them run, large ones too"
    )


def pytest_configure(config):
    golden = config.getoption("--golden")
    if golden is not None and not golden.is_dir():
        raise pytest.UsageError(f"--golden {golden} is no folder")
    config.golden_folder = golden or PARITY / "golden"


def pytest_collection_modifyitems(config, items):
    """Networks of seconds and gigabytes run when they are asked for, so that the suite can run before every commit.

    `--golden` asks for all, and so does `-m slow`; CONTRIBUTING.md has the command.
    """
    if config.getoption("--golden") or "slow" in (config.getoption("-m") or ""):
        return
    skip = pytest.mark.skip(reason="large; run with: pytest -m slow")
    for item in items:
        if item.get_closest_marker("slow"):
            item.add_marker(skip)


@pytest.fixture(scope="session")
def categories() -> tuple[Category, ...]:
    """Two things, two stuff classes."""
    return (
        Category(id=3, name="cell", is_thing=True, colour=(200, 0, 0)),
        Category(id=1, name="dot", is_thing=True, colour=(0, 200, 0)),
        Category(id=7, name="ground", is_thing=False, colour=(0, 0, 200)),
        Category(id=9, name="glass", is_thing=False, colour=(90, 90, 90)),
    )


@pytest.fixture(scope="session")
def learned_config(categories) -> KNetConfig:
    """The paper's form, tiny: it runs in milliseconds. Mask stride 4."""
    return KNetConfig(
        categories=categories,
        backbone=BackboneConfig(name="test_efficientnet"),
        fpn_channels=16,
        channels=32,
        num_kernels=6,
        num_training_kernels=6,
        num_stages=2,
        num_heads=4,
        ffn_channels=32,
        canvas_sizes=(64, 64),
        output_stride=2,
    )


@pytest.fixture(scope="session")
def seeded_config(categories) -> KNetConfig:
    """The nuclei form, tiny. Mask stride 2."""
    return KNetConfig(
        categories=categories,
        backbone=BackboneConfig(name="test_efficientnet", levels=(0, 1, 2, 3, 4)),
        normalisation="image",
        fpn_channels=16,
        channels=16,
        feature_stride=2,
        mask_upsample=1,
        norm="batch",
        sine_encoding=False,
        first_kernels="seeded",
        num_kernels=12,
        num_training_kernels=8,
        num_stages=2,
        num_heads=2,
        ffn_channels=32,
        fixed_stuff_score=1.0,
        geometry="tile",
        canvas_sizes=(32, 64),
        tile_overlap=16,
        output_stride=2,
        overlap_threshold=0.5,
    )


@pytest.fixture(scope="session")
def instance_config(learned_config) -> KNetConfig:
    """The paper's instance form, tiny, in the geometry of the official configurations."""
    return dataclasses.replace(
        learned_config,
        kind="instance",
        categories=learned_config.categories[:2],
        padding_in_masks=True,
        max_instances=8,
        geometry="shortest_edge",
        canvas_sizes=(64, 128),
        output_stride=8,
    )


@pytest.fixture(scope="session")
def semantic_config(learned_config) -> KNetConfig:
    """The paper's semantic form, tiny: kernels of two parts on a UPerNet, with classes in any order."""
    return dataclasses.replace(
        learned_config,
        kind="semantic",
        categories=learned_config.categories[::-1],
        neck="uper",
        feature_stride=4,
        mask_upsample=1,
        norm="batch",
        dropout=0.1,
        auxiliary=True,
        num_kernels=0,
        num_training_kernels=0,
        update_channels=16,
        output_stride=2,
    )


@pytest.fixture(params=["learned", "seeded"])
def config(request, learned_config, seeded_config) -> KNetConfig:
    """Each of the two forms in turn."""
    return learned_config if request.param == "learned" else seeded_config


@pytest.fixture(scope="session")
def parity_folder(pytestconfig) -> Path:
    """Where the rule of the official weights and the tables of official tensors are: beside the golden files."""
    for folder in (pytestconfig.golden_folder, pytestconfig.golden_folder.parent, PARITY):
        if (folder / "weights.py").exists():
            return folder
    if pytestconfig.getoption("--golden"):
        pytest.fail(
            "the golden files need weights.py, targets.py and keys/ of the references, beside them or in " + str(PARITY)
        )
    pytest.skip(f"{PARITY} is not here: the official code's numbers are kept beside the repository")


@pytest.fixture(scope="session")
def official_weights(parity_folder, load_module) -> ModuleType:
    """The rule that makes the official code's weights from their names."""
    return load_module(parity_folder / "weights.py")


@pytest.fixture(scope="session")
def load_module() -> Callable[[Path], ModuleType]:
    """Loads a Python file that is in no package: test folders are none, so that their files have no names."""

    def load(path: Path) -> ModuleType:
        spec = importlib.util.spec_from_file_location(path.stem, path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    return load
