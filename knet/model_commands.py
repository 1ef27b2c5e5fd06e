"""Commands that look at models: models, bench. Heavy imports are inside the command that needs them."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

import service
from knet.completion import complete_variant
from knet.explained import explained
from knet.json_file import JsonFile, write_json
from knet.options import ApiKey, Model, Repository, Version

EXAMPLE = Path(service.__file__).resolve().parent / "page" / "example.png"  # is in every installation

MODELS_EPILOG = """
Examples:

knet models

knet models --repository repository

knet models --url http://127.0.0.1:8000

knet models --json - | jq -r '.[].name'
"""

BENCH_EPILOG = """
Examples:

knet bench

knet bench --model cropweed --images photos --batch 1 --batch 8

knet bench --variant openvino-bf16 --variant onnxruntime-int8 --engine-threads 1

knet bench --url http://127.0.0.1:8000 --clients 1 --clients 8 --seconds 30 --images photos
"""


def models(
    repository: Repository = None,
    url: Annotated[str | None, typer.Option(help="List those of this running server.")] = None,
    api_key: ApiKey = None,
    json_file: JsonFile = None,
) -> None:
    """List models: versions, kind, classes, and the variants with their sizes and scores.

    Of a repository, all files are checked: what is damaged is told, and the command exits with 1. The last column says
    which variant runs here, and which can run. Of a server, it is the one that runs there, and the model's state.
    """
    with explained("serve"):
        from rich.console import Console

        from knet.client import KNetClient
        from knet.models import served_models, show, stored_models, to_json

        if url is None:
            found = stored_models(_folder(repository))
        else:
            with KNetClient(url, api_key=api_key) as client:
                found = served_models(client)
        if json_file is None:
            show(found, Console(markup=False))
        else:
            write_json(json_file, json.dumps(to_json(found), indent=2))
    if any(model.problem for model in found):
        raise typer.Exit(1)


def bench(
    model: Model = "nuclei",
    version: Version = None,
    repository: Repository = None,
    images: Annotated[
        Path,
        typer.Option(
            exists=True, show_default=False, help="Image, or folder of images. Default: an example of nuclei."
        ),
    ] = EXAMPLE,
    max_images: Annotated[int, typer.Option(min=1, help="At most so many, evenly spaced.")] = 8,
    variant: Annotated[
        list[str] | None,
        typer.Option(
            autocompletion=complete_variant,
            help="Such as openvino-bf16; may be given several times. Default: all that can run here.",
        ),
    ] = None,
    batch: Annotated[
        list[int] | None,
        typer.Option(min=1, help="Canvases in one run of the engine; may be given several times. Default: 1 and 4."),
    ] = None,
    repeats: Annotated[int, typer.Option(min=3, help="Of each step, at most: fewer where they take over 20 s.")] = 20,
    engine_threads: Annotated[
        int | None, typer.Option(min=1, help="Threads of the engine. Default: the CPUs that may be used.")
    ] = None,
    url: Annotated[str | None, typer.Option(help="Measure this running server instead.")] = None,
    api_key: ApiKey = None,
    clients: Annotated[
        list[int] | None,
        typer.Option(
            min=1, max=1000, help="With --url: clients at once; may be given several times. Default: 1 and 8."
        ),
    ] = None,
    seconds: Annotated[float, typer.Option(min=1, help="With --url: of each number of clients.")] = 10.0,
    json_file: JsonFile = None,
) -> None:
    """Measure how fast a model is: each of its variants on this machine, or a running server.

    On this machine: time from a process' start to its first answer; median and 95th percentile of an image, file to
    answer; the same and images a second for batches of the engine; most memory. Have nothing else run beside it.

    Of a server: clients that each send the next image when they have the answer to the last; images a second, and
    percentiles. The client's own processor time is told: on the server's machine it is taken from the server.
    """
    with explained("serve"):
        from rich.console import Console

        from knet import bench as local
        from knet import bench_server as remote

        progress = Console(stderr=True)
        files = local.find_images(images, max_images)
        show: Any
        if url is None:
            if clients is not None:
                raise ValueError("--clients is for a server: name it with --url")
            stored = local.find_model(_folder(repository), model, version)
            wishes = local.Wishes(
                variants=tuple(variant or ()), batches=tuple(batch or (1, 4)), repeats=repeats, threads=engine_threads
            )
            figures, show = local.bench(stored, files, wishes, progress), local.show
        else:
            if variant is not None or batch is not None or engine_threads is not None:
                raise ValueError("--variant, --batch and --engine-threads are for this machine; a server has its own")
            asked = remote.Wishes(
                url=url,
                api_key=api_key,
                model=model,
                version=version,
                clients=tuple(clients or (1, 8)),
                seconds=seconds,
            )
            figures, show = remote.bench_server(files, asked, progress), remote.show
        if json_file is None:
            show(figures, Console(markup=False))
        else:
            write_json(json_file, json.dumps(figures, indent=2))
    if any("error" in result for result in figures.get("variants", [])):
        raise typer.Exit(1)


def _folder(repository: Path | None) -> Path:
    from service.settings import BUNDLED_REPOSITORY

    return repository or BUNDLED_REPOSITORY
