"""Commands around training: train, evaluate, check, convert. Heavy imports are inside the command that needs them."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from knet.completion import complete_recipe, complete_variant
from knet.explained import explained
from knet.options import ApiKey, Description, Version, Views

TRAIN_EPILOG = """
Examples:

knet train small_semantic --data field --out runs/field

knet train small_semantic --data field --out runs/field --set steps=4000 --set batch_size=4

knet train nuclei --data cells --out runs/cells --from runs/nuclei

knet train small_panoptic --data street --print
"""

EVALUATE_EPILOG = """
Examples:

knet evaluate runs/field --data field

knet evaluate repository/field/1 --data field --variant openvino-int8 --json scores.json

knet evaluate field --url http://127.0.0.1:8000 --data field --worst 8 --pictures worst
"""

CHECK_EPILOG = """
Examples:

knet check field

knet check photos --description field.json --out check-photos
"""

CONVERT_EPILOG = """
Examples:

knet convert field --out field-panoptic
"""

Split = Literal["train", "val", "test"]
Accelerator = Literal["auto", "cpu", "cuda"]


def train(
    recipe: Annotated[str, typer.Argument(autocompletion=complete_recipe, help="One of the recipes above.")],
    data: Annotated[
        Path,
        typer.Option(exists=True, file_okay=False, help="Folder of the data set; docs/data.md lists the formats."),
    ],
    out: Annotated[
        Path | None,
        typer.Option(file_okay=False, help="Folder of the run. One that was stopped or killed in it goes on."),
    ] = None,
    description: Description = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change a field of the recipe; may be given several times."),
    ] = None,
    backbone_weights: Annotated[
        Path | None, typer.Option(exists=True, dir_okay=False, help="File of weights that the backbone starts with.")
    ] = None,
    start_from: Annotated[
        Path | None,
        typer.Option(
            "--from", exists=True, file_okay=False, help="Checkpoint or artifact to start from, for fine-tuning."
        ),
    ] = None,
    accelerator: Annotated[Accelerator, typer.Option(help="auto: cuda where there is one.")] = "auto",
    devices: Annotated[int, typer.Option(help="Devices of a machine, each with a process.")] = 1,
    nodes: Annotated[int, typer.Option(help="Machines; the command is given on each (see docs/training.md).")] = 1,
    skip_check: Annotated[bool, typer.Option("--skip-check", help="Do not open every image first.")] = False,
    show: Annotated[
        bool, typer.Option("--print-config", "--print", help="Print the whole configuration as JSON, and stop.")
    ] = False,
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
    with explained("train"):
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


def evaluate(
    model: Annotated[str, typer.Argument(help="Folder of a checkpoint or an artifact; with --url, a model's name.")],
    data: Annotated[
        Path,
        typer.Option(exists=True, file_okay=False, help="Folder of annotated images; docs/data.md lists the formats."),
    ],
    split: Annotated[Split, typer.Option(help="Which part of it; test where it has one.")] = "val",
    description: Description = None,
    url: Annotated[str | None, typer.Option(help="Score the answers of this server.")] = None,
    api_key: ApiKey = None,
    version: Version = None,
    variant: Annotated[
        str | None,
        typer.Option(
            autocompletion=complete_variant,
            help="The artifact's variant, such as openvino-bf16. Default: the first that runs here.",
        ),
    ] = None,
    views: Views = 1,
    max_images: Annotated[int | None, typer.Option(min=1, help="At most so many, evenly spaced.")] = None,
    json_file: Annotated[
        typer.FileTextWrite | None,
        typer.Option(
            "--json",
            "--out",
            help="Write all scores there, each image's too, as JSON; - is standard output, for nothing else.",
        ),
    ] = None,
    worst: Annotated[int, typer.Option(min=0, help="Draw so many of the images with the lowest scores.")] = 0,
    pictures: Annotated[Path | None, typer.Option(file_okay=False, help="Folder for their pictures.")] = None,
) -> None:
    """Score a model on annotated images: PQ, mask AP, mIoU and more, in all, by kind of image, class and image.

    The data decides with the model's kind what is measured; docs/evaluation.md says how each score is defined.
    """
    with explained("train"):
        from knet.evaluate import Wishes, evaluate_model

        wishes = Wishes(
            url=url,
            api_key=api_key,
            version=version,
            views=views,
            variant=variant,
            max_images=max_images,
            json_file=json_file,
            num_worst=worst,
            pictures=pictures,
        )
        evaluate_model(model, data, split, description, wishes)


def check(
    data: Annotated[Path, typer.Argument(exists=True, file_okay=False, help="Folder of a data set.")],
    description: Description = None,
    out: Annotated[Path, typer.Option(file_okay=False, help="Folder for check.json and images.png.")] = Path("check"),
) -> None:
    """Look whether a data set is as it should be, before a training finds out.

    Opens every image and annotation. Prints what is wrong (and then exits with 1), what is in the data, and settings
    that fit it; writes the same as check.json, and images with their segments as images.png.
    """
    with explained("train"):
        from rich.console import Console

        from knet.check import check_data

        is_usable = check_data(data, description, out, Console(markup=False))
    if not is_usable:
        raise typer.Exit(1)


def convert(
    source: Annotated[Path, typer.Argument(exists=True, file_okay=False, help="Folder of a data set.")],
    out: Annotated[Path, typer.Option(file_okay=False, help="Folder for the COCO panoptic set; must not exist.")],
    description: Description = None,
) -> None:
    """Write a data set as COCO panoptic, with its split into train, val and perhaps test."""
    with explained("train"):
        from training.data.convert import convert as convert_data

        convert_data(source, out, description)
