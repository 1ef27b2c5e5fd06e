"""Run a model over a data set, image by image, and score what it answers."""

from collections.abc import Callable, Iterable, Sequence

from rich.progress import track

from model.knet import KNet
from service.errors import ServiceError
from service.instances import Result
from training.data.index import Annotation, DataIndex, Record, evenly_spaced
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


def evaluate_network(network: KNet, index: DataIndex, *, show_progress: bool = True) -> tuple[Scores, bytes]:
    """Score a network on its own device; it is left in evaluation mode.

    Returns:
        The scores of all images, and a page to look at (PNG): up to eight of them, evenly spaced, each beside its
        annotation and the prediction.
    """
    predictor = predictor_of(segmenter_of(network))
    shown = evenly_spaced(index.records, PredictionPage.NUM_IMAGES)
    page = PredictionPage(index.categories, make_plan(predictor, index), shown)
    scores = evaluate(predictor, index, show_progress=show_progress, observers=(page.observe,))
    return scores, page.png()
