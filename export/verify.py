"""Does an artifact answer as PyTorch does? Both run the whole serving path over real images."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from service import rle
from service.instances import Instances, Result
from service.segmenter import Segmenter
from service.segments import Segmentation

# An artifact is refused above either of these.
MAX_PIXEL_DIFFERENCE = 1e-3  # share of the pixels of all images
MAX_SCORE_DIFFERENCE = 5e-3  # share of the matched segments whose scores differ by more than SCORE_TOLERANCE
SCORE_TOLERANCE = 1e-3
MIN_IOU = 0.5  # from which on masks that may overlap are the same one

_Runs = tuple[NDArray[np.int64], NDArray[np.int64]]  # where each run of a mask starts and ends


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


def compare(answers: Iterable[Result], candidate: Segmenter, images: Iterable[NDArray[np.uint8]]) -> Comparison:
    """Run the candidate over images (H, W, 3) and count where it differs from the reference's answers to them."""
    total = Comparison()
    for answer, image in zip(answers, images, strict=True):
        total = total + compare_answers(answer, candidate.segment(image))
    return total


def compare_answers(reference: Result, candidate: Result) -> Comparison:
    """Differences between two answers for one image.

    Ids follow the order of scores, so that a last bit may swap two of them. Segments are therefore matched first.

    Raises:
        ValueError: the answers are not of one form: one has an id-map, the other masks that may overlap.
    """
    if isinstance(reference, Segmentation) and isinstance(candidate, Segmentation):
        return _compare_maps(reference, candidate)
    if isinstance(reference, Instances) and isinstance(candidate, Instances):
        return _compare_instances(reference, candidate)
    kinds = [type(answer).__name__ for answer in (reference, candidate)]
    raise ValueError(f"cannot compare {kinds[0]} with {kinds[1]}: the answers must be of one kind")


def _compare_maps(reference: Segmentation, candidate: Segmentation) -> Comparison:
    """Each segment of the candidate stands for the reference's of its class with which it shares most pixels."""
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

    matches = [(int(best[i]) - 1, int(i) - 1) for i in np.flatnonzero(is_match) if i > 0]
    return _count(reference, candidate, matches, reference.id_map.size, reference.id_map.size - same)


def _compare_instances(reference: Instances, candidate: Instances) -> Comparison:
    """Pixels in which a mask differs from its match, and those of masks without one, each mask counted by itself.

    They are compared with the pixels of the image, or of all masks where these are more: masks overlap, and a hundred
    of them have a hundred borders.
    """
    matches = _match_masks(reference, candidate)
    differing = 0
    for ours, theirs in matches:
        if reference.counts[ours] != candidate.counts[theirs]:
            differing += int((_mask(reference, ours) ^ _mask(candidate, theirs)).sum())
    for answer, matched in ((reference, {i for i, _ in matches}), (candidate, {j for _, j in matches})):
        differing += sum(segment.area for index, segment in enumerate(answer.segments) if index not in matched)
    pixels = max(math.prod(reference.image_size), sum(segment.area for segment in reference.segments))
    return _count(reference, candidate, matches, pixels, differing)


def _match_masks(reference: Instances, candidate: Instances) -> list[tuple[int, int]]:
    """Pairs (reference, candidate) of equal class, the best IoU first, each mask in one pair at most."""
    our_runs, their_runs = (
        [rle.decode_runs(counts, answer.image_size) for counts in answer.counts] for answer in (reference, candidate)
    )
    pairs = []
    for i, ours in enumerate(reference.segments):
        for j, theirs in enumerate(candidate.segments):
            if ours.class_index != theirs.class_index:
                continue
            shared = _shared_pixels(our_runs[i], their_runs[j])
            iou = shared / (ours.area + theirs.area - shared)
            if iou >= MIN_IOU:
                # Rounded: between twins that differ by a few pixels, the scores tell which is which.
                pairs.append((-round(iou, 2), abs(ours.score - theirs.score), i, j))
    matches: dict[int, int] = {}
    for _, _, i, j in sorted(pairs):
        if i not in matches and j not in matches.values():
            matches[i] = j
    return list(matches.items())


def _shared_pixels(first: _Runs, second: _Runs) -> int:
    """Pixels that two masks have in common."""
    starts, ends = second
    lengths = ends - starts
    covered = np.cumsum(lengths)
    # Pixels of the second mask before a position grow along its runs and stay level between them.
    positions = np.stack([starts, ends], axis=1).ravel()
    before = np.stack([covered - lengths, covered], axis=1).ravel()
    return int((np.interp(first[1], positions, before) - np.interp(first[0], positions, before)).sum())


def _mask(answer: Instances, index: int) -> NDArray[np.bool_]:
    return rle.decode(answer.counts[index], answer.image_size)


def _count(
    reference: Result, candidate: Result, matches: Sequence[tuple[int, int]], pixels: int, differing_pixels: int
) -> Comparison:
    """One image's comparison; `matches` are positions in the segments of the two."""
    differences = np.array([abs(reference.segments[i].score - candidate.segments[j].score) for i, j in matches])
    return Comparison(
        images=1,
        pixels=pixels,
        differing_pixels=differing_pixels,
        segments=len(reference.segments),
        matched_segments=len(differences),
        differing_scores=int((differences > SCORE_TOLERANCE).sum()),
        largest_score_difference=float(differences.max(initial=0.0)),
    )
