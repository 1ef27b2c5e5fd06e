"""Which batches of canvases a graph is run on: what engines with fixed ranges of shapes are built and tuned for."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from service.artifact import ArtifactMetadata, Geometry, round_up
from service.segmenter import MAX_BATCH, MAX_BATCH_PIXELS

Shapes = dict[str, tuple[int, ...]]


@dataclass(frozen=True, kw_only=True)
class Profile:
    """Batches of one length. Sizes are (height, width) of canvases in pixels: each side has a range of its own."""

    batch: int
    smallest: tuple[int, int]
    common: tuple[int, int]
    largest: tuple[int, int]

    def holds(self, batch: int, size: tuple[int, int]) -> bool:
        """Whether that many canvases of a size may be run with it."""
        sides = zip(self.smallest, size, self.largest, strict=True)
        return batch == self.batch and all(low <= side <= high for low, side, high in sides)


def make_profiles(geometry: Geometry) -> tuple[Profile, ...]:
    """The fewest profiles that hold every batch which the service makes of an image.

    One for each batch length: an engine reserves memory for the largest shape of a profile, and four of the largest
    canvases never come together.

    >>> for profile in make_profiles(Geometry(mode="tile", sizes=(256, 512), overlap=64)):
    ...     print(profile.batch, profile.smallest, profile.common, profile.largest)
    1 (256, 256) (512, 512) (512, 512)
    2 (256, 256) (256, 256) (512, 512)
    3 (256, 256) (256, 256) (256, 256)
    4 (256, 256) (256, 256) (256, 256)
    """
    if geometry.mode == "tile":
        return _tile_profiles(geometry.sizes)
    if geometry.mode == "shortest_edge":
        return _shortest_edge_profiles(*geometry.edges)
    size = geometry.largest_canvas
    return (Profile(batch=1, smallest=size, common=size, largest=size),)


def _tile_profiles(sizes: Sequence[int]) -> tuple[Profile, ...]:
    profiles = []
    for batch in range(1, MAX_BATCH + 1):
        # One canvas alone may have any number of pixels.
        limit = MAX_BATCH_PIXELS // batch if batch > 1 else sizes[-1] ** 2
        squares = [side for side in sizes if side**2 <= limit]
        if not squares:
            break
        largest = max(height for height, width in itertools.product(sizes, repeat=2) if height * width <= limit)
        profiles.append(
            Profile(
                batch=batch,
                smallest=(sizes[0], sizes[0]),
                common=(squares[-1], squares[-1]),
                largest=(largest, largest),
            )
        )
    return tuple(profiles)


def _shortest_edge_profiles(shortest: int, longest: int, multiple: int) -> tuple[Profile, ...]:
    """One for landscape, one for portrait: an image is one canvas."""
    short, long = round_up(shortest, multiple), round_up(longest, multiple)
    usual = min(long, round_up(round(shortest * 4 / 3), multiple))
    landscape = ((multiple, short), (short, usual), (short, long))
    return tuple(
        Profile(batch=1, smallest=smallest, common=common, largest=largest)
        for smallest, common, largest in (landscape, tuple((width, height) for height, width in landscape))
    )


def largest_batch(geometry: Geometry, size: tuple[int, int]) -> int:
    """The most canvases of (height, width) that a profile holds."""
    return max(profile.batch for profile in make_profiles(geometry) if profile.holds(profile.batch, size))


def input_shapes(metadata: ArtifactMetadata, batch: int, size: tuple[int, int]) -> Shapes:
    """Shapes of the graph's inputs by name for that many canvases of (height, width)."""
    shapes: Shapes = {"image": (batch, *size, 3), "valid_size": (batch, 2)}
    if metadata.kind == "panoptic":
        shapes |= {"score_threshold": (batch,), "overlap_threshold": (batch,)}
    if metadata.uses_image_statistics:
        shapes |= {"pixel_mean": (batch,), "pixel_std": (batch,)}
    return shapes


def profile_shapes(metadata: ArtifactMetadata) -> list[tuple[Shapes, Shapes, Shapes]]:
    """Smallest, common and largest shapes of the graph's inputs, for each profile of an artifact."""
    return [
        (
            input_shapes(metadata, profile.batch, profile.smallest),
            input_shapes(metadata, profile.batch, profile.common),
            input_shapes(metadata, profile.batch, profile.largest),
        )
        for profile in make_profiles(metadata.geometry)
    ]
