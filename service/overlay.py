"""Pictures: masks drawn over an image, and the id-map as a COCO panoptic PNG."""

import colorsys

import numpy as np
from numpy.typing import NDArray

from service.artifact import ArtifactMetadata
from service.instances import Instances, Result, stack
from service.pixels import blend, png

_THING_OPACITY, _STUFF_OPACITY, _CONTOUR_OPACITY = 0.4, 0.2, 0.9
_STUFF_ALONE_OPACITY = 0.45  # where it is all there is to see
_STRIP_PIXELS = 2**20
_GOLDEN_RATIO = 0.618034  # hues of consecutive ids lie far apart


def draw_overlay(
    image: NDArray[np.uint8], result: Result, metadata: ArtifactMetadata, *, by_category: bool
) -> NDArray[np.uint8]:
    """Image (H, W, 3) with each segment tinted and outlined; where masks overlap, the one of the best score is on top.

    Things get a colour each, stuff (and everything, with `by_category`) its category's; void stays as it is.
    """
    id_map = stack(result) if isinstance(result, Instances) else result.id_map
    colours = np.zeros((len(result.segments) + 1, 3), np.uint8)
    is_thing = np.zeros(len(result.segments) + 1, np.bool_)
    for segment in result.segments:
        category = metadata.categories[segment.class_index]
        own_colour = category.is_thing and not by_category
        colours[segment.id] = distinct_colour(segment.id) if own_colour else category.colour
        is_thing[segment.id] = category.is_thing
    return paint(image, id_map, colours, is_thing)


def paint(
    image: NDArray[np.uint8], id_map: NDArray[np.int32], colours: NDArray[np.uint8], is_thing: NDArray[np.bool_]
) -> NDArray[np.uint8]:
    """Image (H, W, 3) with the ids 1..S of `id_map` (H, W) tinted, things more than stuff beside them, and outlined.

    Args:
        colours: (S + 1, 3), of each id; that of 0, void, is not used.
        is_thing: (S + 1), likewise.
    """
    stuff_opacity = _STUFF_OPACITY if is_thing.any() else _STUFF_ALONE_OPACITY
    opacity = np.where(is_thing, np.float32(_THING_OPACITY), np.float32(stuff_opacity))
    opacity[0] = 0
    height, width = id_map.shape
    rows = max(1, _STRIP_PIXELS // width)  # in strips, as a pixel takes many times its bytes while it is blended
    result = np.empty_like(image)
    for top in range(0, height, rows):
        bottom = min(top + rows, height)
        above, below = max(0, top - 1), min(height, bottom + 1)  # with the neighbours on both sides
        ids = id_map[top:bottom]
        outlined = _contours(id_map[above:below])[top - above :][: bottom - top] & is_thing[ids]
        weight = opacity[ids]
        np.copyto(weight, _CONTOUR_OPACITY, where=outlined)
        result[top:bottom] = blend(image[top:bottom], np.take(colours, ids, axis=0), weight)
    return result


def distinct_colour(number: int) -> tuple[int, ...]:
    """A bright colour far from those of the numbers before and after."""
    hue = number * _GOLDEN_RATIO % 1
    return tuple(round(255 * channel) for channel in colorsys.hsv_to_rgb(hue, 0.85, 1.0))


def panoptic_png(id_map: NDArray[np.int32]) -> bytes:
    """COCO panoptic PNG of an id-map (H, W): id = R + 256 G + 65536 B."""
    little_endian = np.ascontiguousarray(id_map, "<i4").view(np.uint8)
    return png(little_endian.reshape(*id_map.shape, 4)[..., :3])


def _contours(id_map: NDArray[np.int32]) -> NDArray[np.bool_]:
    """Pixels (H, W) with a neighbour of another id; an object at the image's border is open there."""
    result = np.zeros(id_map.shape, np.bool_)
    below, beside = id_map[1:] != id_map[:-1], id_map[:, 1:] != id_map[:, :-1]
    result[1:] |= below
    result[:-1] |= below
    result[:, 1:] |= beside
    result[:, :-1] |= beside
    return result
