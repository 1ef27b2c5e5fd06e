import importlib.util
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from model.config import Category, KNetConfig

# Before torch is imported. Its threads wait for each other by spinning: where the processors are busy with other work,
# the many small operations of tiny networks take a hundred times as long with two threads as with one.
os.environ.setdefault("OMP_NUM_THREADS", "1")

PARITY = Path(__file__).parents[2] / "shared" / "parity"


def pytest_addoption(parser):
    parser.addoption(
        "--golden", type=Path, metavar="DIR", help="golden files of the official code; all of them run, large ones too"
    )


def pytest_configure(config):
    # A shell starts what runs in its background with Ctrl-C ignored; so would be what the tests start and interrupt.
    signal.signal(signal.SIGINT, signal.default_int_handler)
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
    # Not left out of the collection, so that the summary says how many there are and how to run them.
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
def tiny(load_module) -> ModuleType:
    """Writes tiny artifacts."""
    return load_module(Path(__file__).with_name("service") / "tiny_artifact.py")


@pytest.fixture(scope="session")
def tiny_networks(load_module) -> ModuleType:
    """The forms of K-Net, tiny."""
    return load_module(Path(__file__).with_name("tiny_networks.py"))


@pytest.fixture(scope="session")
def learned_config(tiny_networks, categories) -> KNetConfig:
    """See `tiny_networks.learned`."""
    return tiny_networks.learned(categories)


@pytest.fixture(scope="session")
def seeded_config(tiny_networks, categories) -> KNetConfig:
    """See `tiny_networks.seeded`."""
    return tiny_networks.seeded(categories)


@pytest.fixture(scope="session")
def instance_config(tiny_networks, categories) -> KNetConfig:
    """See `tiny_networks.instance`."""
    return tiny_networks.instance(categories)


@pytest.fixture(scope="session")
def semantic_config(tiny_networks, categories) -> KNetConfig:
    """See `tiny_networks.semantic`."""
    return tiny_networks.semantic(categories)


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
def chromium() -> str:
    """Path of a browser."""
    for name in ("chromium", "chromium-browser", "google-chrome"):
        if path := shutil.which(name):
            return path
    pytest.skip("Chromium is not installed (Debian: apt-get install chromium)")


@pytest.fixture(scope="session")
def load_module() -> Callable[[Path], ModuleType]:
    """Loads a Python file that is in no package: test folders are none, so that their files have no names."""

    def load(path: Path) -> ModuleType:
        spec = importlib.util.spec_from_file_location(path.stem, path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    return load
