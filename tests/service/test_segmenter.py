import cv2
import numpy as np
import pytest

from service import rle
from service.artifact import Geometry
from service.errors import ArtifactError, InvalidParameterError
from service.segmenter import MAX_BATCH, Segmenter, image_statistics
from service.session import OnnxSession

ONE_CANVAS = Geometry(mode="tile", sizes=(256,))
TILES = Geometry(mode="tile", sizes=(32, 64), overlap=24)


class RecordingSession:
    """The real session; remembers what was asked of it."""

    def __init__(self, session):
        self.session = session
        self.requests = []

    def run(self, inputs):
        self.requests.append(dict(inputs))
        return self.session.run(inputs)


@pytest.fixture
def make_segmenter(tiny, tmp_path):
    def make(**options) -> Segmenter:
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        metadata = tiny.write_artifact(folder, **options)
        return Segmenter(metadata, RecordingSession(OnnxSession(folder / "tiny" / "1" / "model.onnx", threads=1)))

    return make


def summary(segmentation):
    return [(s.class_index, round(s.score, 4), s.area, s.bbox) for s in segmentation.segments]


def random_scene(seed: int, stride: int) -> np.ndarray:
    """Things of 1..11 as discs in a place each, on stuff; whole cells of the stride."""
    rng = np.random.default_rng(seed)
    height, width = rng.integers(100, 250, 2) // stride
    cells = np.full((height, width), 12, np.uint8)
    for thing in range(1, 12):
        centre = int(rng.integers(width)), int(rng.integers(height))
        cv2.circle(cells, centre, int(rng.integers(3, 20)) // stride + 1, thing, -1)
    image = np.zeros((height * stride, width * stride, 3), np.uint8)
    image[..., 0] = np.repeat(np.repeat(cells, stride, 0), stride, 1)
    return image


@pytest.mark.parametrize("stride", [1, 2])
def test_segments_are_what_the_graph_saw_at_the_posted_size(make_segmenter, scene, stride):
    result = make_segmenter(stride=stride).segment(scene)
    assert summary(result) == [
        (1, 0.75, 252, (2, 30, 18, 14)),
        (1, 0.55, 100, (6, 4, 10, 10)),
        (2, 0.1, 1508, (0, 0, 40, 50)),  # slot 1 loses against both thresholds and is void
    ]
    for value, number in ((7, 1), (3, 2), (12, 3), (1, 0)):
        np.testing.assert_array_equal(result.id_map == number, scene[..., 0] == value)
    assert result.id_map.dtype == np.int32


@pytest.mark.parametrize("stride", [1, 2, 4])
@pytest.mark.parametrize("seed", range(6))
def test_tiled_result_equals_the_untiled_one(make_segmenter, seed, stride):
    image = random_scene(seed, stride)
    whole = make_segmenter(geometry=ONE_CANVAS, stride=stride).segment(image, score_threshold=0, overlap_threshold=0)
    segmenter = make_segmenter(geometry=TILES, stride=stride)
    tiled = segmenter.segment(image, score_threshold=0, overlap_threshold=0)
    assert summary(tiled) == summary(whole)
    np.testing.assert_array_equal(tiled.id_map, whole.id_map)
    assert len(segmenter.session.requests) > 1
    assert max(len(request["image"]) for request in segmenter.session.requests) <= MAX_BATCH


def test_image_of_a_size_that_the_stride_does_not_divide_is_covered(make_segmenter):
    image = np.zeros((201, 67, 3), np.uint8)
    image[..., 0] = 12
    result = make_segmenter(geometry=TILES, stride=4).segment(image)
    assert (result.id_map == 1).all()


def test_thresholds_of_the_request_replace_those_of_the_artifact(make_segmenter, scene):
    segmenter = make_segmenter()
    assert len(segmenter.segment(scene, score_threshold=0.6).segments) == 2
    assert len(segmenter.segment(scene, score_threshold=0.0, overlap_threshold=0.2).segments) == 4


@pytest.mark.parametrize("value", [-0.1, 1.1, float("nan")])
def test_thresholds_out_of_range_are_refused(make_segmenter, scene, value):
    with pytest.raises(InvalidParameterError, match="score_threshold"):
        make_segmenter().segment(scene, score_threshold=value)


def test_things_below_the_artifacts_least_area_are_void_and_stuff_is_kept(make_segmenter, scene):
    segmenter = make_segmenter()
    thresholds = segmenter.metadata.thresholds
    whole = summary(segmenter.segment(scene))
    for min_area, expected in ((252, [whole[0], whole[2]]), (10_000, [whole[2]])):
        changed = thresholds.model_copy(update={"min_area": min_area})
        segmenter.metadata = segmenter.metadata.model_copy(update={"thresholds": changed})
        assert summary(segmenter.segment(scene)) == expected


def test_fit_answers_at_the_posted_size(make_segmenter):
    image = np.zeros((80, 160, 3), np.uint8)
    image[..., 0] = 12
    image[20:40, 40:100, 0] = 12  # no edge, as resizing would mix the ids
    result = make_segmenter(geometry=Geometry(mode="fit", size=(32, 64))).segment(image)
    assert (result.id_map == 1).all()
    assert result.segments[0].bbox == (0, 0, 160, 80)


def test_statistics_are_of_the_whole_image_in_every_tile(make_segmenter):
    image = random_scene(0, 1)
    image[..., 1] = np.arange(image.shape[1])
    segmenter = make_segmenter(geometry=TILES, statistics=True)
    segmenter.segment(image)
    for request in segmenter.session.requests:
        np.testing.assert_array_equal(request["pixel_mean"], np.float32(image.mean()))
        np.testing.assert_array_equal(request["pixel_std"], np.float32(image.astype(np.float64).std()))


def test_statistics_of_a_large_image_are_exact():
    image = np.random.default_rng(0).integers(0, 256, (3000, 2000, 3), np.uint8)
    statistics = image_statistics(image)
    assert statistics["pixel_mean"] == pytest.approx(image.mean(dtype=np.float64), abs=1e-9)
    assert statistics["pixel_std"] == pytest.approx(image.std(dtype=np.float64), abs=1e-9)


def test_a_crowded_image_carries_a_warning(make_segmenter):
    image = np.zeros((32, 32, 3), np.uint8)
    image[:24, :22, 0] = np.arange(22) // 2 + 1
    segmenter = make_segmenter()
    (warning,) = segmenter.segment(image, score_threshold=0, overlap_threshold=0).warnings
    assert "11 thing slots" in warning
    assert segmenter.segment(image, score_threshold=0.5).warnings == ()


def test_instance_masks_overlap_and_a_mask_may_come_twice(make_segmenter):
    image = np.zeros((64, 80, 3), np.uint8)  # one canvas of 64 x 96, at its own scale
    image[4:30, 6:40, 0] |= 1
    image[20:50, 30:70, 0] |= 2
    image[60:, 70:, 0] |= 4
    segmenter = make_segmenter(kind="instance")
    result = segmenter.segment(image)
    assert summary(result) == [
        (1, 0.9, 26 * 34, (6, 4, 34, 26)),
        (0, 0.8, 30 * 40, (30, 20, 40, 30)),
        (0, 0.7, 26 * 34, (6, 4, 34, 26)),
        (1, 0.6, 40, (70, 60, 10, 4)),
    ]
    for counts, bit in zip(result.counts, (1, 2, 1, 4), strict=True):
        np.testing.assert_array_equal(rle.decode(counts, (64, 80)), image[..., 0] & bit > 0)
    assert result.warnings == ()
    assert set(segmenter.session.requests[0]) == {"image", "valid_size"}


@pytest.mark.parametrize(("size", "stride", "upsample"), [((61, 47), 4, 2), ((37, 151), 2, 2), ((300, 211), 2, 1)])
def test_instance_masks_of_odd_sizes_lie_where_they_were_drawn(make_segmenter, size, stride, upsample):
    image = np.zeros((*size, 3), np.uint8)
    window = slice(size[0] // 4, 3 * size[0] // 4), slice(size[1] // 4, 3 * size[1] // 4)
    image[..., 0][window] = 4
    result = make_segmenter(kind="instance", stride=stride, mask_upsample=upsample).segment(image)
    (counts,) = (c for c, segment in zip(result.counts, result.segments, strict=True) if round(segment.score, 2) == 0.6)
    drawn, found = image[..., 0] == 4, rle.decode(counts, size)
    assert (drawn & found).sum() / (drawn | found).sum() > 0.8


@pytest.mark.parametrize(("threshold", "count"), [(None, 2), (0.0, 2), (0.85, 1), (1.0, 0)])
def test_instance_score_threshold_of_the_request_is_used(make_segmenter, threshold, count):
    image = np.full((64, 64, 3), 1, np.uint8)
    segmenter = make_segmenter(kind="instance")
    assert len(segmenter.segment(image, score_threshold=threshold).segments) == count


def test_semantic_segments_are_the_classes_present_without_void(make_segmenter):
    image = np.zeros((50, 40, 3), np.uint8)
    image[10:20, 5:15, 0] = 2
    image[40:, 30:, 0] = 2
    result = make_segmenter(kind="semantic").segment(image)
    assert [(s.id, s.class_index, s.area) for s in result.segments] == [(1, 0, 1800), (2, 2, 200)]
    np.testing.assert_array_equal(result.id_map, np.where(image[..., 0] == 2, 2, 1))


@pytest.mark.parametrize("stride", [1, 4])
def test_tiled_classes_equal_the_untiled_ones(make_segmenter, stride):
    image = random_scene(1, stride)
    image[..., 0] %= 3
    whole = make_segmenter(kind="semantic", geometry=ONE_CANVAS, stride=stride).segment(image)
    segmenter = make_segmenter(kind="semantic", geometry=TILES, stride=stride)
    tiled = segmenter.segment(image)
    assert len(segmenter.session.requests) > 1
    np.testing.assert_array_equal(tiled.id_map, image[..., 0] + 1)
    np.testing.assert_array_equal(tiled.id_map, whole.id_map)
    assert tiled.segments == whole.segments


@pytest.mark.parametrize("stride", [1, 4])
def test_a_class_with_confidence_has_its_mean_as_score(make_segmenter, stride):
    image = np.zeros((60, 64, 3), np.uint8)
    image[:, 32:, 0] = 2
    image[..., 1] = 127  # a half
    image[:30, 32:, 1] = 255
    image[30:, 32:, 1] = 191  # three quarters
    result = make_segmenter(kind="semantic", confidence=True, geometry=ONE_CANVAS, stride=stride).segment(image)
    upper = -(-30 // stride) / (60 // stride)
    expected = [(1, 2, upper + 0.75 * (1 - upper)), (2, 0, 0.5)]
    assert [(s.id, s.class_index, pytest.approx(s.score)) for s in result.segments] == expected


def test_of_a_class_in_several_tiles_the_highest_mean_counts(make_segmenter):
    image = np.zeros((40, 100, 3), np.uint8)
    image[:, :, 1] = 127
    image[:, 60:, 1] = 255
    (segment,) = make_segmenter(kind="semantic", confidence=True, geometry=TILES).segment(image).segments
    assert segment.area == 4000
    assert 0.8 < segment.score <= 1


def test_classes_of_a_scaled_image_cover_the_posted_size(make_segmenter, tiny):
    image = np.zeros((201, 67, 3), np.uint8)
    image[100:] = 1
    result = make_segmenter(kind="semantic", geometry=tiny.SHORTEST_EDGE, stride=4).segment(image)
    assert result.id_map.shape == (201, 67)
    assert (result.id_map[:95] == 1).all()
    assert (result.id_map[105:] == 2).all()


@pytest.mark.parametrize(
    ("kind", "name", "words"),
    [
        ("instance", "overlap_threshold", "takes score_threshold"),
        ("semantic", "score_threshold", "takes neither"),
        ("semantic", "overlap_threshold", "takes neither"),
    ],
)
def test_thresholds_that_the_kind_does_not_use_are_refused(make_segmenter, scene, kind, name, words):
    with pytest.raises(InvalidParameterError, match=f"of kind {kind} and has no {name}; it {words}"):
        make_segmenter(kind=kind).segment(scene, **{name: 0.5})


def test_a_file_that_is_no_graph_is_refused(tmp_path):
    path = tmp_path / "model.onnx"
    path.write_bytes(b"not a graph")
    with pytest.raises(ArtifactError, match="cannot load"):
        OnnxSession(path)
