"""The training loop: deterministic by seed and step, so a killed run resumes as if it had not been."""

import time
from collections.abc import Callable
from contextlib import closing, nullcontext
from pathlib import Path
from typing import cast

import torch
from lightning_fabric import Fabric
from rich.console import Console
from torch import Tensor

from batch.durable import write_bytes
from model.knet import KNet
from training.checkpoints import Checkpoints
from training.config import TrainConfig
from training.data.index import DataIndex
from training.engine import all_reduce
from training.evaluate import evaluate_network
from training.finite import check_finite
from training.learner import Learner
from training.loader import Batches, load_batches, worker_errors_explained
from training.loss_network import SEED_FACTOR, Batch, forced_share
from training.optimiser import set_learning_rate
from training.progress import RunProgress, peak_memory_gb
from training.provenance import add_start
from training.run_log import RunLog
from training.schedule import learning_rate_factor
from training.score_tables import print_scores
from training.shares import Share
from training.stop import Interrupted, StopRequest

RUN = "train.json"
PAGES = "pages"


class Trainer:
    """One run.

    Args:
        config: all that decides it.
        train, val: annotated images.
        out: the run's folder: the best checkpoint, the last one, what is needed to resume, logs and scores.
        fabric: launched; every process has a trainer, and the first one's writes.

    Raises:
        ValueError: the folder holds a run of another configuration, or the configuration does not fit the devices.
    """

    def __init__(self, config: TrainConfig, train: DataIndex, val: DataIndex, out: Path, fabric: Fabric) -> None:
        self.config, self.train, self.val, self.out, self.fabric = config, train, val, out, fabric
        self.console = Console(quiet=not fabric.is_global_zero, soft_wrap=True, markup=False)
        self.share = Share(
            batch_size=config.batch_size,
            num_micro=config.accumulate,
            rank=fabric.global_rank,
            num_processes=fabric.world_size,
        )
        self.learner = Learner(config, train, out, fabric, self.console)
        self.step = self.learner.step
        self.checkpoints = Checkpoints(out)
        self._clock = (self.step, time.perf_counter())

    def run(self) -> bool:
        """Train to the end, from where an earlier run in the same folder stopped.

        Returns:
            Whether the end is reached; False where the process was told to stop, and the state is saved.

        Raises:
            FloatingPointError: loss or gradient is not finite; nothing of it is saved.
            OSError: the last state could not be saved, or a data worker was killed.
        """
        first = self.fabric.is_global_zero
        if first:
            self.out.mkdir(parents=True, exist_ok=True)
            (self.out / RUN).write_text(self.config.to_json())
            add_start(self.out, step=self.step, num_processes=self.fabric.world_size, device=self.fabric.device)
        with (
            worker_errors_explained(),
            StopRequest() as stop,
            RunProgress(self.console, self.step, self.config.steps, is_shown=first) as progress,
            closing(RunLog(self.out, self.step)) if first else nullcontext() as log,
            closing(load_batches(self.config, self.train, self.share, self.step, self.fabric.device)) as batches,
        ):
            return self._run(batches, stop, progress, log)

    def _run(self, batches: Batches, stop: StopRequest, progress: RunProgress, log: RunLog | None) -> bool:
        # One that a kill cut off. The first process decides: the files may change before another one looks.
        if self._has_evaluation(self.step) and self.fabric.broadcast(self.checkpoints.scored_step() != self.step):
            self._save_and_evaluate(stop, log)
        while self.step < self.config.steps and not self._is_stopped(stop):
            values = self._train_step(batches)
            self.step += 1
            progress.advance(self.step)
            if values is not None:
                self._log(values, progress, log)
            if self._has_evaluation(self.step):
                self._save_and_evaluate(stop, log)
            elif self.step % self.config.save_every == 0:
                self._save()
        is_finished = self.step == self.config.steps
        if not is_finished and not self._save():
            raise OSError("stopped, and the last state could not be saved (see above); an earlier one may be there")
        if not is_finished:
            self.console.print(f"stopped at step {self.step} of {self.config.steps}; the same command goes on")
        return is_finished

    def _train_step(self, batches: Batches) -> dict[str, float] | None:
        """One step of the optimiser. Returns the loss terms of all devices where the step is logged."""
        learner, config, fabric = self.learner, self.config, self.fabric
        set_learning_rate(learner.optimiser, learning_rate_factor(self.step, config))
        # Dropout and the like depend on the step alone, not on how often the run was resumed.
        torch.manual_seed((config.seed * SEED_FACTOR + self.step) * 4099 + fabric.global_rank)
        sums: dict[str, Tensor] = {}
        paths: list[Path] = []
        for micro in range(config.accumulate):
            images, targets = next(batches)
            numbers = self.share.numbers(self.step, micro)
            batch = Batch(images, targets, numbers, forced_share(self.step, config))
            paths += batch.paths
            is_last = micro == config.accumulate - 1
            waits = not is_last and fabric.world_size > 1
            with fabric.no_backward_sync(learner.module, enabled=True) if waits else nullcontext():
                terms = learner.module(batch.to(fabric.device))
                fabric.backward(torch.stack(list(terms.values())).sum() / config.accumulate)
            for name, term in terms.items():
                sums[name] = sums.get(name, 0) + term.detach() / config.accumulate
        norm = fabric.clip_gradients(
            learner.module, learner.fabric_optimiser, max_norm=config.clip_norm, error_if_nonfinite=False
        )
        assert norm is not None  # None is for clipping each value
        check_finite(fabric, self.step, sums, norm, paths)
        learner.fabric_optimiser.step()
        learner.optimiser.zero_grad()
        learner.average.update_parameters(learner.network)
        return self._values(sums, norm) if self._is_logged(self.step + 1) else None

    def _values(self, sums: dict[str, Tensor], norm: Tensor) -> dict[str, float]:
        """Loss terms, their mean over the devices, and the gradient's norm."""
        terms = all_reduce(self.fabric, torch.stack(list(sums.values())), "mean").tolist()
        values = dict(zip(sums, terms, strict=True))
        return values | {"total": sum(terms), "gradient_norm": float(norm)}

    def _log(self, values: dict[str, float], progress: RunProgress, log: RunLog | None) -> None:
        before, started = self._clock
        self._clock = (self.step, time.perf_counter())
        seconds = (self._clock[1] - started) / max(1, self.step - before)
        values |= {
            "learning_rate": self.config.learning_rate * learning_rate_factor(self.step - 1, self.config),
            "seconds": seconds,
            "images_per_second": self.config.batch_size / seconds,
            "memory_gb": peak_memory_gb(self.fabric.device),
        }
        progress.show(self.step, values)
        if log is not None:
            self._survive(lambda: log.write(self.step, values))

    def _save_and_evaluate(self, stop: StopRequest, log: RunLog | None) -> None:
        """Save, and score the averaged network on the validation images, in the first process; the others wait."""
        is_saved = self._save()
        if self.fabric.is_global_zero:
            try:
                with stop.breaking_off():
                    is_saved &= self._evaluate(log)
            except Interrupted:
                self.console.print("the evaluation was broken off; it is made again when the run goes on")
        self.fabric.barrier()
        self._clock = (self.step, time.perf_counter())
        if self.step == self.config.steps and not is_saved:
            raise OSError("the run is finished, and what it gave could not be saved (see above)")

    def _evaluate(self, log: RunLog | None) -> bool:
        network = self.averaged().to(self.fabric.device)
        page = self.out / PAGES / f"step_{self.step:06d}.png"
        scores, picture = evaluate_network(network, self.val, show_progress=self.console.is_terminal)

        is_saved = self._survive(lambda: write_bytes(page, picture))
        if self.step == self.config.steps:
            print_scores(scores, self.console)

        def keep() -> None:
            is_best = self.checkpoints.add_scores(self.step, network, scores.summary, scores.main)
            name, value = scores.main
            best = ", the best so far" if is_best else ""
            self.console.print(f"step {self.step}: {name} {value:.3f}{best}; predictions: {page}")

        is_saved &= self._survive(keep)
        if log is not None:
            self._survive(lambda: log.write_scores(self.step, scores.summary, page))
        return is_saved

    def averaged(self) -> KNet:
        """The network with the exponential moving average of the weights; not a copy."""
        return cast(KNet, self.learner.average.module.eval())

    def _save(self) -> bool:
        """State and last checkpoint, by the first process. Returns whether they are written."""
        if not self.fabric.is_global_zero:
            return True

        def save() -> None:
            self.learner.save(self.step)
            self.checkpoints.save_last(self.averaged())

        return self._survive(save)

    def _survive(self, action: Callable[[], object]) -> bool:
        """Do what writes files. A disk that is full is no reason to lose what is not yet written."""
        try:
            action()
        except OSError as error:
            self.console.print(f"{error}. Training goes on", style="red", markup=False)
            return False
        return True

    def _is_stopped(self, stop: StopRequest) -> bool:
        """Whether any process was told to stop: all do it after the same step."""
        if self.fabric.world_size == 1:
            return stop.requested
        requested = torch.tensor(float(stop.requested), device=self.fabric.device)
        return bool(all_reduce(self.fabric, requested, "sum") > 0)

    def _is_logged(self, step: int) -> bool:
        """Short runs are logged more often."""
        return step % min(self.config.log_every, max(1, self.config.steps // 100)) == 0

    def _has_evaluation(self, step: int) -> bool:
        return step > 0 and (step % self.config.evaluate_every == 0 or step == self.config.steps)
