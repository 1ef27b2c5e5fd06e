"""`knet import`: a .pth file of the official K-Net code -> a checkpoint of ours that computes the same function."""

import json
import pickle
import re
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy._core import multiarray  # numpy names no public place for them
from torch import Tensor

from export.official_names import SwinNaming, expected_tensors, to_ours
from model.checkpoint import save
from model.config import KNetConfig
from model.knet import KNet
from model.official import OFFICIAL
from service.artifact import file_sha256

IMPORTED = "import.json"
NUM_SHOWN = 5  # differences of each sort in an error
# Types that the metadata of mmcv and mmengine may hold besides plain Python and tensors: numbers and arrays of numpy,
# under the names of numpy 1 and 2. Nothing else is unpickled.
_HARMLESS: list[Any] = [
    np.ndarray,
    np.dtype,
    *(type(np.dtype(kind)) for kind in ("f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "?")),
    *((multiarray.scalar, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")),
    *((multiarray._reconstruct, f"numpy.{core}.multiarray._reconstruct") for core in ("core", "_core")),
]


@dataclass(frozen=True)
class OfficialFile:
    """What a file holds."""

    state: dict[str, Tensor]
    meta: dict[str, Any]


@dataclass(frozen=True)
class Recognised:
    """Which configuration a file is of."""

    name: str
    swin: SwinNaming
    fitting: tuple[str, ...]  # all configurations with these names and shapes
    chosen_by: str  # how, in words
    unused: dict[str, str]  # tensors that are not used, each with the reason


def import_official(path: Path, out: Path, configuration: str | None = None) -> Recognised:
    """Write the checkpoint `out` of the official file `path`; beside it `import.json`, which says where it is from.

    Args:
        configuration: name of the official configuration, where several have the same tensors.

    Raises:
        ValueError: not such a file, a configuration that does not fit, or none that does; `out` is left as it was.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"{out} exists and is not empty; name a new folder")
    file = read_official(path)
    recognised = recognise(file, configuration)
    config = OFFICIAL[recognised.name]()
    network = KNet(config)
    network.load_state_dict(to_ours(file.state, config, recognised.swin), strict=True)
    origin = {"file": path.name, "sha256": file_sha256(path), **asdict(recognised)}
    out.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    try:
        (work / IMPORTED).write_text(json.dumps(origin, indent=2) + "\n")
        save(network, work)
        work.chmod(0o755)  # mkdtemp's folders are private
        work.rename(out)
    except BaseException:
        shutil.rmtree(work, ignore_errors=True)
        raise
    return recognised


def read_official(path: Path) -> OfficialFile:
    """Unpickle tensors and plain metadata alone: nothing in the file is executed.

    Takes mmcv's wrapping (`state_dict`, `meta`) or a bare state dict, and drops a `module.` before every name.

    Raises:
        ValueError: the file cannot be read, holds other types, or no state dict.
    """
    try:
        with torch.serialization.safe_globals(_HARMLESS):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, OSError, EOFError, LookupError, ValueError, TypeError) as error:
        if unknown := re.search(r"GLOBAL ([\w.]+)", str(error)):
            raise ValueError(
                f"{path} holds an object of type {unknown[1]}; only tensors, numbers, text and arrays are read, "
                "so that a file cannot run code. Load it where you trust it and save its state dict alone"
            ) from error
        raise ValueError(
            f"{path} is no readable PyTorch file: {next(iter(str(error).splitlines()), 'it is empty')[:200]}"
        ) from error
    state = content.get("state_dict", content) if isinstance(content, dict) else {}
    tensors = {name: value for name, value in state.items() if isinstance(value, Tensor)}
    if not tensors:
        keys = ", ".join(map(str, list(content)[:NUM_SHOWN])) if isinstance(content, dict) else type(content).__name__
        raise ValueError(f"{path} holds no state dict, neither itself nor under 'state_dict'; it has: {keys}")
    if others := [name for name in state if name not in tensors]:
        raise ValueError(f"{path}: entries of its state dict are no tensors: {', '.join(map(str, others[:NUM_SHOWN]))}")
    if all(name.startswith("module.") for name in tensors):
        tensors = {name.removeprefix("module."): value for name, value in tensors.items()}
    if broken := [name for name, value in tensors.items() if not torch.isfinite(value).all()]:
        raise ValueError(f"{path}: values that are not finite in {', '.join(broken[:NUM_SHOWN])}")
    meta = content.get("meta") if state is not content else None
    return OfficialFile(tensors, meta if isinstance(meta, dict) else {})


def recognise(file: OfficialFile, configuration: str | None = None) -> Recognised:
    """The configuration whose names and shapes the file has.

    Raises:
        ValueError: an unknown name, no configuration fits (the nearest and the first differences are named), or several
            do and neither `configuration` nor the file's metadata says which.
    """
    if configuration is not None and configuration not in OFFICIAL:
        raise ValueError(f"there is no official configuration {configuration!r}; legal: {', '.join(OFFICIAL)}")
    swin: SwinNaming = "original" if any(name.startswith("backbone.layers.") for name in file.state) else "mmcv"
    wanted = OFFICIAL if configuration is None else {configuration: OFFICIAL[configuration]}
    compared = {name: _compare(file.state, make(), swin) for name, make in wanted.items()}
    fitting = tuple(name for name, comparison in compared.items() if comparison.fits)
    if not fitting:
        nearest = min(compared, key=lambda name: (-compared[name].num_fitting, compared[name].count))
        raise ValueError(
            f"the file fits {'no official configuration' if configuration is None else 'not'}: "
            f"{'the nearest, ' if configuration is None else ''}{nearest}, {compared[nearest].describe()}"
        )
    name, chosen_by = _choose(file.meta, fitting, configuration)
    return Recognised(name, swin, fitting, chosen_by, compared[name].unused)


def _choose(meta: Mapping[str, Any], fitting: tuple[str, ...], configuration: str | None) -> tuple[str, str]:
    if configuration is not None:
        return configuration, "as asked for"
    if len(fitting) == 1:
        return fitting[0], "the only one with these names and shapes"
    text = json.dumps(meta, default=str)
    named = [name for name in fitting if re.search(rf"{re.escape(name)}(?![\w-])", text)]
    if len(named) == 1:
        return named[0], "named by the file's metadata"
    raise ValueError(
        f"the file fits {' and '.join(fitting)}, which have the same tensors; its metadata names "
        f"{'none of them' if not named else 'several'}: choose with --config"
    )


@dataclass(frozen=True)
class _Comparison:
    """A file against a configuration."""

    missing: list[str]
    unknown: list[str]
    misshapen: list[str]
    unused: dict[str, str]
    num_fitting: int  # tensors

    @property
    def count(self) -> int:
        return len(self.missing) + len(self.unknown) + len(self.misshapen)

    @property
    def fits(self) -> bool:
        return self.count == 0

    def describe(self) -> str:
        parts = (("missing", self.missing), ("of another shape", self.misshapen), ("unknown", self.unknown))
        return "; ".join(_list(what, names) for what, names in parts if names)


def _list(what: str, names: list[str]) -> str:
    more = f" and {len(names) - NUM_SHOWN} more" if len(names) > NUM_SHOWN else ""
    return f"{len(names)} {what}: {', '.join(names[:NUM_SHOWN])}{more}"


def _compare(state: Mapping[str, Tensor], config: KNetConfig, swin: SwinNaming) -> _Comparison:
    expected = expected_tensors(config, swin)
    missing = [name for name in expected if name not in state]
    misshapen = [
        f"{name} ({_size(state[name].shape)}, not {_size(one.shape)})"
        for name, one in expected.items()
        if name in state and tuple(state[name].shape) != one.shape
    ]
    unused, unknown = {}, []
    averaged = {f"ema_{name.replace('.', '_')}" for name in expected}
    for name in state:
        if name in expected:
            continue
        if name in averaged:
            unused[name] = "weights before averaging; the averaged ones are under the plain name"
        elif reason := _derived(name, state):
            unused[name] = reason
        else:
            unknown.append(name)
    return _Comparison(missing, unknown, misshapen, unused, len(expected) - len(missing) - len(misshapen))


def _derived(name: str, state: Mapping[str, Tensor]) -> str | None:
    """Why a tensor is not needed, or None: the index of Swin's windows follows from their size."""
    if not re.fullmatch(r"backbone\..*\.attn\.(w_msa\.)?relative_position_index", name):
        return None
    table = state.get(name.replace("_index", "_bias_table"))
    if table is None or not torch.equal(state[name].long(), _window_index(round(len(table) ** 0.5) // 2 + 1)):
        return None
    return "follows from the size of the windows"


def _window_index(side: int) -> Tensor:
    """(side ** 2, side ** 2): for each pair of tokens of a window, their entry in its bias table."""
    y, x = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    position = torch.stack((y.flatten(), x.flatten()))
    relative = position[:, :, None] - position[:, None, :] + side - 1
    return relative[0] * (2 * side - 1) + relative[1]


def _size(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) or "scalar"
