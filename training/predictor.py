"""Whatever segments image files, network, artifact or server, and how its classes meet those of a data set.

Legend: K classes of the data set, M of the model.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from model.config import Kind
from service.image import decode
from service.instances import Instances, Result, select_instances
from service.segmenter import Segmenter
from service.segments import select
from service.views import segment_views
from training.data.index import DataIndex
from training.metrics import Metric, Plan


class NamedCategory(Protocol):
    """What is asked of a category; those of networks and of artifacts have it."""

    @property
    def name(self) -> str:
        """Its name, by which models and data sets meet; their ids may differ."""

    @property
    def is_thing(self) -> bool:
        """Whether its objects are counted."""


@dataclass(frozen=True, kw_only=True)
class Predictor:
    """A model of any runtime."""

    name: str  # for messages
    kind: Kind
    categories: Sequence[NamedCategory]
    score_threshold: float  # of an instance model: below it an instance counts in mask AP alone
    predict: Callable[[bytes], Result]  # content of an image file -> segments; of an instance model of any score


def predictor_of(segmenter: Segmenter, *, views: int = 1) -> Predictor:
    """The serving path in this process; `views` as in `service.views`."""
    metadata = segmenter.metadata
    any_score = 0.0 if metadata.kind == "instance" else None
    return Predictor(
        name=metadata.name,
        kind=metadata.kind,
        categories=metadata.categories,
        score_threshold=metadata.thresholds.score,
        predict=lambda content: segment_views(segmenter, decode(content), views=views, score_threshold=any_score),
    )


def make_plan(predictor: Predictor, index: DataIndex) -> Plan:
    """What can be measured of a model of this kind on a data set of that kind. Raises ValueError where nothing can."""
    instances: frozenset[Metric] = frozenset({"mask_ap", "ap"})
    measured: dict[tuple[Kind, Kind], frozenset[Metric]] = {
        ("panoptic", "panoptic"): frozenset({"pq", "ap", "miou"}),
        ("panoptic", "instance"): instances,
        ("panoptic", "semantic"): frozenset({"miou"}),
        ("instance", "panoptic"): instances,
        ("instance", "instance"): instances,
        ("semantic", "panoptic"): frozenset({"miou"}),
        ("semantic", "semantic"): frozenset({"miou"}),
    }
    kinds = predictor.kind, index.kind
    if kinds not in measured:
        legal = ", ".join(data for model, data in measured if model == predictor.kind)
        raise ValueError(
            f"{predictor.name} is of kind {predictor.kind} and cannot be scored on {index.format} data, which is for "
            f"kind {index.kind}; legal: data for kind {legal}"
        )
    return Plan(
        metrics=measured[kinds],
        unlabelled_is_void=index.kind != "instance",
        score_threshold=predictor.score_threshold if predictor.kind == "instance" else 0.0,
    )


def match_categories(predictor: Predictor, index: DataIndex, plan: Plan) -> tuple[int | None, ...]:
    """The data's class index of each of the model's classes (M,), by name; None for one that the data does not have.

    Raises ValueError, with both lists, where the model lacks a class of the data that is measured, and where PQ is
    measured and one of the two counts a class's objects and the other does not.
    """
    only_things = "mask_ap" in plan.metrics
    of_data = {c.name: i for i, c in enumerate(index.categories) if c.is_thing or not only_things}
    of_model = {c.name: c for c in predictor.categories if c.is_thing or not only_things}
    if missing := [name for name in of_data if name not in of_model]:
        what = "things" if only_things else "categories"
        raise ValueError(
            f"the data has {what} that {predictor.name} does not know: {_listed(missing)}. Categories meet by name; "
            f"the data's: {_listed(of_data)}; the model's: {_listed(of_model)}"
        )
    if "pq" in plan.metrics:
        for name, position in of_data.items():
            if index.categories[position].is_thing != of_model[name].is_thing:
                kinds = ("a thing", "stuff") if of_model[name].is_thing else ("stuff", "a thing")
                raise ValueError(f"{name!r} is {kinds[0]} to {predictor.name} and {kinds[1]} in the data")
    return tuple(of_data.get(category.name) if category.name in of_model else None for category in predictor.categories)


def to_data_classes(result: Result, class_of: Sequence[int | None]) -> Result:
    """The result (of M classes) in the data's classes; segments of others are left out."""
    known = [index for index, of_data in enumerate(class_of) if of_data is not None]
    result = select_instances(result, known) if isinstance(result, Instances) else select(result, known)
    renamed = []
    for segment in result.segments:
        class_index = class_of[segment.class_index]
        assert class_index is not None
        renamed.append(replace(segment, class_index=class_index))
    return replace(result, segments=tuple(renamed))


def _listed(names: Iterable[str]) -> str:
    shown = list(names)
    return ", ".join(shown[:20]) + (f", and {len(shown) - 20} more" if len(shown) > 20 else "")
