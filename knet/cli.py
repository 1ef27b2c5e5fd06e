"""The `knet` command. Heavy imports are inside the subcommand that needs them."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

Split = Literal["train", "val"]
Deformable = Literal["operator", "grid_sample"]
Merge = Literal["official", "confident"]
MergeAt = Literal["pixels", "cells"]
Accelerator = Literal["auto", "cpu", "cuda"]
Target = Literal["jetson", "arm64", "intel", "browser"]

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
def key(
    name: Annotated[str, typer.Argument(help="Whose key it is; the server's log tells the name with each request.")],
    admin: Annotated[bool, typer.Option("--admin", help="It may also load and unload models.")] = False,
) -> None:
    """Make a random API key, and the line for the server's file of keys (KNET_API_KEYS_FILE), which holds its hash."""
    with _explained("serve"):
        from service.keys import new_key

        secret, line = new_key(name, is_admin=admin)
        typer.echo(f"key, for the client (shown this once): {secret}")
        typer.echo(f"line, for the server's file of keys:    {line}")


@app.command()
def segment(
    image: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="JPEG, PNG, WebP, TIFF or BMP file.")],
    out: Annotated[
        Path, typer.Option(file_okay=False, help="Folder for the answer (JSON) and the picture (PNG).")
    ] = Path("demo"),
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
    recipe: Annotated[str, typer.Argument(help="One of the recipes below.")],
    data: Annotated[Path, typer.Option(help="Folder of the data set; docs/data.md lists the formats.")],
    out: Annotated[
        Path | None,
        typer.Option(file_okay=False, help="Folder of the run. One that was stopped or killed in it goes on."),
    ] = None,
    description: Annotated[Path | None, typer.Option(help="File that says what is what in the data.")] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change a field of the recipe; may be given several times."),
    ] = None,
    backbone_weights: Annotated[
        Path | None, typer.Option(exists=True, dir_okay=False, help="File of weights that the backbone starts with.")
    ] = None,
    start_from: Annotated[
        Path | None,
        typer.Option("--from", exists=True, file_okay=False, help="Checkpoint to start from, for fine-tuning."),
    ] = None,
    accelerator: Annotated[Accelerator, typer.Option(help="auto: cuda where there is one.")] = "auto",
    devices: Annotated[int, typer.Option(help="Devices of a machine, each with a process.")] = 1,
    nodes: Annotated[int, typer.Option(help="Machines; the command is given on each (see docs/training.md).")] = 1,
    skip_check: Annotated[bool, typer.Option("--skip-check", help="Do not open every image first.")] = False,
    show: Annotated[bool, typer.Option("--print", help="Print the whole configuration as JSON, and stop.")] = False,
) -> None:
    """Train a K-Net and write a checkpoint.

    A run that was killed or stopped (Ctrl-C, SIGTERM) goes on when the same command is given again. docs/training.md
    explains the options and what is written.

    Recipes for one evening and few images:

    nuclei: Cell nuclei and other small round objects in images of any size: 80 minutes on one CPU core.

    small_panoptic: Things and stuff in tens to thousands of photographs: a small network with ImageNet weights.

    small_instance: Objects in tens to thousands of photographs: a small network with ImageNet weights and 50 kernels.

    small_semantic: The class of each pixel, from tens to thousands of photographs: small enough for an edge device.

    The paper's:

    panoptic_r50_1x: The paper's panoptic K-Net, ResNet-50, 12 epochs; made for COCO and several GPUs.

    panoptic_r50_3x: The same for 36 epochs, at several scales.

    instance_r50_1x: The paper's instance K-Net, ResNet-50, 12 epochs; made for COCO and several GPUs.

    instance_r50_3x: The same for 36 epochs, at several scales.

    semantic_r50_80k: The paper's semantic K-Net on UPerNet, ResNet-50, 80,000 steps; made for ADE20K and several GPUs.
    """
    with _explained("train"):
        from training.changes import parse_changes
        from training.engine import Devices
        from training.run import resolve, train_recipe

        changes = parse_changes(settings or [])
        if backbone_weights is not None:
            changes["backbone_weights"] = str(backbone_weights)
        if start_from is not None:
            changes["start_from"] = str(start_from)
        if show:
            typer.echo(resolve(recipe, data, changes=changes, description=description)[0].to_json())
            return
        if out is None:
            raise ValueError("--out is missing: name a folder for the run")
        train_recipe(
            recipe,
            data,
            out,
            changes=changes,
            description=description,
            devices=Devices(accelerator=accelerator, devices=devices, nodes=nodes),
            skip_check=skip_check,
        )


