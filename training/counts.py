"""Sums over images, and what is made of them: ratios and means, of which some may not be defined (NaN)."""

from dataclasses import dataclass, fields
from typing import Self

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Counts:
    """Arrays that hold sums; `a + b` is over the images of both."""

    def __add__(self, other: Self) -> Self:
        return type(self)(**{f.name: getattr(self, f.name) + getattr(other, f.name) for f in fields(self)})


def ratio(numerator: NDArray[np.number], denominator: NDArray[np.number]) -> NDArray[np.float64]:
    """NaN where the denominator is 0: not defined."""
    safe = np.where(denominator > 0, denominator, np.nan)
    return np.asarray(numerator / safe, np.float64)


def mean_of_defined(values: NDArray[np.float64]) -> float:
    """Mean of the values that are defined; NaN where none is."""
    defined = values[np.isfinite(values)]
    return float(defined.mean()) if defined.size else float("nan")
