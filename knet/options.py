"""Options that several commands have: the same name, type, legal values, variable and words in each."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from knet.completion import complete_model, complete_version

Task = Literal["panoptic", "instance", "semantic"]
Format = Literal["rle", "polygon", "png", "overlay", "huggingface"]

Model = Annotated[str, typer.Option(autocompletion=complete_model, help="Name of the model.")]
Version = Annotated[
    str | None, typer.Option(autocompletion=complete_version, help="Of the model. Default: the newest.")
]
Repository = Annotated[
    Path | None,
    typer.Option(envvar="KNET_REPOSITORY", help="Folder of models: NAME/VERSION. Default: the bundled ones."),
]
ApiKey = Annotated[str | None, typer.Option(envvar="KNET_API_KEY", help="Key of that server.")]
ScoreThreshold = Annotated[
    float | None, typer.Option(min=0, max=1, help="Least score of an object. Default: the model's.")
]
OverlapThreshold = Annotated[
    float | None, typer.Option(min=0, max=1, help="Least share of a mask that must be its own. Default: the model's.")
]
Views = Annotated[
    int,
    typer.Option(
        min=1, max=3, help="Segment each image so often, larger and turned from the second time on; panoptic models."
    ),
]
Categories = Annotated[str | None, typer.Option(help="Only these: ids or names, separated by commas.")]
Description = Annotated[
    Path | None,
    typer.Option(
        exists=True, dir_okay=False, help="JSON that says what is what in the data. Default: data.json in its folder."
    ),
]
