"""Which images of a data set without a split of its own are for validation."""

import hashlib
from collections.abc import Sequence

from training.data.index import Split

VAL_FRACTION = 0.15


def choose(names: Sequence[str], split: Split, val_fraction: float = VAL_FRACTION) -> set[str]:
    """The `names` of `split`; the same on every machine, and whatever other images are there.

    An image is for validation if the SHA-256 of its name, as a fraction of the largest, is below `val_fraction`. So
    that none of the splits is empty, the smallest is in any case and the largest is not.
    """
    ordered = sorted(set(names), key=_fraction)
    if len(ordered) < 2:
        raise ValueError(f"a data set of {len(ordered)} images cannot be split; legal: 2 and above")
    count = sum(_fraction(name) < val_fraction for name in ordered)
    count = min(max(count, 1), len(ordered) - 1)
    return set(ordered[:count] if split == "val" else ordered[count:])


def _fraction(name: str) -> float:
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:7]) / 2**56
