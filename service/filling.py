"""From polygons back to masks, in numpy alone."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def fill_polygons(polygons: Sequence[Sequence[Sequence[Sequence[int]]]], size: tuple[int, int]) -> NDArray[np.bool_]:
    """Mask (H, W) of the `coordinates` of a MultiPolygon whose rings follow the edges of pixels.

    Raises ValueError when a point is not whole or not in the image.

    >>> square = [[0, 0], [2, 0], [2, 2], [0, 2], [0, 0]]
    >>> fill_polygons([[square]], (2, 3)).tolist()
    [[True, True, False], [True, True, False]]
    """
    height, width = size
    is_odd = np.zeros((height + 1, width + 1), np.bool_)
    for polygon in polygons:
        for ring in polygon:
            points = np.asarray(ring[:-1])
            if points.dtype.kind not in "iu" or (points < 0).any() or (points > (width, height)).any():
                raise ValueError(f"points of polygons must be whole numbers in 0..{width}, 0..{height}")
            np.logical_xor.at(is_odd, (points[:, 1], points[:, 0]), True)
    # A pixel is inside where the corners that lie neither below nor right of it are odd in number.
    np.logical_xor.accumulate(is_odd, axis=0, out=is_odd)
    np.logical_xor.accumulate(is_odd, axis=1, out=is_odd)
    return is_odd[:-1, :-1]
