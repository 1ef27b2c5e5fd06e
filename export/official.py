"""`knet import`: a .pth file of the official K-Net code -> a checkpoint of ours that computes the same function."""

import json
import re
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from math import isqrt
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy._core import multiarray  # numpy names no public place for them
from timm.models.swin_transformer import get_relative_position_index
from torch import Tensor

from export.new_folder import new_folder
from export.official_names import Expected, SwinNaming, expected_tensors, to_ours
from model.checkpoint import save
from model.knet import KNet
from model.official import OFFICIAL
from service.artifact import file_sha256

IMPORTED = "import.json"
NUM_SHOWN = 5  # differences of each sort in an error
# Types that the metadata of mmcv may hold besides plain Python and tensors: numbers, text and arrays of numpy, under
# the names of numpy 1 and 2. Nothing else is unpickled.
_HARMLESS: list[Any] = [
    np.ndarray,
    np.dtype,
    np.dtypes.StrDType,
    *(type(np.dtype(kind)) for kind in ("f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "?")),
    *((multiarray.scalar, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")),
    *((multiarray._reconstruct, f"numpy.{core}.multiarray._reconstruct") for core in ("core", "_core")),
]
_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_INTEGERS = (torch.int16, torch.int32, torch.int64)
_EMA_PREFIXES = ("ema_", "ema_module_")  # averaging makes such names of plain ones and of those with `module.`


@dataclass(frozen=True)
class OfficialFile:
    """What a file holds."""

    state: dict[str, Tensor]
    meta: dict[Any, Any]
    beside: tuple[str, ...] = ()  # what else: the optimizer's state, ...


@dataclass(frozen=True)
class Recognised:
    """Which configuration a file is of."""

    name: str
    swin: SwinNaming
    fitting: tuple[str, ...]  # all configurations with these names and shapes
    chosen_by: str  # how, in words
    unused: dict[str, str]  # what is not used, each with the reason


@dataclass(frozen=True)
class Imported:
    """What `import.json` holds: the file, and what it was recognised as."""

    file: str
    sha256: str
    recognised: Recognised

    @property
    def warning(self) -> str | None:
        """Of a name that ends in eight digits of a SHA-256, as published ones do, which are not the file's."""
        named = re.search(r"-([0-9a-f]{8})\.pth$", self.file)
        if named is None or self.sha256.startswith(named[1]):
            return None
        return (
            f"the name of {self.file} says that its SHA-256 begins with {named[1]}, which it does not: is it damaged?"
        )


def import_official(path: Path, out: Path, configuration: str | None = None) -> Imported:
    """Write the checkpoint `out` of the official file `path`; beside it `import.json`, which says where it is from.

    Args:
        configuration: name of the official configuration, where several have the same tensors.

    Raises:
        ValueError: not such a file, a configuration that does not fit, or none that does; `out` is left as it was.
    """
    out = out.resolve()
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"{out} exists and is not empty; name a new folder")
    file = read_official(path)
    recognised = recognise(file, configuration)
    config = OFFICIAL[recognised.name]()
    network = KNet(config)
    network.load_state_dict(to_ours(file.state, config, recognised.swin), strict=True)
    if broken := [name for name, value in network.state_dict().items() if not value.isfinite().all()]:
        raise ValueError(f"{path}: values that are not finite, or too large for float32, in {_first(broken)}")
    imported = Imported(path.name, file_sha256(path), recognised)
    with new_folder(out) as work:
        (work / IMPORTED).write_text(json.dumps(asdict(imported), indent=2) + "\n")
        save(network, work)
    return imported


def read_official(path: Path) -> OfficialFile:
    """Unpickle tensors and plain metadata alone: nothing in the file is executed.

    Takes mmcv's wrapping (`state_dict`, `meta`) or a bare state dict, and drops a `module.` before names.

    Raises:
        ValueError: the file cannot be read, holds other types, or no state dict.
    """
    content = _unpickle(path)
    wrapped = isinstance(content, dict) and "state_dict" in content
    state = content["state_dict"] if wrapped else content
    if not isinstance(state, dict) or not any(isinstance(value, Tensor) for value in state.values()):
        has = _first(content) if isinstance(content, dict) else type(content).__name__
        raise ValueError(f"{path} holds no state dict, neither itself nor under 'state_dict'; it has: {has}")
    if others := [name for name, value in state.items() if not _is_plain(name, value)]:
        raise ValueError(f"{path}: entries of its state dict are no plain tensors: {_first(others)}")
    tensors = {name.removeprefix("module."): value for name, value in state.items()}
    if len(tensors) < len(state):
        raise ValueError(f"{path}: some names come both with and without `module.` before them")
    beside = tuple(str(name) for name in content if name not in ("state_dict", "meta")) if wrapped else ()
    meta = content.get("meta") if wrapped else None
    return OfficialFile(tensors, meta if isinstance(meta, dict) else {}, beside)


def _unpickle(path: Path) -> Any:
    try:
        file = path.open("rb")
    except OSError as error:
        raise ValueError(f"cannot read {path}: {error.strerror}") from error
    with file:
        try:
            with warnings.catch_warnings(), torch.serialization.safe_globals(_HARMLESS):
                warnings.simplefilter("ignore")  # of pickles that are none of torch's: the error says enough
                return torch.load(file, map_location="cpu", weights_only=True)
        except Exception as error:  # any bytes may be in the file, and fail in any way
            # Two of torch's sentences name the type. The rest of its text says how to turn the protection off.
            if unknown := re.search(r"GLOBAL ([\w.]+)|got <class '([\w.]+)'>", str(error)):
                raise ValueError(
                    f"{path} holds an object of type {unknown[1] or unknown[2]}; only tensors, numbers, text and "
                    "arrays of them are read, so that a file cannot run code. Load it where you trust it and save its "
                    "state dict alone"
                ) from error
            raise ValueError(f"{path} is no readable PyTorch file; it may be damaged, or cut short") from error


def _is_plain(name: object, value: object) -> bool:
    """A dense tensor with numbers, under a text."""
    return (
        isinstance(name, str)
        and isinstance(value, Tensor)
        and value.layout == torch.strided
        and not value.is_quantized
        and value.device.type == "cpu"
    )


def recognise(file: OfficialFile, configuration: str | None = None) -> Recognised:
    """The configuration whose names, shapes and types the file has.

    Raises:
        ValueError: an unknown name, no configuration fits (the nearest and the first differences are named), or several
            do and neither `configuration` nor the file's metadata says which.
    """
    if configuration is not None and configuration not in OFFICIAL:
        raise ValueError(f"there is no official configuration {configuration!r}; legal: {', '.join(OFFICIAL)}")
    swin: SwinNaming = "original" if any(name.startswith("backbone.layers.") for name in file.state) else "mmcv"
    wanted = OFFICIAL if configuration is None else {configuration: OFFICIAL[configuration]}
    compared = {name: _compare(file.state, expected_tensors(make(), swin)) for name, make in wanted.items()}
    fitting = tuple(name for name, comparison in compared.items() if comparison.fits)
    if not fitting:
        nearest = min(compared, key=lambda name: (-compared[name].num_fitting, compared[name].num_differences))
        differences = compared[nearest].describe()
        if configuration is not None:
            raise ValueError(f"the file does not fit {configuration}: {differences}")
        if not compared[nearest].num_fitting:
            raise ValueError(f"the file is of no official K-Net; the first of its tensors: {_first(file.state)}")
        raise ValueError(f"the file fits no official configuration: the nearest, {nearest}, {differences}")
    name, chosen_by = _choose(file.meta, fitting, configuration)
    beside = dict.fromkeys(file.beside, "no part of the network")
    return Recognised(name, swin, fitting, chosen_by, compared[name].unused | beside)


def _choose(meta: Mapping[Any, Any], fitting: tuple[str, ...], configuration: str | None) -> tuple[str, str]:
    if configuration is not None:
        return configuration, "as asked for"
    if len(fitting) == 1:
        return fitting[0], "the only one with these names and shapes"
    # The experiment's name decides; the configuration's text may also name the one that training started from.
    for text in (str(meta.get("exp_name")), str(meta)):
        named = [name for name in fitting if re.search(rf"{re.escape(name)}(?![\w-])", text)]
        if len(named) == 1:
            return named[0], "named by the file's metadata"
    raise ValueError(
        f"the file fits {' and '.join(fitting)}, which have the same tensors; its metadata names "
        f"{'several of them' if named else 'none'}: choose with --config"
    )


@dataclass(frozen=True)
class _Comparison:
    """A file against a configuration."""

    num_fitting: int  # tensors
    missing: list[str] = field(default_factory=list)
    misshapen: list[str] = field(default_factory=list)
    mistyped: list[str] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)
    unused: dict[str, str] = field(default_factory=dict)

    @property
    def num_differences(self) -> int:
        return len(self.missing) + len(self.misshapen) + len(self.mistyped) + len(self.unknown)

    @property
    def fits(self) -> bool:
        return self.num_differences == 0

    def describe(self) -> str:
        parts = {
            "missing": self.missing,
            "of another shape": self.misshapen,
            "of another type": self.mistyped,
            "unknown": self.unknown,
        }
        return "; ".join(f"{len(names)} {what}: {_first(names)}" for what, names in parts.items() if names)


def _compare(state: Mapping[str, Tensor], expected: Mapping[str, Expected]) -> _Comparison:
    result = _Comparison(sum(name in state and _differs(state[name], one) is None for name, one in expected.items()))
    for name, one in expected.items():
        if name not in state:
            result.missing.append(name)
        elif (difference := _differs(state[name], one)) is not None:
            has_shape = tuple(state[name].shape) == one.shape
            (result.mistyped if has_shape else result.misshapen).append(f"{name} ({difference})")
    averaged = {prefix + name.replace(".", "_"): one for name, one in expected.items() for prefix in _EMA_PREFIXES}
    for name in (name for name in state if name not in expected):
        if name in averaged and _differs(state[name], averaged[name]) is None:
            result.unused[name] = "weights before averaging; the averaged ones are under the plain name"
        elif _is_window_index(name, state[name], expected):
            result.unused[name] = "follows from the size of the windows"
        else:
            result.unknown.append(name)
    return result


def _differs(value: Tensor, expected: Expected) -> str | None:
    """What is wrong with a tensor, or None."""
    if tuple(value.shape) != expected.shape:
        return f"{_size(tuple(value.shape))}, not {_size(expected.shape)}"
    legal = _FLOATS if expected.is_float else _INTEGERS
    return None if value.dtype in legal else f"{value.dtype}, not one of {', '.join(map(str, legal))}"


def _is_window_index(name: str, value: Tensor, expected: Mapping[str, Expected]) -> bool:
    """Whether a tensor is the index into a Swin bias table that the table's own size gives."""
    table = expected.get(name.removesuffix("_index") + "_bias_table") if name.endswith("_index") else None
    if table is None:
        return False
    side = (isqrt(table.shape[0]) + 1) // 2  # the table has an entry for each of (2 side - 1) ** 2 distances
    index = get_relative_position_index(side, side)
    return value.dtype in _INTEGERS and value.shape == index.shape and torch.equal(value.to(index.dtype), index)


def _size(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) or "scalar"


def _first(names: Any) -> str:
    """The first of some names, none of them long."""
    names = [str(name) if len(str(name)) <= 120 else f"{str(name)[:120]}..." for name in names]
    more = f" and {len(names) - NUM_SHOWN} more" if len(names) > NUM_SHOWN else ""
    return ", ".join(names[:NUM_SHOWN]) + more
