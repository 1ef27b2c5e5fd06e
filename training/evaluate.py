"""Run a model over a data set, image by image, and score what it answers."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
from rich.progress import track

from model.knet import KNet
from service.errors import ServiceError
from service.instances import Result
from training.data.index import Annotation, DataIndex, Record
from training.evaluation_pictures import PredictionPage
from training.metrics import Evaluation, ImageScores, Scores
from training.predictor import Predictor, make_plan, match_categories, predictor_of, to_data_classes
from training.serving_path import segmenter_of

# What sees each image while it is there: record, content of the file, prediction, annotation, the image's scores.
Observer = Callable[[Record, bytes, Result, Annotation, ImageScores], None]


def evaluate(
    predictor: Predictor,
    index: DataIndex,
    *,
    records: Sequence[Record] | None = None,
    show_progress: bool = True,
    observers: Iterable[Observer] = (),
) -> Scores:
    """Segment every image and compare with its annotation; one image is in memory at a time.

    Args:
        predictor: the model. Its categories and the data's meet by name.
        index: the data.
        records: some of the index' records; None: all.
        show_progress: show a bar.
        observers: are given each image with what was predicted, in the data's classes.

    Raises:
        ValueError: kinds or categories do not fit, or a file cannot be used.
    """
    plan = make_plan(predictor, index)
    class_of = match_categories(predictor, index, plan)
    evaluation = Evaluation(index.categories, plan)
    watching = tuple(observers)
    chosen = index.records if records is None else records
    for record in track(chosen, description="evaluating", disable=not show_progress, transient=True):
        content = record.image_path.read_bytes()
        annotation = record.source.read(record.height, record.width)
        try:
            prediction = to_data_classes(predictor.predict(content), class_of)
            scores = evaluation.add(prediction, annotation, name=record.image_path.name, group=record.group)
        except (ServiceError, ValueError) as error:
            raise ValueError(f"{record.image_path}: {error}") from error
        for observe in watching:
            observe(record, content, prediction, annotation, scores)
    return evaluation.scores()


def evaluate_network(
    network: KNet,
    index: DataIndex,
    *,
    records: Sequence[Record] | None = None,
    max_images: int | None = None,
    show_progress: bool = True,
    page: Path | None = None,
) -> Scores:
    """Score a network on its own device; it is left in evaluation mode.

    Args:
        network: of any kind that the data is for.
        index: the data.
        records: some of the index' records; None: all.
        max_images: no more than so many of them, evenly spaced; None: all.
        show_progress: show a bar.
        page: PNG file to write: up to eight images, evenly spaced, each beside annotation and prediction.
    """
    chosen = evenly_spaced(index.records if records is None else records, max_images)
    predictor = predictor_of(segmenter_of(network))
    if page is None:
        return evaluate(predictor, index, records=chosen, show_progress=show_progress)
    shown = evenly_spaced(chosen, PredictionPage.NUM_IMAGES)
    sheet = PredictionPage(index.categories, make_plan(predictor, index), shown)
    scores = evaluate(predictor, index, records=chosen, show_progress=show_progress, observers=(sheet.observe,))
    page.write_bytes(sheet.png())
    return scores


def evenly_spaced(records: Sequence[Record], count: int | None) -> tuple[Record, ...]:
    """At most `count` of the records, always the same ones, from the first to the last; None: all."""
    if count is None or count >= len(records):
        return tuple(records)
    return tuple(records[place] for place in np.linspace(0, len(records) - 1, count).round().astype(int))
