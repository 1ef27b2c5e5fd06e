"""What `knet models` does: list the models of a repository, or of a running server."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from knet.client import KNetClient
from service import repository
from service.artifact import ArtifactMetadata, Variant
from service.errors import ArtifactError, NotFoundError
from service.schemas import ModelVersion
from service.variants import runnable_variants, uses_gpu

_SCORES = ("pq", "mask_ap", "miou")  # of a variant, on annotated images: what it was judged by


@dataclass(frozen=True, kw_only=True)
class Way:
    """A variant: how a model can be run. What is not known of a server's is None."""

    name: str
    runtime: str
    precision: str
    file: str
    file_bytes: int | None
    score: tuple[str, float] | None  # on the images that it was judged on when it was exported: ("pq", 0.876)
    obstacle: str | None  # why it cannot run here; None: it can, or the server does not tell


@dataclass(frozen=True, kw_only=True)
class Listed:
    """One version of a model. With a `problem` no more is known of it."""

    name: str
    version: str
    kind: str = ""
    categories: tuple[str, ...] = ()
    variants: tuple[Way, ...] = ()
    running: str | None = None  # name of the variant that runs there, or would run here
    state: str | None = None  # of a server's model
    score: tuple[str, float] | None = None  # of the checkpoint, on its validation images
    data: str | None = None
    licence: str | None = None
    problem: str | None = None


def stored_models(folder: Path) -> list[Listed]:
    """Every version of every model in a repository; files are checked, and what is damaged has a `problem`.

    Raises:
        ArtifactError: there is no model.
    """
    names = sorted(repository.list_versions(folder), key=lambda pair: (pair[0], len(pair[1]), pair[1]))
    if not names:
        repository.scan(folder)  # says what it expected
    return [_stored(folder, name, version) for name, version in names]


def served_models(client: KNetClient) -> list[Listed]:
    """Every version of every model of a server; raises KNetError."""
    return [
        _served(summary["name"], ModelVersion.model_validate(version))
        for summary in client.models()
        for version in client.model(summary["name"])["versions"]
    ]


def show(models: list[Listed], console: Console) -> None:
    """Print a table with a line for each variant."""
    is_served = any(model.state is not None for model in models)
    table = Table("model", "kind", "classes", "variant", "score", *(("state",) if is_served else ("MB", "here")))
    for model in models:
        title = f"{model.name}/{model.version}"
        if model.problem is not None:
            table.add_row(title, "damaged", style="red")
            continue
        for number, way in enumerate(model.variants):
            about = (title, model.kind, str(len(model.categories))) if number == 0 else ("", "", "")
            size = () if way.file_bytes is None else (f"{way.file_bytes / 1e6:.1f}",)
            score = "" if way.score is None else f"{way.score[0]} {way.score[1]:.3f}"
            table.add_row(*about, way.name, score, *size, _state(model, way))
        table.add_section()
    console.print(table)
    for model in models:
        if model.score is not None:
            name, value = model.score
            console.print(f"{model.name}/{model.version}: {name} {value:.3f} on its validation images", soft_wrap=True)
        for way in model.variants:
            if way.obstacle is not None:
                console.print(way.obstacle, style="yellow", soft_wrap=True)
    for model in models:
        if model.problem is not None:
            console.print(model.problem, style="red", soft_wrap=True)


def to_json(models: list[Listed]) -> list[dict[str, Any]]:
    """The same for programs."""
    return [asdict(model) for model in models]


def _state(model: Listed, way: Way) -> str:
    if way.name == model.running:
        return (model.state or "runs").removeprefix("is ")
    if model.state is not None:
        return ""
    return "can run" if way.obstacle is None else "cannot run"


def _stored(folder: Path, name: str, version: str) -> Listed:
    try:
        metadata = repository.read(folder, name, version).metadata
    except (ArtifactError, NotFoundError) as error:
        return Listed(name=name, version=version, problem=f"{folder / name / version}: {error}")
    provenance = metadata.provenance
    obstacles = {variant.name: _obstacle(metadata, variant) for variant in metadata.variants}
    return Listed(
        name=name,
        version=version,
        kind=metadata.kind,
        categories=tuple(category.name for category in metadata.categories),
        variants=tuple(
            _way(
                variant,
                file_bytes=(folder / name / version / variant.file).stat().st_size,
                obstacle=obstacles[variant.name],
            )
            for variant in metadata.variants
        ),
        running=_chosen([variant for variant in metadata.variants if obstacles[variant.name] is None]),
        score=_main_score(provenance.get("validation")),
        data=_text(provenance.get("data")),
        licence=_text(provenance.get("licence")),
    )


def _served(name: str, version: ModelVersion) -> Listed:
    return Listed(
        name=name,
        version=version.version,
        kind=version.kind,
        categories=tuple(category.name for category in version.categories),
        variants=tuple(_way(variant, file_bytes=None, obstacle=None) for variant in version.variants),
        running=version.running,
        state=version.state,
    )


def _way(variant: Variant, *, file_bytes: int | None, obstacle: str | None) -> Way:
    scores = [(name, variant.accuracy[name]) for name in _SCORES if name in variant.accuracy]
    return Way(
        name=variant.name,
        runtime=variant.runtime,
        precision=variant.precision,
        file=variant.file,
        file_bytes=file_bytes,
        score=scores[0] if scores else None,
        obstacle=obstacle,
    )


def _obstacle(metadata: ArtifactMetadata, variant: Variant) -> str | None:
    try:
        runnable_variants(metadata, variant.name)
    except ArtifactError as error:
        return str(error)
    return None


def _chosen(able: list[Variant]) -> str | None:
    """The one that a server would take: the first, but on a GPU before on the processor."""
    return min(able, key=lambda variant: not uses_gpu(variant)).name if able else None


def _main_score(validation: Any) -> tuple[str, float] | None:
    main = validation.get("main") if isinstance(validation, dict) else None
    return (str(main[0]), float(main[1])) if isinstance(main, list) and len(main) == 2 else None


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None
