"""On what a run runs: processes and devices, by Fabric on torch.distributed."""

import logging
import os
import threading
import time
import warnings
from dataclasses import dataclass
from datetime import timedelta
from typing import Literal, cast, get_args

import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins.environments.cluster_environment import ClusterEnvironment
from lightning_fabric.plugins.environments.lightning import LightningEnvironment
from lightning_fabric.strategies.ddp import DDPStrategy
from torch import Tensor

from training.config import Precision

Accelerator = Literal["auto", "cpu", "cuda"]

_FABRIC_PRECISION: dict[Precision, Literal["32-true", "bf16-mixed", "16-mixed"]] = {
    "fp32": "32-true",
    "bf16": "bf16-mixed",
    "fp16": "16-mixed",
}
# While the first process validates, the others wait for it. That one has died is noticed by training/peers.py.
_TIMEOUT = timedelta(hours=12)


@dataclass(frozen=True, kw_only=True)
class Devices:
    """Which devices, and how many. They decide nothing but speed and memory."""

    accelerator: Accelerator = "auto"  # cuda where there is one, else cpu
    devices: int = 1  # of each machine, each with a process of its own
    nodes: int = 1  # machines; the command is given on each, with MASTER_ADDR, MASTER_PORT and NODE_RANK set

    def __post_init__(self) -> None:
        if self.accelerator not in get_args(Accelerator):
            raise ValueError(f"accelerator is {self.accelerator!r}; legal: {', '.join(get_args(Accelerator))}")
        for name in ("devices", "nodes"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; legal: 1 and above")
        num_gpus = torch.cuda.device_count()
        if self.accelerator == "cuda" and not num_gpus:
            raise ValueError("accelerator is 'cuda', and torch sees no CUDA device; legal here: cpu")
        if self.device_type == "cuda" and self.devices > num_gpus:
            raise ValueError(f"devices is {self.devices}; legal here: 1 to {num_gpus}")

    @property
    def device_type(self) -> Literal["cpu", "cuda"]:
        """What "auto" stands for."""
        if self.accelerator == "auto":
            return "cuda" if torch.cuda.is_available() else "cpu"
        return self.accelerator


def make_fabric(devices: Devices, precision: Precision) -> Fabric:
    """An engine, not yet launched. Under torchrun the numbers of processes and machines are torchrun's.

    Raises:
        ValueError: fp16 without CUDA, or several machines of which nobody says where they meet.
    """
    if precision == "fp16" and devices.device_type != "cuda":
        raise ValueError("precision is 'fp16'; legal on a CPU: fp32, bf16")
    num_devices, num_nodes = devices.devices, devices.nodes
    if "TORCHELASTIC_RUN_ID" in os.environ:
        num_devices = int(os.environ["LOCAL_WORLD_SIZE"])
        num_nodes = int(os.environ["WORLD_SIZE"]) // num_devices
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)  # else it greets in every process
    # Of 1x1 convolutions with channels last, whose strides say the same in two ways.
    warnings.filterwarnings("ignore", message="Grad strides do not match bucket view strides")
    fabric = Fabric(
        accelerator=devices.device_type,
        devices=num_devices,
        num_nodes=num_nodes,
        strategy=DDPStrategy(timeout=_TIMEOUT) if num_devices * num_nodes > 1 else "auto",
        precision=_FABRIC_PRECISION[precision],
    )
    missing = [name for name in ("MASTER_ADDR", "MASTER_PORT", "NODE_RANK") if name not in os.environ]
    if missing and num_nodes > 1 and isinstance(_environment(fabric), LightningEnvironment):
        raise ValueError(
            f"nodes is {num_nodes}, and {', '.join(missing)} not set: set them on each machine, or start it with "
            "torchrun or srun (docs/training.md)"
        )
    return fabric


def _environment(fabric: Fabric) -> ClusterEnvironment | None:
    """What knows where the processes of a run meet; None of a run of one process."""
    return cast(ClusterEnvironment | None, getattr(fabric.strategy, "cluster_environment", None))


def all_reduce(fabric: Fabric, values: Tensor, operation: Literal["mean", "sum"]) -> Tensor:
    """The mean or sum of a tensor over all processes; with one it is returned as it is."""
    return cast(Tensor, fabric.all_reduce(values, reduce_op=operation))


def is_first_process() -> bool:
    """Whether this process prepares what the others read: rank 0, known from the environment before any is launched."""
    if "RANK" in os.environ:  # torchrun's
        return os.environ["RANK"] == "0"
    return all(os.environ.get(name, "0") == "0" for name in ("LOCAL_RANK", "NODE_RANK", "SLURM_PROCID"))


def meeting_point(fabric: Fabric) -> str | None:
    """How many machines meet where, for whoever waits for them: of each machine's first process of a run on several."""
    strategy = fabric.strategy
    environment = _environment(fabric)
    if not isinstance(strategy, DDPStrategy) or strategy.num_nodes == 1 or environment is None:
        return None
    if environment.local_rank() != 0:
        return None
    return f"{strategy.num_nodes} machines at {environment.main_address}:{environment.main_port}"


def end_with_parent() -> None:
    """In a process that Fabric launched: end when the one that launched it is gone, killed or failed.

    It may wait for the others in a collective operation, where nothing else would wake it up.
    """
    if "TORCHELASTIC_RUN_ID" in os.environ or os.environ.get("LOCAL_RANK", "0") == "0":
        return
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1.0)
        os._exit(1)

    threading.Thread(target=watch, daemon=True, name="watch-parent").start()
