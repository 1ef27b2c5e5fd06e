"""Which image a sample shows: from the seed and the sample's number alone, so for every process the same."""

from collections.abc import Mapping, Sequence

import numpy as np

_ORDER = 1  # tells the generator of an epoch's order from that of a sample


class Draw:
    """Images by the number of the sample.

    Groups of images are drawn with a probability proportional to (number of images) ** `power`, times the value in
    `weights` whose key ends the group's name ({"colour": 1.5}); within a group all images alike.

    Where that makes all images of the set alike (`power` 1, no weights), nothing is drawn: each image comes once in an
    epoch, in an order that is new in each. Epoch e is the samples from e * N to (e + 1) * N - 1 of N images.

    Raises:
        ValueError: no group ends with a key of `weights`.
    """

    def __init__(self, groups: Sequence[str], seed: int, *, power: float, weights: Mapping[str, float]) -> None:
        names, group_of, counts = np.unique(groups, return_inverse=True, return_counts=True)
        self.group_of = group_of
        self._seed = seed
        self._is_by_epochs = power == 1 and not weights
        self._order_of = -1, np.empty(0, np.int64)
        weight = counts.astype(np.float64) ** power
        for suffix, factor in weights.items():
            matching = np.array([name.endswith(suffix) for name in names])
            if not matching.any():
                raise ValueError(
                    f"group_weights: no group ends with {suffix!r}; groups: {', '.join(filter(None, names)) or 'none'}"
                )
            weight[matching] *= factor
        self._probabilities = (weight / counts / weight.sum())[group_of]

    def image(self, sample: int, rng: np.random.Generator) -> int:
        """Index of the image of a sample; `rng` is the sample's own."""
        count = len(self.group_of)
        if not self._is_by_epochs:
            return int(rng.choice(count, p=self._probabilities))
        epoch, place = divmod(sample, count)
        if self._order_of[0] != epoch:
            self._order_of = epoch, np.random.default_rng((self._seed, epoch, _ORDER)).permutation(count)
        return int(self._order_of[1][place])
