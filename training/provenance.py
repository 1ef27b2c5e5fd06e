"""Where a checkpoint comes from: the state of the code, the libraries and the machine, beside it as JSON."""

import json
import os
import platform
import subprocess
import sys
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from batch.durable import write_bytes

PROVENANCE = "provenance.json"
_LIBRARIES = ("torch", "torchvision", "timm", "lightning-fabric", "numpy", "opencv-python-headless")
_ROOT = Path(__file__).resolve().parents[1]


def add_start(folder: Path, *, step: int, num_processes: int, device: torch.device) -> None:
    """Note that a run was started, or resumed, in this state of code and machine; earlier starts stay listed."""
    path = folder / PROVENANCE
    starts = json.loads(path.read_text())["starts"] if path.exists() else []
    starts.append(
        {
            "time": datetime.now(UTC).isoformat(timespec="seconds"),
            "at_step": step,
            "command": sys.argv,
            "git": git_state(_ROOT),
            "libraries": {"python": platform.python_version(), **_versions()},
            "machine": _machine(device) | {"processes": num_processes},
        }
    )
    write_bytes(path, (json.dumps({"starts": starts}, indent=2) + "\n").encode())


def git_state(folder: Path) -> dict[str, Any] | None:
    """The commit and the files that differ from it; None where there is no git, or no repository."""
    try:
        commit = _git(folder, "rev-parse", "HEAD").strip()
        changed = [line[3:] for line in _git(folder, "status", "--porcelain").splitlines()]
    except (OSError, subprocess.SubprocessError):
        return None
    return {"commit": commit, "changed_files": changed}


def _git(folder: Path, *arguments: str) -> str:
    command = ["git", "-C", str(folder), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=20).stdout


def _versions() -> dict[str, str]:
    found = {}
    for name in _LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:  # installed under another name, as a GPU build may be
            continue
    return found


def _machine(device: torch.device) -> dict[str, Any]:
    machine = {
        "system": platform.platform(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "device": str(device),
    }
    if device.type == "cuda":
        machine["gpu"] = torch.cuda.get_device_name(device)
    return machine


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())
