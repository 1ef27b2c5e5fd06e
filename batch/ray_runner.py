"""The runner of many machines: Ray Data streams the images through actors that have one engine each.

The driver, where the command runs, has the list of images, the journal and the output; the other machines need to read
the images and the model repository under the same paths. What a machine that is lost had in work is done by another.

Images come in batches. An actor that meets a slide among them leaves it alone, and when all images are done, slides
follow one by one: their files come to the driver compressed, and are kept as soon as each is done.
"""

import logging
import math
import os
import shutil
import socket
import tempfile
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import orjson
import pyarrow as pa
import ray
import ray.data
import ray.exceptions

from batch.durable import write_bytes
from batch.folder import JobFolder
from batch.items import Item
from batch.sinks import SINKS, Format
from batch.slide import LABELS, TABLE
from batch.steps import Outcome, SlideOptions, Steps
from batch.workers import for_each
from service import repository
from service.answers import Wish
from service.errors import ServiceError
from service.replicas import Replicas
from service.repository import StoredArtifact
from service.session import available_cpus
from service.settings import Settings

_CPUS_OF_ENGINE = 4
_CONNECT_S = 10.0
_BATCH = 32  # images that an actor is given at once; it works at two such batches, so that its engine is always busy
_SCHEMA = pa.schema([("index", pa.int64()), ("item", pa.binary())])
_LATER = {"slide": "later"}  # in place of a record


def run(
    folder: JobFolder,
    stored: StoredArtifact,
    settings: Settings,
    wish: Wish,
    format: Format,
    advanced: Callable[[Outcome], None],
    slide_pixels: int,
    address: str,
) -> None:
    """Do all images that are not done.

    Args:
        slide_pixels: images of more pixels are slides.
        address: of the cluster: HOST:PORT, ray://HOST:PORT, `auto`, or `local` for one of this machine alone.

    Raises:
        ServiceError: the engine cannot be started, or the cluster fails.
        OSError: there is no cluster, or an output cannot be written.
    """
    _check_address(address)
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # a cluster that we start tells nobody of it
    logging.getLogger("ray").setLevel(logging.WARNING)
    ray.init(address=address, log_to_driver=False, configure_logging=False)
    ray.data.DataContext.get_current().enable_progress_bars = False  # there is one
    arguments = {
        "stored": stored,
        "settings": settings,
        "wish": wish,
        "format": format,
        "slide_pixels": slide_pixels,
    }
    try:
        slides: list[tuple[int, Item]] = []
        for item, outcome in _outcomes(folder.pending(), _BATCH, arguments, folder.slide_work):
            if outcome.record == _LATER:
                slides.append((outcome.index, item))
            else:
                folder.keep(item, outcome)
                advanced(outcome)
        if slides:
            for item, outcome in _outcomes(slides, 1, arguments, folder.slide_work):
                folder.keep(item, outcome)
                advanced(outcome)
    except ray.exceptions.RayError as error:
        raise ServiceError(f"the Ray cluster cannot do it: {error}") from error
    finally:
        ray.shutdown()


def _outcomes(
    items: Iterable[tuple[int, Item]], batch: int, arguments: dict[str, Any], work: Path
) -> Iterator[tuple[Item, Outcome]]:
    """What the actors make of the images, `batch` of which one is given at once; single ones may be slides.

    `work`: where the files of slides are written, one slide at a time.
    """
    place = _find_place(ray.nodes())
    places = _count_places(ray.nodes(), place)
    images = ray.data.from_arrow(list(_blocks(items, batch)))
    outcomes = images.map_batches(
        _Actor,
        fn_constructor_kwargs={**arguments, "does_slides": batch == 1, **place},
        batch_size=batch,
        batch_format="pyarrow",
        zero_copy_batch=True,
        num_cpus=place["cpus"],
        num_gpus=place["gpus"],
        compute=ray.data.ActorPoolStrategy(
            min_size=1,  # where a machine is lost, those that are left do it
            max_size=places,
            initial_size=places,
            max_tasks_in_flight_per_actor=4,
            max_concurrent_calls_per_actor=2,
            enable_true_multi_threading=True,
        ),
    )
    for row in outcomes.iter_rows():
        slide = None
        if row["labels"] is not None:
            slide = work / str(row["index"])
            write_bytes(slide / LABELS, row["labels"])
            write_bytes(slide / TABLE, row["table"])
        record = orjson.loads(row["record"])
        outcome = Outcome(index=row["index"], record=record, picture=row["picture"], slide=slide)
        yield Item(**orjson.loads(row["item"])), outcome