@app.command()
def evaluate(
    model: Annotated[str, typer.Argument(help="Folder of a checkpoint or an artifact; with --url, a model's name.")],
    data: Annotated[Path, typer.Option(help="Folder of annotated images; docs/data.md lists the formats.")],
    split: Annotated[Split, typer.Option(help="Which part of it.")] = "val",
    description: Annotated[
        Path | None, typer.Option(help="JSON that says what the data's folders and numbers mean.")
    ] = None,
    url: Annotated[str | None, typer.Option(help="Score the answers of this server.")] = None,
    api_key: Annotated[str | None, typer.Option(envvar="KNET_API_KEY", help="Key of that server.")] = None,
    variant: Annotated[
        str | None,
        typer.Option(help="The artifact's variant, such as openvino-bf16. Default: the first that runs here."),
    ] = None,
    max_images: Annotated[int | None, typer.Option(min=1, help="At most so many, evenly spaced.")] = None,
    out: Annotated[
        Path | None, typer.Option(dir_okay=False, help="Write all scores there, each image's too, as JSON.")
    ] = None,
    worst: Annotated[int, typer.Option(min=0, help="Draw so many of the images with the lowest scores.")] = 0,
    pictures: Annotated[Path | None, typer.Option(file_okay=False, help="Folder for their pictures.")] = None,
) -> None:
    """Score a model on annotated images: PQ, mask AP, mIoU and more, in all, by kind of image, class and image.

    The data decides with the model's kind what is measured; docs/evaluation.md says how each score is defined.
    """
    with _explained("train"):
        from knet.evaluate import Wishes, evaluate_model

        wishes = Wishes(
            url=url,
            api_key=api_key,
            variant=variant,
            max_images=max_images,
            out=out,
            num_worst=worst,
            pictures=pictures,
        )
        evaluate_model(model, data, split, description, wishes)


@app.command()
def export(
    checkpoint: Annotated[Path, typer.Argument(exists=True, file_okay=False, help="Folder of a checkpoint.")],
    out: Annotated[Path, typer.Option(file_okay=False, help="REPOSITORY/NAME/VERSION; must not exist.")],
    format_: Annotated[
        list[str] | None,
        typer.Option(
            "--format",
            help="Engine to make variants for: onnx, openvino, tensorrt; may be given several times. "
            "Default: onnx and openvino.",
        ),
    ] = None,
    precision: Annotated[
        list[str] | None,
        typer.Option(
            help="Precision of the variants: fp32, bf16 (openvino), fp16 (onnx, tensorrt), int8; may be given several "
            "times. Default: fp32, with openvino also bf16, with tensorrt also fp16."
        ),
    ] = None,
    images: Annotated[
        Path, typer.Option(exists=True, help="Real images, a file or a folder, to compare with PyTorch on.")
    ] = Path("examples"),
    data: Annotated[
        Path | None,
        typer.Option(
            exists=True,
            help="Annotated data of the model: int8 is calibrated on its training images, and lower precisions are "
            "judged by what they lose on its validation images.",
        ),
    ] = None,
    description: Annotated[
        Path | None, typer.Option(exists=True, dir_okay=False, help="What the data's folders and numbers mean.")
    ] = None,
    max_images: Annotated[int | None, typer.Option(min=1, help="At most so many validation images.")] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Write variants outside their limits too, marked in artifact.json.")
    ] = False,
    canvas: Annotated[
        str | None,
        typer.Option(
            help="HEIGHTxWIDTH that every image is fitted to, such as 800x1216; or sides of tiles, such as 256,384."
        ),
    ] = None,
    fixed_size: Annotated[
        bool, typer.Option("--fixed-size", help="Make the canvas' height and width constants of the graph.")
    ] = False,
    half_storage: Annotated[
        bool, typer.Option("--half-storage", help="Round weights to fp16 on disk: half the size of model.onnx.")
    ] = False,
    merge: Annotated[
        Merge | None,
        typer.Option(help="Every kernel competes for a pixel (official), or only those above the score threshold."),
    ] = None,
    merge_at: Annotated[
        MergeAt | None,
        typer.Option(help="Kernels compete at every pixel (exact), or in the cells of the feature map (faster)."),
    ] = None,
    mask_quality: Annotated[
        bool | None,
        typer.Option(
            "--mask-quality/--no-mask-quality", help="Multiply scores by the mean probability inside the mask."
        ),
    ] = None,
    deformable: Annotated[
        Deformable,
        typer.Option(help="Deformable convolutions as the ONNX operator, or by sampling, for engines without it."),
    ] = "operator",
    workspace_gb: Annotated[float, typer.Option(help="TensorRT: most memory for any one layer.")] = 4.0,
    hardware_compatible: Annotated[
        bool, typer.Option("--hardware-compatible", help="TensorRT: an engine for all GPUs from Ampere on; slower.")
    ] = False,
    timing_cache: Annotated[
        Path | None, typer.Option(dir_okay=False, help="TensorRT: file of measured kernels, read and added to.")
    ] = None,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run", help="TensorRT: build no engine, print the command lines of NVIDIA's tools that build it."
        ),
    ] = False,
    data_name: Annotated[str | None, typer.Option(help="What it was trained on, for artifact.json.")] = None,
    licence: Annotated[str | None, typer.Option(help="Licence of the weights, for artifact.json.")] = None,
) -> None:
    """Make an artifact that servers run: ONNX graphs with everything inside, each variant compared with PyTorch.

    A variant that differs by more than its precision may is not written: fp32 must agree on pixels and scores, bf16
    and fp16 may lose 0.3 points of PQ (mask AP, mIoU), int8 1.0. docs/export.md has the details.
    """
    with _explained("export"):
        from export.command import Wishes, export

        export(
            checkpoint,
            out,
            Wishes(
                formats=tuple(format_ or ()),
                precisions=tuple(precision or ()),
                images=images,
                data=data,
                description=description,
                max_images=max_images,
                force=force,
                canvas=canvas,
                fixed_size=fixed_size,
                half_storage=half_storage,
                changes={"merge": merge, "merge_at": merge_at, "mask_quality": mask_quality},
                deformable=deformable,
                workspace_gb=workspace_gb,
                hardware_compatible=hardware_compatible,
                timing_cache=timing_cache,
                dry_run=dry_run,
                data_name=data_name,
                licence=licence,
            ),
        )


