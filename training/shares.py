"""Which samples each process sees: sample number = step * batch size + rank * share + place.

So a step sees the same samples whatever the number of processes and micro-batches, and after a resume as well.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from torch.utils.data import Sampler


@dataclass(frozen=True, kw_only=True)
class Share:
    """One process's part of every step."""

    batch_size: int  # samples a step, over all processes
    num_micro: int  # micro-batches of a step in each process
    rank: int
    num_processes: int

    def __post_init__(self) -> None:
        parts = self.num_processes * self.num_micro
        if self.batch_size % parts:
            raise ValueError(
                f"batch_size is {self.batch_size}; legal for {self.num_processes} processes with {self.num_micro} "
                f"micro-batches each: multiples of {parts}"
            )

    @property
    def micro_size(self) -> int:
        """Samples of a micro-batch."""
        return self.batch_size // (self.num_processes * self.num_micro)

    def numbers(self, step: int, micro: int) -> range:
        """Numbers of the samples of one micro-batch."""
        first = step * self.batch_size + (self.rank * self.num_micro + micro) * self.micro_size
        return range(first, first + self.micro_size)


class MicroBatches(Sampler[list[int]]):
    """The micro-batches of a process from one step to the end: the batch sampler of its loader."""

    def __init__(self, share: Share, first_step: int, last_step: int) -> None:
        self.share, self.first_step, self.last_step = share, first_step, last_step

    def __iter__(self) -> Iterator[list[int]]:
        for step in range(self.first_step, self.last_step):
            for micro in range(self.share.num_micro):
                yield list(self.share.numbers(step, micro))

    def __len__(self) -> int:
        return (self.last_step - self.first_step) * self.share.num_micro
