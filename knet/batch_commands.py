"""`knet batch`. Heavy imports are inside the command."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from knet.explained import explained
from knet.options import Categories, Model, OverlapThreshold, Repository, ScoreThreshold, Version, Views

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
    model: Model = "nuclei",
    version: Version = None,
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
    repository: Repository = None,
    score_threshold: ScoreThreshold = None,
    overlap_threshold: OverlapThreshold = None,
    views: Views = 1,
    categories: Categories = None,
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
