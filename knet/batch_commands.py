"""`knet batch`. Heavy imports are inside the command."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from knet.explained import explained

Output = Literal["coco-panoptic", "coco-instances", "semantic", "parquet", "overlay"]

EPILOG = """
Examples:

knet batch photos --out masks

knet batch 's3://bucket/shards/*.tar' --out masks --format parquet

knet batch slides --out cells

knet batch annotations/val.json --image-folder val2017 --model mine --out masks --format coco-panoptic
"""


def batch(
    source: Annotated[
        str,
        typer.Argument(
            metavar="INPUT",
            help="A folder; a glob, in quotes; a text file with a path or URL a line (.txt); a COCO file (.json); tar "
            "shards, as WebDataset makes them (.tar); or Parquet with a column of images (.parquet). A path, or "
            "s3://, gs:// or az:// where s3fs, gcsfs or adlfs is installed.",
        ),
    ],
    out: Annotated[
        Path, typer.Option(file_okay=False, help="Folder of the results: new, or of the same job to go on with it.")
    ],
    model: Annotated[str, typer.Option(help="Name of the model.")] = "nuclei",
    version: Annotated[str | None, typer.Option(help="Of the model. Default: the newest.")] = None,
    format: Annotated[
        Output,
        typer.Option(
            help="coco-panoptic: panoptic.json and PNGs; coco-instances: instances.json with RLE; semantic: PNGs of "
            "category ids; parquet: segments.parquet, a row an image, with RLE; overlay: pictures to look at."
        ),
    ] = "coco-panoptic",
    image_folder: Annotated[
        str | None,
        typer.Option(help="Where the files of a list or a COCO file are, path or URL. Default: beside it."),
    ] = None,
    repository: Annotated[
        Path | None,
        typer.Option(envvar="KNET_REPOSITORY", help="Folder of models: NAME/VERSION. Default: the bundled ones."),
    ] = None,
    score_threshold: Annotated[float | None, typer.Option(min=0, max=1, help="Least score of an object.")] = None,
    overlap_threshold: Annotated[
        float | None, typer.Option(min=0, max=1, help="Least share of a mask that must be its own.")
    ] = None,
    views: Annotated[
        int,
        typer.Option(
            min=1,
            help="Segment each image so often, 1..3, larger and turned from the second time on. For panoptic models; "
            "slides take 1.",
        ),
    ] = 1,
    categories: Annotated[str | None, typer.Option(help="Only these: ids or names, separated by commas.")] = None,
    slide_pixels: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="TIFF files of more pixels than this are slides: read tile by tile and never held whole, into "
            "OUT/slides/NAME.tif, ids in tiles of 512, and NAME.parquet, a row an object. 0: all. "
            "Default: KNET_MAX_PIXELS, 100 million.",
        ),
    ] = None,
    ray_address: Annotated[
        str | None,
        typer.Option(
            help="Run on the Ray cluster at HOST:PORT, or `auto`: the one that this machine is in; `local` starts one "
            "of this machine alone. All machines need the images and the models under the same paths. Needs the extra "
            "`cluster`. Default: this machine, without Ray."
        ),
    ] = None,
) -> None:
    """Segment many images into files. Killed, it goes on where it was: give the same command again.

    Images that cannot be segmented are listed in OUT/failed.jsonl with the reason, and do not stop the job. The
    settings of `knet serve` for models and limits hold here, too, by their variables: KNET_MAX_BATCH, KNET_MAX_PIXELS.
    """
    with explained("cluster" if ray_address else "batch"):
        from rich.console import Console

        from batch.job import Job, run
        from service.settings import Settings

        console = Console(stderr=True)
        job = Job(
            source=source,
            out=out,
            model=model,
            format=format,
            version=version,
            image_folder=image_folder,
            score_threshold=score_threshold,
            overlap_threshold=overlap_threshold,
            views=views,
            categories=(categories,) if categories else (),
            slide_pixels=slide_pixels,
            ray_address=ray_address,
        )
        settings = Settings(host="127.0.0.1", api_keys=())
        if repository is not None:
            settings = settings.model_copy(update={"repository": repository})
        report = run(job, settings, console)
        if report:
            console.print(
                f"wrote {out}: {report['images'] - report['failed']} images, {report['failed']} failed",
                soft_wrap=True,
                highlight=False,
            )
