"""Networks of each kind, and predictors by hand, over annotated files."""

import io
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from model.knet import KNet
from service.errors import ServiceError
from training.data.index import Annotation, DataIndex, Record, evenly_spaced
from training.evaluate import evaluate, evaluate_network
from training.evaluation_pictures import WorstPictures
from training.metrics import Plan
from training.predictor import Predictor


@dataclass(frozen=True)
class Given:
    """An annotation that is already there."""

    annotation: Annotation
    path: Path

    def read(self, height: int, width: int) -> Annotation:
        assert self.annotation.layers.shape[1:] == (height, width)
        return self.annotation


@pytest.fixture
def make_index(by_hand, categories, tmp_path):
    """Writes images of a cell and a dot on two grounds, and indexes them for a kind."""

    def make(kind: str, count: int = 3, of=categories) -> DataIndex:
        records = []
        for number in range(count):
            height, width = 50 + 10 * number, 60
            ids = np.ones((height, width), np.int32)
            ids[:, width // 2 :] = 2
            ids[5 : 15 + number, 5:20], ids[25:40, 10:25], ids[45:, 50:] = 3, 4, 0
            classes = [2, 3, 0, 1]
            if kind == "instance":
                ids, classes = np.where(ids < 3, 0, ids - 2).astype(np.int32), [0, 1]
            pixels = np.stack([ids * 60, np.full_like(ids, 40 * number), ids * 20], axis=-1).astype(np.uint8)
            path = tmp_path / f"{number}.png"
            Image.fromarray(pixels).save(path)
            source = Given(by_hand.annotation(ids, classes), path)
            group = "even" if number % 2 == 0 else "odd"
            records.append(Record(image_path=path, source=source, height=height, width=width, group=group))
        return DataIndex(format="by hand", kind=kind, categories=tuple(of), records=tuple(records))

    return make


@pytest.fixture
def perfect(categories):
    """Makes a predictor that answers each record's annotation, by its red values."""

    def make(by_hand, index, kind="panoptic") -> Predictor:
        def predict(content: bytes):
            red = np.asarray(Image.open(io.BytesIO(content)))[..., 0]
            ids = (red // 60).astype(np.int32)
            return by_hand.segmentation(ids, index.records[0].source.annotation.class_index.tolist())

        return Predictor(name="perfect", kind=kind, categories=categories, score_threshold=0.5, predict=predict)

    return make


def test_a_perfect_prediction_scores_one_and_groups_are_kept(by_hand, make_index, perfect):
    index = make_index("panoptic")
    scores = evaluate(perfect(by_hand, index), index, show_progress=False)
    assert {value for name, value in scores.summary.items() if name != "num_images"} == {1.0}
    assert scores.groups.keys() == {"even", "odd"}
    assert [image.name for image in scores.images] == ["0.png", "1.png", "2.png"]


def test_the_datas_classes_may_be_in_another_order(by_hand, make_index, perfect, categories):
    index = make_index("semantic", of=categories[::-1])
    records = []
    for record in index.records:
        annotation = replace(record.source.annotation, class_index=np.array([1, 0, 3, 2]))
        records.append(replace(record, source=replace(record.source, annotation=annotation)))
    predictor = perfect(by_hand, make_index("panoptic"), "semantic")
    scores = evaluate(predictor, replace(index, records=tuple(records)), show_progress=False)
    assert scores.summary["miou"] == 1


@pytest.mark.parametrize(
    ("name", "kinds", "main"),
    [
        ("learned_config", ("panoptic", "instance", "semantic"), {"panoptic": "pq", "instance": "mask_ap"}),
        ("seeded_config", ("panoptic",), {"panoptic": "pq"}),
        ("instance_config", ("instance", "panoptic"), {"instance": "mask_ap", "panoptic": "mask_ap"}),
        ("semantic_config", ("semantic", "panoptic"), {}),
    ],
)
def test_networks_of_each_kind_are_scored_on_data_that_fits(
    request, make_index, categories, tmp_path, name, kinds, main
):
    network = KNet(request.getfixturevalue(name))
    for kind in kinds:
        index = make_index(kind, of=categories[:2] if kind == "instance" else categories)
        scores, page = evaluate_network(network, index, show_progress=False)
        assert scores.main[0] == main.get(kind, "miou")
        assert scores.summary["num_images"] == 3
        assert all(0 <= value <= 1 for key, value in scores.summary.items() if key != "num_images")
        assert evaluate_network(network, index, show_progress=False) == (scores, page)
        assert not network.training


def test_a_page_shows_eight_images_and_the_scores_are_of_all(make_index, learned_config):
    network = KNet(learned_config)
    scores, page = evaluate_network(network, make_index("panoptic", count=10), show_progress=False)
    assert len(scores.images) == 10
    height, width = np.asarray(Image.open(io.BytesIO(page))).shape[:2]
    _, few = evaluate_network(network, make_index("panoptic", count=2), show_progress=False)
    few_height, few_width = np.asarray(Image.open(io.BytesIO(few))).shape[:2]
    assert few_width == width
    assert height == pytest.approx(4 * few_height, abs=40)


def test_records_are_chosen_evenly_from_the_first_to_the_last(make_index):
    records = make_index("panoptic", count=7).records
    assert [record.image_path.stem for record in evenly_spaced(records, 3)] == ["0", "3", "6"]
    assert evenly_spaced(records, 8) == evenly_spaced(records, None) == records
    assert evenly_spaced(records, 1) == records[:1]
    assert evenly_spaced((), 8) == ()


def test_a_set_without_images_is_no_error(make_index, learned_config, tmp_path):
    index = make_index("panoptic", count=0)
    scores, _ = evaluate_network(KNet(learned_config), index, show_progress=False)
    assert scores.summary == {"num_images": 0}


def test_problems_name_the_file(by_hand, make_index, perfect):
    index = make_index("panoptic")

    def fails(content):
        raise ServiceError("the model failed")

    with pytest.raises(ValueError, match=r"0\.png: the model failed"):
        evaluate(replace(perfect(by_hand, index), predict=fails), index, show_progress=False)

    def small(content):
        return by_hand.segmentation(by_hand.row((1, 4)), [0])

    with pytest.raises(ValueError, match=r"0\.png: the prediction is 4x1 pixels"):
        evaluate(replace(perfect(by_hand, index), predict=small), index, show_progress=False)


def test_one_image_is_held_at_a_time(by_hand, make_index, perfect):
    """Annotations are read when their turn comes, and pictures are drawn of the worst alone."""
    index = make_index("panoptic", count=5)
    seen = []

    def watch(record, content, prediction, annotation, scores):
        seen.append(record.image_path.stem)

    evaluate(perfect(by_hand, index), index, records=index.records[1:4], show_progress=False, observers=(watch,))
    assert seen == ["1", "2", "3"]


def test_the_worst_images_are_drawn_the_worst_first(by_hand, make_index, perfect, categories, tmp_path):
    index = make_index("panoptic", count=5)
    perfect_predict = perfect(by_hand, index).predict
    calls = iter(range(5))

    def predict(content):
        """Right for images 0 and 3, nothing for 2, without one segment for 1 and 4."""
        result, number = perfect_predict(content), next(calls)
        if number in (0, 3):
            return result
        ids = result.id_map * (result.id_map != 1) if number != 2 else np.zeros_like(result.id_map)
        present = [segment.class_index for segment in result.segments if (ids == segment.id).any()]
        return by_hand.segmentation(by_hand.renumber(ids, [2, 3, 0, 1])[0], present)

    worst = WorstPictures(categories, Plan(metrics=frozenset({"pq"})), count=2)
    predictor = replace(perfect(by_hand, index), predict=predict)
    scores = evaluate(predictor, index, show_progress=False, observers=(worst.observe,))
    assert [image.scores["pq"] for image in scores.images] == [1, 0.75, 0, 1, 0.75]
    files = worst.write(tmp_path / "worst" / "deep")
    assert [file.name for file in files] == ["001_2.png", "002_1.png"]
    rows, columns = np.asarray(Image.open(files[0])).shape[:2]
    assert columns > 2 * rows
