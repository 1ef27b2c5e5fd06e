"""Settings of a network and a recipe that fit a data set, each with its reason.

Rules of thumb: an object wants to be three cells of the feature map across, shrinking loses small ones, and memory and
time grow with the number of pixels. Every rule is the plain comparison that its reason names.
"""

import math
from dataclasses import dataclass

from model.config import Geometry, Kind
from training.data.statistics import Statistics

LONGEST = 1344  # pixels; larger canvases cost more than most tasks are worth
SHORTEST = 800  # pixels, the paper's
MIN_CELLS = 3  # of the feature map, across an object
SMALL = 40  # pixels across


@dataclass(frozen=True, kw_only=True)
class Suggestion:
    """A setting, its value and why."""

    setting: str
    value: str
    reason: str


def suggest(statistics: Statistics, kind: Kind) -> tuple[Suggestion, ...]:
    """Geometry, scale, feature stride and number of kernels for a network of this kind."""
    geometry, why_geometry = _geometry(statistics, kind)
    scale, why_scale = _scale(statistics, geometry, kind)
    canvas = _canvas(statistics, geometry, scale)
    width, of_what = _small_width(statistics, kind)
    strides = (8, 4) if kind == "semantic" else (8, 4, 2)
    stride = next((stride for stride in strides if width * scale >= MIN_CELLS * stride), strides[-1])
    scaled = "" if scale == 1 else f", {width * scale:.0f} when scaled"
    suggestions = [
        Suggestion(setting="geometry", value=f"{geometry} {canvas}", reason=why_geometry),
        Suggestion(setting="scale", value=f"{scale:.2g}", reason=why_scale),
        Suggestion(
            setting="feature_stride",
            value=str(stride),
            reason=f"a quarter of the {of_what} are below {width:.0f} pixels across{scaled}: "
            f"{width * scale / stride:.1f} cells of {stride} (at least {MIN_CELLS} wanted; legal: "
            f"{', '.join(map(str, sorted(strides)))})",
        ),
    ]
    if kind == "semantic":
        kernels, why = 0, "a semantic network has one kernel a class"
    else:
        kernels = max(50, math.ceil(1.05 * statistics.objects.largest / 50) * 50)
        why = (
            f"at most {statistics.objects.largest:.0f} objects in an image (95 % have "
            f"{statistics.objects.most:.0f} or fewer), and a kernel finds one"
        )
    suggestions.append(Suggestion(setting="num_kernels", value=str(kernels), reason=why))
    return tuple(suggestions)


def _small_width(statistics: Statistics, kind: Kind) -> tuple[float, str]:
    """Pixels that a quarter of the objects, or of the regions of classes, do not reach."""
    if kind == "semantic" or not statistics.object_area.largest:
        return statistics.thickness.quarter, "regions"
    return 2 * math.sqrt(statistics.object_area.quarter / math.pi), "objects"


def _geometry(statistics: Statistics, kind: Kind) -> tuple[Geometry, str]:
    longer = statistics.longer_side
    diameter = 2 * math.sqrt(statistics.object_area.median / math.pi)
    is_large, is_varied = longer.largest > LONGEST, longer.largest > 1.5 * longer.least
    if kind == "panoptic" and 0 < diameter < SMALL and (is_large or is_varied):
        sizes = f"longer sides of {longer.least:.0f} to {longer.largest:.0f} pixels"
        return (
            "tile",
            f"half of the objects are below {diameter:.0f} pixels across, in images with {sizes}: shrinking loses them",
        )
    if is_varied or statistics.num_sizes > max(1, statistics.num_images // 4):
        return (
            "shortest_edge",
            f"the images have {statistics.num_sizes} sizes and proportions, and objects that can be scaled",
        )
    return "fit", "the images are nearly of one size, which a canvas holds with little padding"


def _scale(statistics: Statistics, geometry: Geometry, kind: Kind) -> tuple[float, str]:
    width, of_what = _small_width(statistics, kind)
    if geometry == "tile":
        if width < 2 * MIN_CELLS:
            return (
                2.0,
                f"a quarter of the {of_what} are below {width:.0f} pixels across: enlarge the images before training",
            )
        return 1.0, "tiles show the images as they are"
    shorter = statistics.shorter_side.median
    limit = min(LONGEST / max(1.0, statistics.longer_side.median), max(1.0, SHORTEST / max(1.0, shorter)))
    wanted = 1.0 if kind == "semantic" else min(2.0, max(1.0, 8 * MIN_CELLS / max(1.0, width)))
    if limit < 1:
        return limit, f"longer sides of {statistics.longer_side.median:.0f} pixels are shrunk to {LONGEST}"
    if wanted > 1 and limit > 1:
        return min(
            wanted, limit
        ), f"a quarter of the {of_what} are below {width:.0f} pixels across: enlarging shows them better"
    return 1.0, f"the {of_what} are seen well as they are"


def _canvas(statistics: Statistics, geometry: Geometry, scale: float) -> str:
    def up(length: float) -> int:
        return max(64, math.ceil(length * scale / 32) * 32)

    if geometry == "tile":
        return f"{min(512, up(statistics.longer_side.largest))}"
    if geometry == "shortest_edge":
        return f"{up(statistics.shorter_side.median)}, {up(statistics.longer_side.most)}"
    height, width, _ = statistics.common_sizes[0]
    return f"{up(height)} x {up(width)}"
