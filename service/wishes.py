"""What a request asks for, checked against the model: its query parameters and its `Accept` header."""

from collections.abc import Iterable

from service.accept import JSON, PNG, choose
from service.answers import Wish, tasks_of
from service.artifact import ArtifactMetadata
from service.errors import InvalidParameterError
from service.schemas import Format, SegmentQuery
from service.segmenter import find_thresholds
from service.views import check_views

_PICTURES: tuple[Format, ...] = ("png", "overlay")


def read_wish(query: SegmentQuery, accept: str, metadata: ArtifactMetadata) -> Wish:
    """Check a query and an `Accept` header against the artifact.

    Raises:
        InvalidParameterError: a parameter is not legal for this model.
        NotAcceptableError: the header takes no form that the answer has.
    """
    task = query.task or metadata.kind
    if task not in tasks_of(metadata):
        raise InvalidParameterError(f"task {task} is not one of {metadata.name}: {', '.join(tasks_of(metadata))}")
    has_picture = query.format is None or query.format in _PICTURES
    media_type = choose(accept, [JSON, PNG] if has_picture else [JSON])
    output = query.format or ("png" if media_type == PNG else "rle")
    if output == "png" and metadata.kind == "instance":
        raise InvalidParameterError(
            f"the masks of {metadata.name} may overlap, and overlapping masks have no PNG form; "
            "name format=rle, format=polygon or format=overlay"
        )
    check_views(query.views, metadata)
    find_thresholds(metadata, score_threshold=query.score_threshold, overlap_threshold=query.overlap_threshold)
    return Wish(
        task=task,
        format=output,
        picture_only=media_type == PNG,
        class_indices=_find_categories(query.categories, metadata),
        score_threshold=query.score_threshold,
        overlap_threshold=query.overlap_threshold,
        views=query.views,
    )


def _find_categories(wanted: Iterable[str], metadata: ArtifactMetadata) -> frozenset[int] | None:
    names = [name.strip() for entry in wanted for name in entry.split(",") if name.strip()]
    if not names:
        return None
    by_name = {category.name: index for index, category in enumerate(metadata.categories)}
    by_name.update({str(category.id): index for index, category in enumerate(metadata.categories)})
    if unknown := [name for name in names if name not in by_name]:
        legal = ", ".join(f"{category.id} ({category.name})" for category in metadata.categories)
        raise InvalidParameterError(f"unknown categories {', '.join(unknown)}; this model has {legal}")
    return frozenset(by_name[name] for name in names)
