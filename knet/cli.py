"""The `knet` command. Heavy imports are inside the subcommand that needs them."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from knet import batch_commands, export_commands, model_commands, training_commands
from knet.explained import explained as _explained
from knet.json_file import JsonFile, write_json
from knet.options import (
    ApiKey,
    Categories,
    Format,
    Model,
    OverlapThreshold,
    Repository,
    ScoreThreshold,
    Task,
    Version,
    Views,
)

_USE, _TRAIN, _DELIVER = "Use a model", "Train a model", "Hand a model over"
_EPILOG = """
Examples:

knet segment photo.jpg

knet serve

knet COMMAND --help

Exit codes: 0 done; 1 it could not be done, and the last line says why; 2 the command line is wrong; 130 stopped by
Ctrl-C.
"""
_KEY_EPILOG = """
Examples:

knet key camera-3 >> keys.txt, of which the server's file is to have the second line alone

knet key operator --admin
"""
_SEGMENT_EPILOG = """
Examples:

knet segment photo.jpg

knet segment photos/*.jpg --model cropweed --out masks

knet segment photo.jpg --url http://127.0.0.1:8000 --format polygon --json -
"""

app = typer.Typer(
    help="K-Net image segmentation: train, evaluate, export, serve.",
    epilog=_EPILOG,
    no_args_is_help=True,
    rich_markup_mode="markdown",  # which lets paragraphs flow
    pretty_exceptions_show_locals=False,
)


@app.callback()
def _main() -> None:
    """K-Net image segmentation: train, evaluate, export, serve."""


class _ServeCommand(TyperCommand):
    """Passes its options on to `knet.serve`, and looks at them only where the shell completes them."""

    def get_params(self, ctx: Any) -> Any:
        """Options as the shell, or as nobody, may know them."""
        if not ctx.resilient_parsing:
            return super().get_params(ctx)
        try:
            from knet.serve import command
        except ModuleNotFoundError:  # an installation that does not serve
            return super().get_params(ctx)
        return typer.main.get_command(command).get_params(ctx)


@app.command(
    cls=_ServeCommand,
    rich_help_panel=_USE,
    add_help_option=False,
    context_settings={"ignore_unknown_options": True, "allow_extra_args": True},
)
def serve(context: typer.Context) -> None:
    """Serve models over HTTP until stopped."""
    with _explained("serve"):
        from knet.serve import command

        command(context.args, prog_name=context.command_path, standalone_mode=False)


@app.command(rich_help_panel=_USE, epilog=_KEY_EPILOG)
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


@app.command(rich_help_panel=_USE, epilog=_SEGMENT_EPILOG)
def segment(
    images: Annotated[
        list[Path], typer.Argument(exists=True, dir_okay=False, help="JPEG, PNG, WebP, TIFF or BMP files.")
    ],
    out: Annotated[
        Path, typer.Option(file_okay=False, help="Folder for answers (NAME.json) and pictures (NAME.png).")
    ] = Path("demo"),
    json_file: JsonFile = None,
    url: Annotated[str | None, typer.Option(help="A running server; without it, one is started and stopped.")] = None,
    api_key: ApiKey = None,
    repository: Repository = None,
    model: Model = "nuclei",
    version: Version = None,
    task: Annotated[Task | None, typer.Option(help="What is asked of the model. Default: its own kind.")] = None,
    format: Annotated[Format | None, typer.Option(help="Form of the masks. Default: overlay, with --json rle.")] = None,
    score_threshold: ScoreThreshold = None,
    overlap_threshold: OverlapThreshold = None,
    views: Views = 1,
    categories: Categories = None,
) -> None:
    """Segment images: masks as JSON, and a picture of them drawn over the image.

    Starts a server for the images given and stops it, or asks one that runs. For many images there is `knet batch`.
    """
    from knet.segment import check_names, segment_images, show, write_files

    with _explained("serve"):
        format = format or ("overlay" if json_file is None else "rle")
        if json_file is None:
            check_names(images, out, format)
        with _server(url, repository) as (where, start_timeout):
            answers = segment_images(
                images,
                url=where,
                api_key=api_key,
                start_timeout=start_timeout,
                model=model,
                version=version,
                task=task,
                format=format,
                score_threshold=score_threshold,
                overlap_threshold=overlap_threshold,
                views=views,
                categories=[categories] if categories else [],
            )
            for image, answer in answers:
                if json_file is None:
                    show(answer, write_files(image, answer, out))
                else:
                    write_json(json_file, json.dumps(answer))


@contextmanager
def _server(url: str | None, repository: Path | None) -> Iterator[tuple[str, float]]:
    """URL of the server to ask and the seconds to wait for it: the one named, or one of our own."""
    if url is not None:
        yield url, 5.0
        return
    from service.server import background
    from service.settings import Settings

    chosen: dict[str, Any] = {} if repository is None else {"repository": repository}
    with background(Settings(host="127.0.0.1", port=0, api_keys=(), **chosen)) as own:
        yield own, 120.0


app.command(epilog=batch_commands.EPILOG, rich_help_panel=_USE)(batch_commands.batch)
app.command(epilog=model_commands.MODELS_EPILOG, rich_help_panel=_USE)(model_commands.models)
app.command(epilog=model_commands.BENCH_EPILOG, rich_help_panel=_USE)(model_commands.bench)
app.command(epilog=training_commands.CHECK_EPILOG, rich_help_panel=_TRAIN)(training_commands.check)
app.command(epilog=training_commands.TRAIN_EPILOG, rich_help_panel=_TRAIN)(training_commands.train)
app.command(epilog=training_commands.EVALUATE_EPILOG, rich_help_panel=_TRAIN)(training_commands.evaluate)
app.command(epilog=training_commands.CONVERT_EPILOG, rich_help_panel=_TRAIN)(training_commands.convert)
app.command("import", epilog=export_commands.IMPORT_EPILOG, rich_help_panel=_TRAIN)(export_commands.import_)
app.command(epilog=export_commands.EXPORT_EPILOG, rich_help_panel=_DELIVER)(export_commands.export)
app.command(epilog=export_commands.BUNDLE_EPILOG, rich_help_panel=_DELIVER)(export_commands.bundle)
