"""Memory that the server and one engine process share: slots of equal size, each with one canvas' inputs and outputs.

Arrays travel in the slots, and only where each lies travels as a message: nothing is pickled. A slot is used again as
soon as its outputs are read. The memory has no name in the file system: it ends with the processes, however they end,
and the small /dev/shm of a container does not limit it.
"""

import mmap
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.artifact import ArtifactMetadata

_ALIGNMENT = 64
_PAGE = 4096

Layout = list[dict[str, Any]]  # of arrays in a slot: name, dtype, shape, offset from the memory's start


@dataclass(frozen=True, kw_only=True)
class SlotSizes:
    """How the memory is divided; bytes are of one slot."""

    num_slots: int
    request_bytes: int
    result_bytes: int

    @property
    def slot_bytes(self) -> int:
        """Bytes from one slot to the next, in whole pages: an unused slot takes no memory."""
        return -(-(self.request_bytes + self.result_bytes) // _PAGE) * _PAGE

    @property
    def total_bytes(self) -> int:
        """Bytes of the whole: a page of flags, a byte for each slot, then the slots."""
        return self._flag_bytes + self.num_slots * self.slot_bytes

    @property
    def _flag_bytes(self) -> int:
        return -(-self.num_slots // _PAGE) * _PAGE

    def request_at(self, slot: int) -> int:
        """Where a slot's inputs begin."""
        return self._flag_bytes + slot * self.slot_bytes

    def result_at(self, slot: int) -> int:
        """Where a slot's outputs begin."""
        return self.request_at(slot) + self.request_bytes


def sizes_for(metadata: ArtifactMetadata, num_slots: int) -> SlotSizes:
    """That many slots, each with room for one canvas of an artifact's largest size."""
    height, width = metadata.geometry.largest_canvas
    cells = (height // metadata.output_stride) * (width // metadata.output_stride)
    if metadata.kind == "instance":
        # Three numbers for each entry, of which there are at most as many as pairs of a mask and a class.
        numbers = metadata.num_slots * (cells + 3 * len(metadata.categories))
    else:
        numbers = cells * (2 if metadata.confidence else 1) + 8 * metadata.num_slots
    slack = _PAGE  # alignment, and the small arrays
    return SlotSizes(num_slots=num_slots, request_bytes=height * width * 3 + slack, result_bytes=4 * numbers + slack)


class Slots:
    """The slots, as one of the two processes sees them; who may use which is for the server to know.

    Args:
        sizes: the same in both.
        file: descriptor of the memory, as `create_memory` makes it; closed with the slots.
    """

    def __init__(self, sizes: SlotSizes, file: int) -> None:
        self.sizes = sizes
        self._file = file
        self._memory = mmap.mmap(file, sizes.total_bytes)

    def close(self) -> None:
        """Give the descriptor back; the memory follows when no array lies in it any more."""
        os.close(self._file)

    def write_request(self, slot: int, arrays: Mapping[str, NDArray[Any]]) -> Layout:
        """Copy inputs into a slot, whose flag is taken down; raises ValueError when they need too much room."""
        self._memory[slot] = 0
        return self._write(arrays, self.sizes.request_at(slot), self.sizes.request_bytes)

    def write_result(self, slot: int, arrays: Mapping[str, NDArray[Any]]) -> Layout:
        """Copy outputs into a slot; raises ValueError when they need too much room."""
        return self._write(arrays, self.sizes.result_at(slot), self.sizes.result_bytes)

    def read(self, layout: Sequence[Mapping[str, Any]]) -> dict[str, NDArray[Any]]:
        """Arrays of a layout, as views that are valid while the slot is."""
        return {
            str(entry["name"]): np.ndarray(
                tuple(entry["shape"]), np.dtype(entry["dtype"]), self._memory, int(entry["offset"])
            )
            for entry in layout
        }

    def abandon(self, slot: int) -> None:
        """Raise the flag of a slot: nobody waits for its outputs, and its run may be left out."""
        self._memory[slot] = 1

    def is_abandoned(self, slot: int) -> bool:
        """Whether the flag is up."""
        return self._memory[slot] == 1

    def _write(self, arrays: Mapping[str, NDArray[Any]], start: int, capacity: int) -> Layout:
        layout: Layout = []
        offset = start
        for name, array in arrays.items():
            if offset + array.nbytes > start + capacity:
                raise ValueError(f"arrays need more than the {capacity} bytes of shared memory set aside")
            view = np.ndarray(array.shape, array.dtype, self._memory, offset)
            view[...] = array
            layout.append({"name": name, "dtype": array.dtype.str, "shape": array.shape, "offset": offset})
            offset += -(-array.nbytes // _ALIGNMENT) * _ALIGNMENT
        return layout


def create_memory(num_bytes: int) -> int:
    """Descriptor of memory without a name, zeros."""
    if hasattr(os, "memfd_create"):
        file = os.memfd_create("knet-slots")
    else:  # other systems than Linux
        with tempfile.TemporaryFile() as scratch:
            file = os.dup(scratch.fileno())
    os.truncate(file, num_bytes)
    return file