class _Actor:
    """One engine in a process of Ray's; `cpus` are those that it may use.

    Where it does no slides, it gives `_LATER` for each.
    """

    def __init__(
        self,
        stored: StoredArtifact,
        settings: Settings,
        wish: Wish,
        format: Format,
        slide_pixels: int,
        does_slides: bool,
        cpus: int,
        gpus: int,
    ) -> None:
        metadata = stored.metadata
        stored = repository.read(stored.folder.parents[1], metadata.name, metadata.version)
        own = settings.of_model(metadata.name).model_copy(update={"replicas": None, "engine_threads": cpus})
        settings = settings.model_copy(update={"models": {metadata.name: own}})
        self._replicas = Replicas(stored, settings)
        self._replicas.start()
        self._replicas.wait_ready()
        self._work = tempfile.TemporaryDirectory(prefix="knet-slides-")
        slides = SlideOptions(min_pixels=slide_pixels, work=Path(self._work.name))
        self._steps = Steps(self._replicas, stored.metadata, wish, SINKS[format], settings, slides)
        self._does_slides = does_slides
        self._num_threads = self._replicas.max_batch + cpus

    def __call__(self, batch: pa.Table) -> pa.Table:
        """Outcomes of a batch of images."""
        outcomes: dict[int, Outcome] = {}

        def do(entry: tuple[int, Item]) -> None:
            index, item = entry
            is_later = not self._does_slides and self._steps.is_slide(item)
            outcomes[index] = Outcome(index=index, record=_LATER) if is_later else self._steps(index, item)

        rows = batch.to_pylist()
        for_each(do, ((row["index"], Item(**orjson.loads(row["item"]))) for row in rows), self._num_threads)
        done = [outcomes[row["index"]] for row in rows]
        table = pa.table(
            {
                "index": batch["index"],
                "item": batch["item"],
                "record": pa.array([orjson.dumps(outcome.record) for outcome in done], pa.binary()),
                "picture": pa.array([outcome.picture for outcome in done], pa.binary()),
                "labels": pa.array([_read_file(outcome, LABELS) for outcome in done], pa.large_binary()),
                "table": pa.array([_read_file(outcome, TABLE) for outcome in done], pa.large_binary()),
            }
        )
        for outcome in done:
            if outcome.slide is not None:
                shutil.rmtree(outcome.slide)
        return table


def _read_file(outcome: Outcome, name: str) -> bytes | None:
    """One of the files of a slide; they are compressed, so that they take a small part of what the slide takes."""
    return None if outcome.slide is None else (outcome.slide / name).read_bytes()


def _check_address(address: str) -> None:
    """Raise OSError where nobody listens; Ray itself tries for many minutes."""
    parts = urlsplit(address if "://" in address else f"//{address}")
    if parts.hostname and parts.port:
        try:
            socket.create_connection((parts.hostname, parts.port), _CONNECT_S).close()
        except OSError as error:
            raise ConnectionError(f"no Ray cluster at {address}: {error.strerror or error}") from error


def _blocks(items: Iterable[tuple[int, Item]], size: int) -> Iterator[pa.Table]:
    """Tables of the images to do; what an actor is given is one of them."""
    left = iter(items)
    while rows := [{"index": n, "item": orjson.dumps(item.to_dict())} for n, item in islice(left, size)]:
        yield pa.Table.from_pylist(rows, _SCHEMA)


def _find_place(nodes: list[dict[str, Any]]) -> dict[str, int]:
    """What an engine gets: a GPU and a processor where there are GPUs, else a few processors."""
    alive = [node["Resources"] for node in nodes if node["Alive"]]
    if any(resources.get("GPU") for resources in alive):
        return {"cpus": 1, "gpus": 1}
    fewest = min(math.floor(resources["CPU"]) for resources in alive if resources.get("CPU"))
    return {"cpus": max(1, min(_CPUS_OF_ENGINE, fewest, available_cpus())), "gpus": 0}


def _count_places(nodes: list[dict[str, Any]], place: dict[str, int]) -> int:
    """Engines that the cluster has room for."""
    alive = [node["Resources"] for node in nodes if node["Alive"]]
    kind, share = ("GPU", place["gpus"]) if place["gpus"] else ("CPU", place["cpus"])
    return max(1, sum(int(resources.get(kind, 0) / share) for resources in alive))
