"""Golden files of the official code, found by their names.

`pytest tests/parity --golden DIR` takes DIR instead of the numbers kept beside the repository, and ends with a table of
differences. File names say what they
hold: CONFIG__INPUT.npz (forward), train__CONFIG[__CASE].json, .npz and __grads.tsv (training), components.npz.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from export.official_names import to_ours
from model.knet import KNet
from model.official import OFFICIAL

# float64 on both sides; golden arrays are stored as float32.
TOLERANCE = 1e-6
# Names of golden files: the configuration, and the input or case.
PATTERNS = {
    "detection": r"(knet_s3_.*_coco(?:-panoptic)?)__(\w+)\.npz",
    "instance": r"(knet_s3_.*_coco)__(\w+)\.npz",
    "panoptic": r"(knet_s3_.*_coco-panoptic)__(\w+)\.npz",
    "semantic": r"(knet_s3_.*_ade20k)__(\w+)\.npz",
    "detection step": r"train__(knet_s3_.*_coco(?:-panoptic)?)__(\w+)\.json",
    "semantic step": r"train__(knet_s3_.*_ade20k)()\.json",
    "components": r"(components)()\.npz",
}
# Read beside the JSON of a training step.
BESIDE = ("{stem}.npz", "{stem}__grads.tsv")
LARGE = re.compile("swin-l|deeplabv3|pspnet")
ROWS = pytest.StashKey[list]()


@dataclass
class Differences:
    """Compares arrays of one golden file and remembers how far apart they are."""

    configuration: str
    case: str
    rows: list
    tolerance: float = TOLERANCE
    failures: list[str] = field(default_factory=list)

    def compare(self, name: str, ours, golden, scale: float | None = None) -> None:
        """Largest absolute difference over the golden array's largest value (or `scale`), at most the tolerance."""
        ours = ours.detach().numpy() if isinstance(ours, torch.Tensor) else np.asarray(ours)
        if ours.size == golden.size == 0:
            self._note(name, "equal", True)
        elif ours.shape != golden.shape:
            self._note(name, f"shape {ours.shape}, not {golden.shape}", False)
        elif golden.dtype.kind in "iub":
            share = float((ours != golden).mean()) if golden.size else 0.0
            self._note(name, "equal" if share == 0 else f"{share:.2%} differ", share == 0)
        else:
            largest = np.abs(ours - golden.astype(np.float64)).max() if golden.size else 0.0
            relative = largest / max(np.abs(golden).max() if scale is None else scale, 1e-30)
            self._note(name, f"{relative:.1e}", bool(relative <= self.tolerance))

    def compare_pixels(self, name: str, ours, golden, allowed: float) -> None:
        """The share of pixels that differ, at most `allowed`."""
        share = float((ours != golden).mean()) if ours.shape == golden.shape else 1.0
        self._note(name, f"{share:.1e} of the pixels", share <= allowed)

    def compare_loss(self, name: str, ours: float, golden: float) -> None:
        """|ours - golden| over max(|ours|, 1e-6)."""
        relative = abs(ours - golden) / max(abs(ours), 1e-6)
        self._note(name, f"{relative:.1e}", relative <= self.tolerance)

    def fail(self, name: str, why: str) -> None:
        self._note(name, why, False)

    def _note(self, name: str, text: str, passed: bool) -> None:
        self.rows.append((self.configuration, self.case, name, text if passed else f"{text}  FAILED"))
        if not passed:
            self.failures.append(f"{name}: {text}")

    def require(self) -> None:
        assert not self.failures, f"{self.configuration} {self.case}: " + "; ".join(self.failures)


@dataclass(frozen=True)
class Golden:
    """One golden file: its configuration, and its input or case."""

    path: Path
    configuration: str
    case: str


def pytest_configure(config):
    config.stash[ROWS] = []
    config.addinivalue_line("markers", "golden(kind): runs once for each golden file of a kind of PATTERNS")


def pytest_terminal_summary(terminalreporter, config):
    rows = config.stash.get(ROWS, [])
    if not rows or not config.getoption("--golden"):
        return
    rows = [("configuration", "input or case", "array", "largest relative difference"), *rows]
    widths = [max(len(row[i]) for row in rows) for i in range(3)]
    terminalreporter.section("parity with the official code")
    for row in rows:
        terminalreporter.write_line("  ".join([*(cell.ljust(w) for cell, w in zip(row, widths, strict=False)), row[3]]))


def found(config, pattern: str) -> list[Golden]:
    """Golden files whose whole name matches; groups are the configuration and the case."""
    folder = config.golden_folder
    matches = ((path, re.fullmatch(pattern, path.name)) for path in sorted(folder.glob("*")))
    return [Golden(path, m[1], m[2] or "") for path, m in matches if m]


def pytest_generate_tests(metafunc):
    """Tests marked golden(KIND) run once for each file of that kind."""
    marker = metafunc.definition.get_closest_marker("golden")
    if marker is None:
        return
    pattern = PATTERNS[marker.args[0]]
    files = found(metafunc.config, pattern)
    parameters = [
        pytest.param(
            one,
            id=f"{one.configuration}-{one.case}".strip("-"),
            marks=[pytest.mark.slow] if LARGE.search(one.configuration) else [],
        )
        for one in files
    ]
    if not parameters:
        # Not every folder has files of every kind. That a folder that is named has some is tested in test_discovery.py.
        reason = f"no golden file in {metafunc.config.golden_folder} has a name like {pattern}"
        parameters = [pytest.param(None, marks=pytest.mark.skip(reason=reason), id="none")]
    metafunc.parametrize("golden", parameters)


@pytest.fixture(scope="session")
def tools(load_module) -> ModuleType:
    """What the parity tests share."""
    return load_module(Path(__file__).with_name("tools.py"))


@pytest.fixture(scope="session")
def unread() -> Callable[[Path], list[str]]:
    """Names of the files of a folder that look like golden ones and that no test reads."""
    return unread_files


@pytest.fixture
def differences(golden, request) -> Differences:
    return Differences(golden.configuration, golden.case, request.config.stash[ROWS])


@pytest.fixture
def arrays(golden) -> dict[str, np.ndarray]:
    with np.load(golden.path) as file:
        return {name: file[name] for name in file}


@pytest.fixture
def official_state(golden, official_weights: ModuleType, parity_folder: Path) -> dict[str, torch.Tensor]:
    """The rule's weights under the official names."""
    assert golden.configuration in OFFICIAL, f"{golden.path.name}: {golden.configuration} is no official configuration"
    table = official_weights.read_keys(parity_folder / "keys" / f"{golden.configuration}.tsv")
    return {name: torch.from_numpy(value) for name, value in official_weights.make_state(table).items()}


@pytest.fixture
def network(golden, official_state) -> KNet:
    """The configuration in float64, with the rule's weights, loaded as the importer does; nothing is dropped out."""
    config = OFFICIAL[golden.configuration]()
    network = KNet(config)
    network.load_state_dict(to_ours(official_state, config), strict=True)
    for module in network.modules():
        if isinstance(module, torch.nn.Dropout2d):
            module.p = 0.0
        if hasattr(module, "drop_prob"):
            module.drop_prob = 0.0
    return network.double().eval()


def unread_files(folder: Path) -> list[str]:
    names = {path.name for path in folder.glob("*") if path.suffix in (".npz", ".json", ".tsv")}
    read = {name for name in names if any(re.fullmatch(pattern, name) for pattern in PATTERNS.values())}
    steps = [name.removesuffix(".json") for name in read if name.endswith(".json")]
    return sorted(names - read - {form.format(stem=stem) for stem in steps for form in BESIDE})
