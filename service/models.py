"""The models of a running server, by name and version, and how they come and go."""

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

from service import repository
from service.answers import tasks_of
from service.engine import Engine
from service.errors import ConflictError, LoadFailedError, NotFoundError, RequestError, ServiceError
from service.model import Model
from service.repository import StoredArtifact
from service.schemas import ModelDetail, ModelSummary
from service.settings import Settings

logger = logging.getLogger("knet.models")


class ModelMaker(Protocol):
    """A function that makes a model of an artifact, not started; raises ArtifactError if none can be."""

    def __call__(self, stored: StoredArtifact) -> Model:
        """The model."""
        ...


class Models:
    """All versions of all models. Reading needs no lock: what changes is replaced as a whole.

    Raises:
        ArtifactError: the repository has no model, or one that is damaged.
    """

    def __init__(self, settings: Settings, make: ModelMaker) -> None:
        self._settings = settings
        self._make = make
        self._changing = threading.Lock()  # one load at a time: each takes memory beside what serves
        self._closed = False
        self._by_name: dict[str, dict[str, Model]] = {}
        for stored in repository.scan(settings.repository):
            self._put(make(stored))

    def find(self, name: str, version: str | None = None) -> Model:
        """A version, the newest where None; raises NotFoundError with what there is."""
        versions = self._versions(name)
        if version is None:
            return list(versions.values())[-1]
        if version not in versions:
            raise NotFoundError(f"model {name} has no version {version}; it has {', '.join(versions)}")
        return versions[version]

    @contextmanager
    def lease(self, name: str, version: str | None = None) -> Iterator[Model]:
        """A version as `find` finds it, whose engines are not ended within the block."""
        while not (model := self.find(name, version)).lease():
            pass  # it was replaced just now
        try:
            yield model
        finally:
            model.release()

    def names(self) -> set[str]:
        """Of all models."""
        return set(self._by_name)

    def summaries(self) -> list[ModelSummary]:
        """One line for each model."""
        result = []
        for name, versions in self._by_name.items():
            newest = list(versions.values())[-1]
            metadata, ready = newest.metadata, newest.is_ready
            result.append(
                ModelSummary(
                    name=name, versions=list(versions), kind=metadata.kind, tasks=tasks_of(metadata), ready=ready
                )
            )
        return result

    def detail(self, name: str) -> ModelDetail:
        """All versions of one model."""
        return ModelDetail(name=name, versions=[model.describe() for model in self._versions(name).values()])

    def not_ready(self) -> list[str]:
        """Versions that cannot answer now, with their state; empty when the server is ready."""
        return [f"{model.label} {model.replicas.state}" for model in self.all() if not model.is_ready]

    def all(self) -> list[Model]:
        """Every version."""
        return [model for versions in self._by_name.values() for model in versions.values()]

    def sums(self, count: Callable[[Model], float]) -> dict[str, float]:
        """Sum of a number over the versions of each model, by its name."""
        return {name: sum(map(count, versions.values())) for name, versions in self._by_name.items()}

    def sums_of_engines(self, count: Callable[[Engine], float]) -> dict[str, float]:
        """Sum of a number over the engines of each model, by its name."""
        return self.sums(lambda model: sum(map(count, model.replicas.engines)))

    def start(self) -> None:
        """Start all engine processes without waiting for them."""
        for model in self.all():
            model.start()

    def close(self) -> None:
        """End all engine processes; a load in progress is given up."""
        self._closed = True
        with self._changing:
            for model in self.all():
                model.close()
            self._by_name = {}

    def load(self, name: str, version: str) -> Model:
        """Load a version from the repository, anew if it is there already; blocks until it answers.

        Requests go on being answered by what was there, until the new one is warm; then what was there ends.

        Raises:
            NotFoundError: the repository has none.
            LoadFailedError: it is damaged, or its engine does not start; what was there goes on serving.
        """
        with self._changing, _reason_told():
            return self._load(repository.read(self._settings.repository, name, version))

    def unload(self, name: str, version: str) -> None:
        """Forget a version once its requests are answered; blocks.

        Raises:
            NotFoundError: there is none.
            ConflictError: it is the server's last.
        """
        with self._changing:
            model = self.find(name, version)
            if len(self.all()) == 1:
                raise ConflictError(f"{model.label} is this server's last model and stays")
            versions = {number: each for number, each in self._by_name[name].items() if number != version}
            rest = {each: kept for each, kept in self._by_name.items() if each != name}
            self._by_name = {**rest, name: versions} if versions else rest
            logger.info("unloaded %s", model.label)
            self._retire(model)

    def reload(self, report: Callable[[str, ServiceError], None] | None = None) -> list[str]:
        """Make the models those of the repository: load what is new or changed, unload what is gone; blocks.

        Each change stands by itself: what fails is logged, told to `report` with its label, and leaves what was there.

        Returns:
            Labels of what was loaded or unloaded.

        Raises:
            LoadFailedError: no artifact is found there, as where a volume is gone; nothing is unloaded.
        """
        changed = []
        stored = self._list_stored()
        for name, version in stored:
            label = f"{name}/{version}"
            try:
                if self._is_changed(name, version):
                    self.load(name, version)
                    changed.append(label)
            except ServiceError as error:
                logger.error("%s was not loaded: %s", label, error.detail)
                if report is not None:
                    report(label, error)
        for model in self.all():
            if (model.metadata.name, model.metadata.version) not in stored:
                try:
                    self.unload(model.metadata.name, model.metadata.version)
                    changed.append(model.label)
                except ServiceError as error:
                    logger.error("%s was not unloaded: %s", model.label, error.detail)
                    if report is not None:
                        report(model.label, error)
        return changed

    def _list_stored(self) -> list[tuple[str, str]]:
        folder = self._settings.repository
        try:
            stored = repository.list_versions(folder)
        except OSError as error:
            raise LoadFailedError(f"{folder} cannot be read ({error.strerror}): all models stay") from error
        if not stored:
            raise LoadFailedError(f"there is no model in {folder}: all that are loaded stay")
        return stored

    def _is_changed(self, name: str, version: str) -> bool:
        there = self._by_name.get(name, {}).get(version)
        with _reason_told():
            return there is None or there.digest != repository.read(self._settings.repository, name, version).digest

    def _load(self, stored: StoredArtifact) -> Model:
        fresh = self._make(stored)
        fresh.start()
        try:
            fresh.replicas.wait_ready(lambda: not self._closed)
        except ServiceError:
            fresh.close()
            raise
        old = self._by_name.get(fresh.metadata.name, {}).get(fresh.metadata.version)
        self._put(fresh)
        logger.info("%s %s", "loaded anew:" if old else "loaded", fresh.label)
        if old is not None:
            self._retire(old)
        return fresh

    def _put(self, model: Model) -> None:
        """Take a version in; the newest stays last."""
        versions = {**self._by_name.get(model.metadata.name, {}), model.metadata.version: model}
        ordered = dict(sorted(versions.items(), key=lambda entry: int(entry[0])))
        self._by_name = dict(sorted({**self._by_name, model.metadata.name: ordered}.items()))

    def _retire(self, model: Model) -> None:
        model.retire(self._settings.request_timeout_s)

    def _versions(self, name: str) -> dict[str, Model]:
        if name not in self._by_name:
            raise NotFoundError(f"there is no model {name}; there is {', '.join(self._by_name)}")
        return self._by_name[name]


@contextmanager
def _reason_told() -> Iterator[None]:
    """What is wrong with an artifact is the business of whoever asks for it to be loaded."""
    try:
        yield
    except RequestError:
        raise
    except ServiceError as error:
        raise LoadFailedError(error.detail) from error
