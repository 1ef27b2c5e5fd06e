"""Does an artifact answer as PyTorch does? Both run the whole serving path over real images."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from service.segmenter import Segmenter
from service.segments import Segmentation

# An artifact is refused above either of these.
MAX_PIXEL_DIFFERENCE = 1e-3  # share of the pixels of all images
MAX_SCORE_DIFFERENCE = 5e-3  # share of the matched segments whose scores differ by more than SCORE_TOLERANCE
SCORE_TOLERANCE = 1e-3


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Sums over images."""

    images: int = 0
    pixels: int = 0
    differing_pixels: int = 0
    segments: int = 0  # of the reference
    matched_segments: int = 0
    differing_scores: int = 0
    largest_score_difference: float = 0.0

    @property
    def pixel_difference(self) -> float:
        """Share of pixels whose segment differs, 0..1."""
        return self.differing_pixels / max(1, self.pixels)

    @property
    def score_difference(self) -> float:
        """Share of matched segments whose score differs, 0..1."""
        return self.differing_scores / max(1, self.matched_segments)

    @property
    def accepted(self) -> bool:
        """Both shares are within bounds, and something was compared."""
        return (
            self.images > 0
            and self.pixel_difference <= MAX_PIXEL_DIFFERENCE
            and self.score_difference <= MAX_SCORE_DIFFERENCE
        )

    def __add__(self, other: "Comparison") -> "Comparison":
        return Comparison(
            images=self.images + other.images,
            pixels=self.pixels + other.pixels,
            differing_pixels=self.differing_pixels + other.differing_pixels,
            segments=self.segments + other.segments,
            matched_segments=self.matched_segments + other.matched_segments,
            differing_scores=self.differing_scores + other.differing_scores,
            largest_score_difference=max(self.largest_score_difference, other.largest_score_difference),
        )


def compare(reference: Segmenter, candidate: Segmenter, images: Iterable[NDArray[np.uint8]]) -> Comparison:
    """Run both over images (H, W, 3) and count where they differ."""
    total = Comparison()
    for image in images:
        total = total + compare_answers(reference.segment(image), candidate.segment(image))
    return total


def compare_answers(reference: Segmentation, candidate: Segmentation) -> Comparison:
    """Differences between two answers for one image.

    Ids follow the order of scores, so that a last bit may swap two of them. Segments are therefore matched first: each
    of the candidate's stands for the reference's of the same class with which it shares most pixels.
    """
    num_reference, num_candidate = len(reference.segments), len(candidate.segments)
    pairs = reference.id_map.astype(np.int64) * (num_candidate + 1) + candidate.id_map
    shared = np.bincount(pairs.ravel(), minlength=(num_reference + 1) * (num_candidate + 1))
    shared = shared.reshape(num_reference + 1, num_candidate + 1)

    classes = np.array([-1] + [segment.class_index for segment in reference.segments])
    candidate_classes = np.array([-1] + [segment.class_index for segment in candidate.segments])
    agreeing = np.where(classes[:, None] == candidate_classes[None, :], shared, -1)
    agreeing[0, 1:], agreeing[1:, 0] = -1, -1  # void agrees with void alone
    best = agreeing.argmax(axis=0)
    is_match = (agreeing.max(axis=0) > 0) & (agreeing.argmax(axis=1)[best] == np.arange(num_candidate + 1))
    same = sum(int(shared[best[i], i]) for i in np.flatnonzero(is_match))

    differences = np.array(
        [
            abs(reference.segments[best[i] - 1].score - candidate.segments[i - 1].score)
            for i in np.flatnonzero(is_match)
            if i > 0
        ]
    )
    return Comparison(
        images=1,
        pixels=reference.id_map.size,
        differing_pixels=reference.id_map.size - same,
        segments=num_reference,
        matched_segments=len(differences),
        differing_scores=int((differences > SCORE_TOLERANCE).sum()),
        largest_score_difference=float(differences.max(initial=0.0)),
    )
