from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture(scope="session")
def by_hand(load_module) -> ModuleType:
    """Makes predictions and annotations from small maps and masks."""
    return load_module(Path(__file__).with_name("by_hand.py"))


@pytest.fixture(scope="session")
def cases(load_module) -> ModuleType:
    """Targets and outputs for the losses."""
    return load_module(Path(__file__).with_name("criterion_cases.py"))


@pytest.fixture(scope="session")
def files(load_module):
    """Writes small image and label files."""
    return load_module(Path(__file__).with_name("label_files.py"))


@pytest.fixture(scope="session")
def tiny_run(load_module):
    """Makes and runs trainings of seconds."""
    return load_module(Path(__file__).with_name("tiny_run.py"))


@pytest.fixture(scope="session")
def discs(tmp_path_factory, tiny_run):
    """Folder of a COCO panoptic set of four small images."""
    return tiny_run.write_discs(tmp_path_factory.mktemp("discs"))
