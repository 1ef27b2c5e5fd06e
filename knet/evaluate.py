"""`knet evaluate`: scores of a checkpoint, an artifact or a running server on annotated images."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import typer
from rich.console import Console

from knet.client import KNetClient
from knet.json_file import write_json
from knet.served_predictor import served_predictor
from model.checkpoint import CONFIG
from model.checkpoint import load as load_checkpoint
from service.artifact import FILE_NAME
from service.artifact import load as load_artifact
from service.segmenter import Segmenter
from service.variants import choose_variant, open_session
from training.checkpoints import LAST
from training.data.index import DataIndex, Split, evenly_spaced
from training.data.open import open_data
from training.evaluate import evaluate
from training.evaluation_pictures import WorstPictures
from training.metrics import Plan, Scores
from training.predictor import Predictor, make_plan, match_categories, predictor_of
from training.score_tables import print_scores
from training.serving_path import segmenter_of


@dataclass(frozen=True, kw_only=True)
class Wishes:
    """What is asked beside the scores of the whole split."""

    url: str | None = None  # of a running server whose answers are scored
    api_key: str | None = None
    version: str | None = None  # of the server's model; None: the newest
    views: int = 1  # of each image: service/views.py
    variant: str | None = None  # name of the artifact's variant; None: the first that can be run here
    max_images: int | None = None  # no more than so many, evenly spaced
    json_file: typer.FileTextWrite | None = None  # for all scores; where it is standard output, tables are not
    num_worst: int = 0
    pictures: Path | None = None  # folder of the worst images' pictures


def evaluate_model(model: str, data: Path, split: Split, description: Path | None, wishes: Wishes) -> Scores:
    """Print the scores, and write what is wished for.

    Args:
        model: folder of a checkpoint or of an artifact; with a URL, the name of a model of that server.
        data: a data set of any format that is read.
        split: which part of it.
        description: what its folders and numbers mean, where the format does not say.
        wishes: what to write, and where.

    Raises:
        ValueError: the model or the data cannot be used, or they do not fit.
    """
    if bool(wishes.num_worst) != (wishes.pictures is not None):
        raise ValueError("--worst and --pictures go together: how many images, and the folder for their pictures")
    index = open_data(data, split, description)
    is_piped = wishes.json_file is not None and wishes.json_file.name in ("-", "<stdout>")
    console = Console(stderr=is_piped, markup=False)
    with _open_predictor(model, wishes) as predictor:
        records = evenly_spaced(index.records, wishes.max_images)
        plan = make_plan(predictor, index)
        _note(console, index, predictor, plan)
        worst = WorstPictures(index.categories, plan, count=wishes.num_worst)
        observers = (worst.observe,) if wishes.num_worst else ()
        scores = evaluate(predictor, index, records=records, observers=observers)
        about = {"model": model, "kind": predictor.kind, "data": str(data), "format": index.format, "split": split}
    print_scores(scores, console)
    if wishes.json_file is not None:
        write_json(wishes.json_file, json.dumps(about | scores.to_json(), indent=2))
        if not is_piped:
            console.print(f"Scores: {wishes.json_file.name}", soft_wrap=True, highlight=False)
    if wishes.pictures is not None:
        files = worst.write(wishes.pictures)
        console.print(f"Pictures: {len(files)} in {wishes.pictures}", soft_wrap=True, highlight=False)
    return scores


def _note(console: Console, index: DataIndex, predictor: Predictor, plan: Plan) -> None:
    """Say what was assumed of the data, and which predictions count as none."""
    for note in index.notes:
        console.print(f"Note: {note}", style="yellow", highlight=False)
    pairs = zip(predictor.categories, match_categories(predictor, index, plan), strict=True)
    may_count = "mask_ap" not in plan.metrics  # where instances are measured, stuff does not
    unknown = [category.name for category, of_data in pairs if of_data is None and (category.is_thing or may_count)]
    if unknown:
        console.print(f"Note: the data does not have {', '.join(unknown)}; predictions of them count as none")


def local_segmenter(folder: Path, variant: str | None = None) -> Segmenter:
    """The serving path around a checkpoint (in PyTorch) or one of an artifact's graphs (in its runtime)."""
    if (folder / CONFIG).is_file():
        if variant is not None:
            raise ValueError(f"{folder} is a checkpoint and has no variant {variant!r}; they are an artifact's")
        return segmenter_of(load_checkpoint(folder))
    if (folder / FILE_NAME).is_file():
        metadata = load_artifact(folder)
        return Segmenter(metadata, open_session(folder, choose_variant(metadata, variant)))
    last = folder / LAST
    hint = f"; the run in it has not been scored yet: name {last}" if (last / CONFIG).is_file() else ""
    raise ValueError(f"{folder} is neither a checkpoint (no {CONFIG}) nor an artifact (no {FILE_NAME}){hint}")


@contextmanager
def _open_predictor(model: str, wishes: Wishes) -> Iterator[Predictor]:
    if wishes.url is None:
        if wishes.version is not None:
            raise ValueError("--version is of a server's model; a folder is one version: NAME/VERSION")
        yield predictor_of(local_segmenter(Path(model), wishes.variant), views=wishes.views)
        return
    if wishes.variant is not None:
        raise ValueError("--variant is for an artifact's folder; a server runs its own")
    with KNetClient(wishes.url, api_key=wishes.api_key) as client:
        client.wait_ready(timeout=60.0)
        yield served_predictor(client, model, version=wishes.version, views=wishes.views)