@app.command()
def bundle(
    artifact: Annotated[Path, typer.Argument(exists=True, file_okay=False, help="REPOSITORY/NAME/VERSION.")],
    target: Annotated[Target, typer.Option(help="The kind of device.")],
    out: Annotated[
        Path | None,
        typer.Option(
            dir_okay=False,
            help="The archive: .zip for browser, else .tar.gz; must not exist. Default: NAME-VERSION-TARGET, here.",
        ),
    ] = None,
    variant: Annotated[
        str | None, typer.Option(help="The artifact's variant, such as onnxruntime-int8. Default: the target's best.")
    ] = None,
    onnxruntime_web: Annotated[
        Path | None,
        typer.Option(
            exists=True, file_okay=False, help="Unpacked npm package onnxruntime-web, of which browser takes files."
        ),
    ] = None,
) -> None:
    """Make an archive that segments images on a device: the graph, a runner that needs few packages, a README.

    The runner needs numpy, Pillow and the runtime: ONNX Runtime, or OpenVINO on Intel. For browsers it is a page.
    """
    with _explained("export"):
        from rich.console import Console

        from export.bundle import make_bundle

        make_bundle(artifact, target, out, variant=variant, onnxruntime_web=onnxruntime_web, console=Console())


@app.command("import")
def import_(
    file: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help=".pth file of the official K-Net code.")],
    out: Annotated[
        Path, typer.Option(file_okay=False, help="Folder of the new checkpoint; must not exist, or be empty.")
    ],
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
def check(
    data: Annotated[Path, typer.Argument(exists=True, file_okay=False, help="Folder of a data set.")],
    description: Annotated[
        Path | None, typer.Option(help="What is in it, if data.json is not in the folder: docs/data.md.")
    ] = None,
    out: Annotated[Path, typer.Option(file_okay=False, help="Folder for check.json and images.png.")] = Path("check"),
) -> None:
    """Look whether a data set is as it should be, before a training finds out.

    Opens every image and annotation. Prints what is wrong (and then exits with 1), what is in the data, and settings
    that fit it; writes the same as check.json, and images with their segments as images.png.
    """
    with _explained("train"):
        from rich.console import Console

        from knet.check import check_data

        is_usable = check_data(data, description, out, Console())
    if not is_usable:
        raise typer.Exit(1)


@app.command()
def convert(
    source: Annotated[Path, typer.Argument(exists=True, file_okay=False, help="Folder of a data set.")],
    out: Annotated[Path, typer.Option(file_okay=False, help="Folder for the COCO panoptic set; must not exist.")],
    description: Annotated[
        Path | None, typer.Option(help="What is in it, if data.json is not in the folder: docs/data.md.")
    ] = None,
) -> None:
    """Write a data set as COCO panoptic, with its split into train and val."""
    with _explained("train"):
        from training.data.convert import convert as convert_data

        convert_data(source, out, description)


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
