"""Decoded images in a bounded amount of memory."""

from collections import OrderedDict
from typing import Generic, TypeVar

from torch.utils.data import get_worker_info

Item = TypeVar("Item")


class SampleCache(Generic[Item]):
    """The items used last whose sizes add up to `max_bytes`; of a loader with n workers each holds an n-th of it."""

    def __init__(self, max_bytes: int) -> None:
        if max_bytes < 0:
            raise ValueError(f"cache_bytes is {max_bytes}; legal: 0 (none) or more")
        self._max_bytes = max_bytes
        self._items: OrderedDict[int, tuple[Item, int]] = OrderedDict()  # used longest ago first
        self._num_bytes = 0

    def get(self, key: int) -> Item | None:
        """The item, which is then the one used last."""
        if key not in self._items:
            return None
        self._items.move_to_end(key)
        return self._items[key][0]

    def put(self, key: int, item: Item, num_bytes: int) -> None:
        """Keep the item, unless it is larger than all that may be kept; others make room."""
        worker = get_worker_info()
        limit = self._max_bytes // (worker.num_workers if worker else 1)
        if num_bytes > limit:
            return
        self._items[key] = (item, num_bytes)
        self._num_bytes += num_bytes
        while self._num_bytes > limit:
            _, (_, freed) = self._items.popitem(last=False)
            self._num_bytes -= freed
