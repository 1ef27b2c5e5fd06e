"""All that a run changes as it goes: network, average, optimiser; made new, or as an earlier run left it."""

import hashlib
import json
from pathlib import Path
from typing import Any, cast

import torch
from lightning_fabric import Fabric
from rich.console import Console
from timm.layers.norm_act import convert_sync_batchnorm
from torch import Tensor

from model.knet import KNet
from training.activation_checkpointing import checkpoint_activations
from training.checkpoints import METRICS
from training.config import TrainConfig
from training.cpu import tune_cpu
from training.data.index import DataIndex
from training.graph_weights import is_artifact
from training.loss_network import LossNetwork
from training.norm_statistics import measure_statistics
from training.optimiser import Average, make_optimiser
from training.precision import keep_in_fp32
from training.pretrained import fill_weights
from training.train_state import load_state, save_state

# Fields that decide nothing about the weights.
MAY_DIFFER = frozenset({"save_every", "evaluate_every", "log_every", "workers", "cache_gb"})


class Learner:
    """Everything trained, on its device.

    Args:
        config: of the run.
        train: its training images; a resumed run must have the same.
        out: its folder, in which an earlier part of the run may have left a state.
        fabric: launched.
        console: told what was resumed, or from what weights the run starts.

    Raises:
        ValueError: the state is damaged, of another run, or missing where there are scores of a run.
    """

    def __init__(self, config: TrainConfig, train: DataIndex, out: Path, fabric: Fabric, console: Console) -> None:
        self._config, self._out, self._fabric = config, out, fabric
        self._data = _fingerprint(train)
        device = fabric.device
        if device.type == "cpu":
            tune_cpu()
        torch.manual_seed(config.seed)
        self.network = KNet(config.model)
        state = self._load(console)
        if state is None:
            fill_weights(self.network, config, console)
            if config.model.norm == "batch" and config.start_from is not None and is_artifact(Path(config.start_from)):
                measure_statistics(self.network, config, train)
        else:
            self.network.load_state_dict(state["network"])
        keep_in_fp32(self.network, config.precision, device.type)
        self.network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.average = Average(self.network, config.ema_decay)
        self._wrap()
        self.optimiser = make_optimiser(self.network, config)
        self.module, self.fabric_optimiser = fabric.setup(LossNetwork(self.network, config), self.optimiser)
        self.module.train()
        self.step = 0
        if state is not None:
            self.average.load_state_dict(state["average"])
            self.optimiser.load_state_dict(state["optimiser"])
            fabric.strategy.precision.load_state_dict(state["precision"])
            self.step = state["step"]
        self._check_alike()
        if state is not None:
            if self.step < config.steps:
                console.print(f"resuming {out} at step {self.step} of {config.steps}", markup=False)
            else:
                further = f"to train on from its weights: another --out, with --from {out}"
                console.print(f"the run in {out} is finished, at step {self.step}; {further}", markup=False)

    def save(self, step: int) -> None:
        """Write the state. Raises OSError; then the earlier one stays."""
        state = {
            "step": step,
            "config": self._config.to_json(),
            "data": self._data,
            "network": self.network.state_dict(),
            "average": self.average.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "precision": self._fabric.strategy.precision.state_dict(),
        }
        save_state(state, self._out)

    def _check_alike(self) -> None:
        """Processes that start at different steps would wait for each other for ever."""
        steps = cast(Tensor, self._fabric.all_gather(torch.tensor(self.step))).flatten().tolist()
        if len(set(steps)) > 1:
            raise ValueError(
                f"the processes find states of different steps in {self._out}: {steps}; let all machines share the "
                "run's folder, with the same files"
            )

    def _wrap(self) -> None:
        """What changes how the network is computed, and neither its weights nor their names."""
        config, fabric = self._config, self._fabric
        if fabric.world_size > 1 and config.model.norm == "batch" and config.batch_norm == "synchronised":
            if fabric.device.type != "cuda":
                raise ValueError(
                    "batch_norm is 'synchronised', which torch has for CUDA only; legal for several processes on "
                    "CPUs: --set batch_norm=frozen, or per_process"
                )
            self.network = convert_sync_batchnorm(self.network)  # type: ignore[no-untyped-call]
        if config.checkpoint_activations:
            checkpoint_activations(self.network)
        if config.compile:
            self.network.compile()

    def _load(self, console: Console) -> dict[str, Any] | None:
        state, faults = load_state(self._out)
        for fault in faults:
            console.print(f"{fault}; an older state is taken", style="yellow", markup=False)
        if state is None:
            if (self._out / METRICS).exists():
                raise ValueError(
                    f"{self._out} holds the checkpoints of a run, and no state to go on from: name another --out; with "
                    f"--from {self._out} it starts from their weights"
                )
            return None
        theirs, ours = json.loads(state["config"]), json.loads(self._config.to_json())
        if differing := _differing(ours, theirs):
            raise ValueError(
                f"{self._out} holds a run that differs in {', '.join(differing)}; "
                "resume it with the configuration it was started with, or start from its weights: another --out, "
                f"with --from {self._out}"
            )
        if state["data"] != self._data:
            raise ValueError(
                f"{self._out} holds a run on other training images; resume it with those, or start a new one from its "
                f"weights: another --out, with --from {self._out}"
            )
        return state


def _differing(ours: dict[str, Any], theirs: dict[str, Any], prefix: str = "") -> list[str]:
    """Dotted names of the fields that two configurations as JSON do not share, but those that may differ."""
    names = []
    for name, value in ours.items():
        if prefix + name in MAY_DIFFER or value == theirs.get(name):
            continue
        if isinstance(value, dict) and isinstance(theirs.get(name), dict) and value:
            names += _differing(value, theirs[name], f"{prefix}{name}.") or [prefix + name]
        else:
            names.append(prefix + name)
    return names


def _fingerprint(index: DataIndex) -> str:
    """Of names and sizes of the images; where the folder is does not matter."""
    listed = [(record.image_path.name, record.height, record.width) for record in index.records]
    return hashlib.sha256(repr(listed).encode()).hexdigest()
