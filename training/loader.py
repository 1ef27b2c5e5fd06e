"""The stream of micro-batches of one process, read and augmented by processes of their own."""

from collections.abc import Generator, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from training.config import TrainConfig
from training.data.index import DataIndex
from training.dataset import Target, TrainingSamples, collate
from training.shares import MicroBatches, Share
from training.stop import outlast_signals

Batches = Generator[tuple[Tensor, list[Target]], None, None]

_AHEAD = 4  # micro-batches that each worker has ready


def make_samples(config: TrainConfig, index: DataIndex, *, cache_bytes: int) -> TrainingSamples:
    """The crops of a run, by their numbers; `cache_bytes`: memory for decoded images."""
    return TrainingSamples(
        index.records,
        config.augment,
        seed=config.seed,
        group_power=config.group_power,
        group_weights=config.group_weights,
        things=[place for place, category in enumerate(index.categories) if category.is_thing],
        cache_bytes=cache_bytes,
    )


def load_batches(config: TrainConfig, index: DataIndex, share: Share, step: int, device: torch.device) -> Batches:
    """Images (B, 3, S, S) and targets of every micro-batch from a step to the end of the run.

    Closing it ends the workers.
    """
    samples = make_samples(config, index, cache_bytes=round(config.cache_gb * 1e9))
    loader: DataLoader[Any] = DataLoader(
        samples,
        batch_sampler=MicroBatches(share, step, config.steps),
        num_workers=config.workers,
        prefetch_factor=_AHEAD if config.workers else None,
        collate_fn=collate,
        pin_memory=device.type == "cuda",
        worker_init_fn=outlast_signals,
        # Of its own: torch's global one is set for each step, and the first read after a resume must not move it.
        generator=torch.Generator().manual_seed(config.seed),
    )
    batches = iter(loader)
    try:
        yield from batches
    finally:
        if config.workers:  # by hand: whoever holds the traceback of an error holds the iterator too
            batches._shutdown_workers()  # type: ignore[attr-defined]


@contextmanager
def worker_errors_explained() -> Iterator[None]:
    """Around all that happens while a loader is open: torch notices a killed worker at any point of it.

    Raises:
        OSError: a worker was killed, with what to do.
        ValueError: a file cannot be used, in the worker's own words without its traceback.
    """
    try:
        yield
    except ValueError as error:
        _, is_workers, words = str(error).rpartition("\nValueError: ")
        if not is_workers:
            raise
        raise ValueError(words.strip()) from error
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise OSError(
            f"a process that reads the data was killed ({error}). Where memory ran out, keep fewer images "
            "(--set cache_gb=0.2) or read without workers (--set workers=0). The same command goes on from the last "
            "saved state"
        ) from error
