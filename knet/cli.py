"""The `knet` command. Heavy imports are inside the subcommand that needs them."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

Split = Literal["train", "val"]
Deformable = Literal["operator", "grid_sample"]
Merge = Literal["official", "confident"]

app = typer.Typer(
    help="K-Net image segmentation: train, evaluate, export, serve.",
    no_args_is_help=True,
    pretty_exceptions_show_locals=False,
)


@app.callback()
def _main() -> None:
    """K-Net image segmentation: train, evaluate, export, serve."""


@app.command()
def serve(
    repository: Annotated[
        Path | None, typer.Option(help="Folder of models, NAME/VERSION/artifact.json. Default: the bundled models.")
    ] = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on. Default: 127.0.0.1.")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on. Default: 8000.")] = None,
) -> None:
    """Serve models over HTTP until stopped.

    Each option is also an environment variable (KNET_REPOSITORY, KNET_HOST, KNET_PORT), as are all other settings:
    KNET_API_KEYS, KNET_MAX_BODY_BYTES, KNET_MAX_PIXELS, KNET_MAX_QUEUE, ... (service/settings.py lists them).
    """
    with _explained("serve"):
        from service.server import run
        from service.settings import Settings

        given: dict[str, Any] = {"repository": repository, "host": host, "port": port}
        settings = Settings(**{name: value for name, value in given.items() if value is not None})
        run(settings)


@app.command()
def segment(
    image: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="JPEG, PNG, WebP, TIFF or BMP file.")],
    out: Annotated[Path, typer.Option(help="Folder for the answer (JSON) and the picture (PNG).")] = Path("demo"),
    url: Annotated[str | None, typer.Option(help="A running server; without it, one is started and stopped.")] = None,
    api_key: Annotated[str | None, typer.Option(envvar="KNET_API_KEY", help="Key of that server.")] = None,
    model: Annotated[str, typer.Option(help="Name of the model.")] = "nuclei",
    task: Annotated[str | None, typer.Option(help="panoptic, instance or semantic. Default: the model's.")] = None,
    score_threshold: Annotated[float | None, typer.Option(help="Least score of an object, 0..1.")] = None,
    overlap_threshold: Annotated[
        float | None, typer.Option(help="Least share of a mask that must be its own, 0..1.")
    ] = None,
) -> None:
    """Segment one image: masks as JSON, and a picture of them drawn over the image."""
    from knet.segment import segment_image, show

    with _explained("serve"), _server(url) as (where, start_timeout):
        answer, files = segment_image(
            image,
            out,
            url=where,
            api_key=api_key,
            start_timeout=start_timeout,
            model=model,
            task=task,
            score_threshold=score_threshold,
            overlap_threshold=overlap_threshold,
        )
    show(answer, files)


@app.command()
def train(
    recipe: Annotated[str, typer.Argument(help="What to train: nuclei.")],
    data: Annotated[Path, typer.Option(help="Folder of a COCO panoptic set, or of dsb2018_nuclei (converted first).")],
    out: Annotated[Path, typer.Option(help="Folder of the checkpoint. An unfinished run in it is resumed.")],
    steps: Annotated[int | None, typer.Option(help="Training steps. Default: the recipe's.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Crops a step. Default: the recipe's.")] = None,
    seed: Annotated[int | None, typer.Option(help="Of weights and samples; a CPU run is repeatable by it.")] = None,
) -> None:
    """Train a K-Net and write a checkpoint.

    A killed run goes on where it was when the same command is given again. Beside the checkpoint (config.json,
    model.safetensors) are train.json (the whole configuration), log.csv (losses) and metrics.json (scores on the
    validation split).
    """
    with _explained("train"):
        from training.run import train_recipe

        train_recipe(recipe, data, out, {"steps": steps, "batch_size": batch_size, "seed": seed})


@app.command()
def evaluate(
    model: Annotated[str, typer.Argument(help="Folder of a checkpoint or an artifact; with --url, a model's name.")],
    data: Annotated[Path, typer.Option(help="Folder of a COCO panoptic set, or of dsb2018_nuclei.")],
    split: Annotated[Split, typer.Option(help="Which part of it.")] = "val",
    url: Annotated[str | None, typer.Option(help="Score the answers of this server.")] = None,
    out: Annotated[Path | None, typer.Option(help="Write the scores there, as JSON.")] = None,
) -> None:
    """Score a model on annotated images: PQ, AP and mIoU, in all and by kind of image."""
    with _explained("train"):
        from knet.evaluate import evaluate_model

        evaluate_model(model, data, split, url=url, out=out)


@app.command()
def export(
    checkpoint: Annotated[Path, typer.Argument(exists=True, file_okay=False, help="Folder of a checkpoint.")],
    out: Annotated[Path, typer.Option(help="REPOSITORY/NAME/VERSION; must not exist.")],
    images: Annotated[
        Path, typer.Option(exists=True, help="Real images, a file or a folder, to verify the graph on.")
    ] = Path("examples"),
    deformable: Annotated[
        Deformable,
        typer.Option(help="Deformable convolutions as the ONNX operator, or by sampling, for engines without it."),
    ] = "operator",
    merge: Annotated[
        Merge | None,
        typer.Option(help="Every kernel competes for a pixel (official), or only those above the score threshold."),
    ] = None,
    mask_quality: Annotated[
        bool | None,
        typer.Option(
            "--mask-quality/--no-mask-quality", help="Multiply scores by the mean probability inside the mask."
        ),
    ] = None,
    canvas: Annotated[
        str | None, typer.Option(help="HEIGHTxWIDTH that every image is fitted to, such as 800x1216.")
    ] = None,
    data_name: Annotated[str | None, typer.Option(help="What it was trained on, for artifact.json.")] = None,
    licence: Annotated[str | None, typer.Option(help="Licence of the weights, for artifact.json.")] = None,
) -> None:
    """Make an artifact that servers run: an ONNX graph with everything inside, checked against PyTorch.

    Refuses to finish when ONNX Runtime does not answer as PyTorch does on the images.
    """
    with _explained("export"):
        from rich.console import Console

        from export.artifact import export_artifact, images_below

        given = {"data": data_name, "licence": licence, "checkpoint": checkpoint.name}
        provenance = {name: value for name, value in given.items() if value is not None}
        changes: dict[str, Any] = {"merge": merge, "mask_quality": mask_quality}
        if canvas is not None:
            changes |= {"geometry": "fit", "canvas_sizes": _canvas(canvas), "tile_overlap": 0}
        export_artifact(
            checkpoint,
            out,
            images_below(images),
            provenance=provenance,
            console=Console(),
            deformable=deformable,
            changes=changes,
        )
        typer.echo(f"wrote {out}")


@app.command("import")
def import_(
    file: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help=".pth file of the official K-Net code.")],
    out: Annotated[Path, typer.Option(help="Folder of the new checkpoint; must not exist, or be empty.")],
    config: Annotated[
        str | None, typer.Option(help="Name of its configuration, where several have the same tensors.")
    ] = None,
) -> None:
    """Make a checkpoint of an official one, of mmdetection or mmsegmentation, that computes the same.

    The configuration is recognised from the names and shapes of the tensors, which must all fit. The file cannot run
    code: tensors, numbers and text are all that is read. docs/official_checkpoints.md lists the published files.
    """
    with _explained("export"):
        from export.official import import_official

        imported = import_official(file, out, config)
        if imported.warning is not None:
            typer.secho(f"Warning: {imported.warning}", fg=typer.colors.YELLOW, err=True)
        found = imported.recognised
        others = [name for name in found.fitting if name != found.name]
        typer.echo(f"{found.name} ({found.chosen_by})" + (f"; also fits: {', '.join(others)}" if others else ""))
        for reason in dict.fromkeys(found.unused.values()):
            names = [name for name, why in found.unused.items() if why == reason]
            typer.echo(f"not used: {', '.join(names[:3])}{', ...' if len(names) > 3 else ''} ({reason})")
        typer.echo(f"wrote {out}")


@app.command()
def convert(
    source: Annotated[Path, typer.Argument(exists=True, file_okay=False, help="Folder of dsb2018_nuclei.")],
    out: Annotated[Path, typer.Option(help="Folder for the COCO panoptic set; must not exist.")],
) -> None:
    """Convert a data set to COCO panoptic, the training format, with a fixed split into train and val."""
    with _explained("train"):
        from training.nuclei import convert as convert_nuclei

        convert_nuclei(source, out)


def _canvas(text: str) -> tuple[int, int]:
    """Height and width of HEIGHTxWIDTH."""
    sides = re.fullmatch(r"([0-9]{1,6})x([0-9]{1,6})", text)
    if sides is None:
        raise ValueError(f"--canvas is {text!r}; legal: HEIGHTxWIDTH, such as 800x1216")
    return int(sides[1]), int(sides[2])


@contextmanager
def _server(url: str | None) -> Iterator[tuple[str, float]]:
    """URL of the server to ask and the seconds to wait for it: the one named, or one of our own."""
    if url is not None:
        yield url, 5.0
        return
    from service.server import background
    from service.settings import Settings

    with background(Settings(host="127.0.0.1", port=0, api_keys=())) as own:
        yield own, 120.0


@contextmanager
def _explained(extra: str) -> Iterator[None]:
    """Turn expected failures into a line on standard error; `extra` is what the command needs installed."""
    from knet.client import KNetError

    expected: tuple[type[Exception], ...] = (KNetError, OSError, ValueError, FloatingPointError)
    try:
        from pydantic import ValidationError

        from service.errors import ServiceError

        expected = (*expected, ServiceError, ValidationError)
    except ModuleNotFoundError:
        pass
    try:
        from export.errors import ExportError

        expected = (*expected, ExportError)
    except ModuleNotFoundError:  # an installation that only serves
        pass
    try:
        yield
    except ModuleNotFoundError as error:
        _fail(f"{error.name} is not installed; this command needs: pip install '.[{extra}]'")
    except expected as error:
        _fail(_words(error))


def _words(error: Any) -> str:
    """Message of an expected error; pydantic's without its web addresses."""
    if hasattr(error, "errors"):
        return "; ".join(
            f"{'.'.join(map(str, entry['loc'])) or 'settings'}: {entry['msg']}" for entry in error.errors()
        )
    return str(error)


def _fail(message: str) -> None:
    typer.secho(f"knet: {message}", fg=typer.colors.RED, err=True)
    raise typer.Exit(1)
