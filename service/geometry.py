"""From an image of any size to the canvases of a graph, and from cells back to pixels.

Coordinates: pixels are those of the posted image, scaled pixels those after scaling, cells those of the
graph's output (`stride` scaled pixels each). Everything is (rows, columns), the origin at the top left.
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from service.artifact import Geometry, round_up
from service.pixels import resize_image


@dataclass(frozen=True, kw_only=True)
class Tile:
    """One canvas: where its content lies in the scaled image, in scaled pixels."""

    top: int
    left: int
    height: int
    width: int


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How one image is laid onto canvases; tiles in row-major order, all of the same canvas size.

    `shrinks_by_area`: pixels of a shrunken image are means of what they cover, not samples of it.
    """

    image_size: tuple[int, int]
    scaled_size: tuple[int, int]
    canvas_size: tuple[int, int]
    stride: int
    num_rows: int
    num_columns: int
    tiles: tuple[Tile, ...]
    shrinks_by_area: bool = True

    @property
    def num_cells(self) -> tuple[int, int]:
        """Size of the id-map of the whole scaled image, in cells."""
        height, width = self.scaled_size
        return -(-height // self.stride), -(-width // self.stride)


def make_plan(image_size: tuple[int, int], geometry: Geometry, stride: int) -> Plan:
    """Lay out an image of (height, width) pixels.

    >>> geometry = Geometry(mode="tile", sizes=(256, 512), overlap=64)
    >>> [(tile.left, tile.width) for tile in make_plan((200, 900), geometry, 2).tiles]
    [(0, 512), (388, 512)]
    """
    if geometry.mode == "shortest_edge":
        return _shortest_edge_plan(image_size, geometry, stride)
    if geometry.size is not None:
        return _fit_plan(image_size, geometry.size, stride)
    scaled = tuple(max(1, round(side * geometry.scale)) for side in image_size)
    canvas, starts = zip(*(_cut(side, geometry.sizes, geometry.overlap, stride) for side in scaled), strict=True)
    tiles = tuple(
        Tile(top=top, left=left, height=min(canvas[0], scaled[0] - top), width=min(canvas[1], scaled[1] - left))
        for top, left in itertools.product(*starts)
    )
    return Plan(
        image_size=image_size,
        scaled_size=(scaled[0], scaled[1]),
        canvas_size=(canvas[0], canvas[1]),
        stride=stride,
        num_rows=len(starts[0]),
        num_columns=len(starts[1]),
        tiles=tiles,
    )


def _fit_plan(image_size: tuple[int, int], canvas_size: tuple[int, int], stride: int) -> Plan:
    ratio = min(canvas_size[0] / image_size[0], canvas_size[1] / image_size[1])
    height, width = (
        min(limit, max(1, round(side * ratio))) for side, limit in zip(image_size, canvas_size, strict=True)
    )
    return _one_canvas(image_size, (height, width), canvas_size, stride, shrinks_by_area=True)


def _shortest_edge_plan(image_size: tuple[int, int], geometry: Geometry, stride: int) -> Plan:
    """What mmcv's Resize and Pad do in the official code, to the pixel; rounding and interpolation are theirs."""
    shortest, longest, multiple = geometry.edges
    ratio = min(shortest / min(image_size), longest / max(image_size))
    height, width = (max(1, int(side * ratio + 0.5)) for side in image_size)
    canvas_size = round_up(height, multiple), round_up(width, multiple)
    return _one_canvas(image_size, (height, width), canvas_size, stride, shrinks_by_area=False)


def _one_canvas(
    image_size: tuple[int, int],
    scaled_size: tuple[int, int],
    canvas_size: tuple[int, int],
    stride: int,
    *,
    shrinks_by_area: bool,
) -> Plan:
    return Plan(
        image_size=image_size,
        scaled_size=scaled_size,
        canvas_size=canvas_size,
        stride=stride,
        num_rows=1,
        num_columns=1,
        tiles=(Tile(top=0, left=0, height=scaled_size[0], width=scaled_size[1]),),
        shrinks_by_area=shrinks_by_area,
    )


def common_sizes(geometry: Geometry) -> list[tuple[int, int]]:
    """Sizes (height, width) of images whose canvases are the common ones: what an engine is warmed up with.

    >>> common_sizes(Geometry(mode="shortest_edge", shortest=800, longest=1333, multiple=32))
    [(800, 1067), (1067, 800)]
    """
    if geometry.mode == "shortest_edge":
        short, long = geometry.edges[0], round(geometry.edges[0] * 4 / 3)
        return [(short, long), (long, short)]
    canvases = [geometry.size] if geometry.size is not None else [(side, side) for side in geometry.sizes]
    return [(max(1, int(h / geometry.scale)), max(1, int(w / geometry.scale))) for h, w in canvases]


def canvas_sizes(geometry: Geometry) -> list[tuple[int, int]]:
    """Sizes (height, width) of canvases: all that there are, or with `shortest_edge` the common ones.

    >>> canvas_sizes(Geometry(mode="tile", sizes=(256, 512)))
    [(256, 256), (256, 512), (512, 256), (512, 512)]
    """
    if geometry.mode == "tile":
        return list(itertools.product(geometry.sizes, geometry.sizes))
    return [make_plan(size, geometry, 1).canvas_size for size in common_sizes(geometry)]


def _cut(length: int, sizes: Sequence[int], overlap: int, stride: int) -> tuple[int, tuple[int, ...]]:
    """One side: the canvas length, and where tiles start: evenly spaced multiples of the stride.

    The last tile ends at the image's end, or less than a stride beyond it.
    """
    for size in sizes:
        if length <= size:
            return size, (0,)
    count = _count(length, sizes[-1], overlap, stride)
    # A smaller canvas that needs no more tiles does the same with less.
    size = next(s for s in sizes if s > overlap and _count(length, s, overlap, stride) <= count)
    last = math.ceil(length / stride) - size // stride
    return size, tuple(index * last // (count - 1) * stride for index in range(count))


def _count(length: int, size: int, overlap: int, stride: int) -> int:
    """Tiles of `size` that cover `length` with at least `overlap`; a stride is the smallest step."""
    step = size // stride - math.ceil(overlap / stride)
    last = math.ceil(length / stride) - size // stride
    return math.ceil(last / step) + 1 if step > 0 else length


def scale_image(image: NDArray[np.uint8], plan: Plan) -> NDArray[np.uint8]:
    """Image (H, W, 3) at the plan's scaled size; the same array where nothing changes."""
    height, width = plan.scaled_size
    if (height, width) == plan.image_size:
        return image
    shrinks = height * width < plan.image_size[0] * plan.image_size[1]
    return resize_image(image, plan.scaled_size, by_area=shrinks and plan.shrinks_by_area)


def draw_canvases(scaled: NDArray[np.uint8], plan: Plan, tiles: Sequence[Tile]) -> NDArray[np.uint8]:
    """Content of `tiles` at the top left of canvases (B, H, W, 3), zeros elsewhere."""
    canvases = np.empty((len(tiles), *plan.canvas_size, 3), np.uint8)
    for canvas, tile in zip(canvases, tiles, strict=True):
        content = scaled[tile.top : tile.top + tile.height, tile.left : tile.left + tile.width]
        canvas[: tile.height, : tile.width] = content
        canvas[tile.height :] = 0
        canvas[: tile.height, tile.width :] = 0
    return canvases


def cells_to_image(cells: NDArray[np.int32], plan: Plan) -> NDArray[np.int32]:
    """Map in cells (h, w) to a map at the posted image's size (H, W), by nearest cell."""
    if cells.shape == plan.image_size:
        return cells
    rows, columns = (
        np.minimum((np.arange(side) + 0.5) * (scaled / side), scaled - 1).astype(np.intp) // plan.stride
        for side, scaled in zip(plan.image_size, plan.scaled_size, strict=True)
    )
    # Columns first: whole rows are copied fast. Not cells[:, columns], whose layout would slow down all that follows.
    return np.asarray(np.take(np.take(cells, columns, axis=1), rows, axis=0))
