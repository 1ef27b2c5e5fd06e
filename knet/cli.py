"""The `knet` command. Heavy imports are inside the subcommand that needs them."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from knet import batch_commands, export_commands, training_commands
from knet.explained import explained as _explained

app = typer.Typer(
    help="K-Net image segmentation: train, evaluate, export, serve.",
    no_args_is_help=True,
    pretty_exceptions_show_locals=False,
)


@app.callback()
def _main() -> None:
    """K-Net image segmentation: train, evaluate, export, serve."""


@app.command(add_help_option=False, context_settings={"ignore_unknown_options": True, "allow_extra_args": True})
def serve(context: typer.Context) -> None:
    """Serve models over HTTP until stopped."""
    with _explained("serve"):
        from knet.serve import command

        command(context.args, prog_name=context.command_path, standalone_mode=False)


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
    images: Annotated[
        list[Path], typer.Argument(exists=True, dir_okay=False, help="JPEG, PNG, WebP, TIFF or BMP files.")
    ],
    out: Annotated[
        Path, typer.Option(file_okay=False, help="Folder for answers (NAME.json) and pictures (NAME.png).")
    ] = Path("demo"),
    json_file: Annotated[
        typer.FileTextWrite | None,
        typer.Option("--json", help="Write the answers here, a line each, and nothing else; - is standard output."),
    ] = None,
    url: Annotated[str | None, typer.Option(help="A running server; without it, one is started and stopped.")] = None,
    api_key: Annotated[str | None, typer.Option(envvar="KNET_API_KEY", help="Key of that server.")] = None,
    model: Annotated[str, typer.Option(help="Name of the model.")] = "nuclei",
    version: Annotated[str | None, typer.Option(help="Of the model. Default: the newest.")] = None,
    task: Annotated[str | None, typer.Option(help="panoptic, instance or semantic. Default: the model's.")] = None,
    format: Annotated[
        str | None,
        typer.Option(help="rle, polygon, png, overlay or huggingface. Default: overlay, with --json rle."),
    ] = None,
    score_threshold: Annotated[float | None, typer.Option(help="Least score of an object, 0..1.")] = None,
    overlap_threshold: Annotated[
        float | None, typer.Option(help="Least share of a mask that must be its own, 0..1.")
    ] = None,
    views: Annotated[
        int, typer.Option(min=1, help="Segment each image so often, 1..3, larger and turned from the second time on.")
    ] = 1,
    categories: Annotated[str | None, typer.Option(help="Only these: ids or names, separated by commas.")] = None,
) -> None:
    """Segment images: masks as JSON, and a picture of them drawn over the image."""
    from knet.segment import check_names, segment_images, show, write_files

    with _explained("serve"), _server(url) as (where, start_timeout):
        if json_file is None:
            check_names(images)
        answers = segment_images(
            images,
            url=where,
            api_key=api_key,
            start_timeout=start_timeout,
            model=model,
            version=version,
            task=task,
            format=format or ("overlay" if json_file is None else "rle"),
            score_threshold=score_threshold,
            overlap_threshold=overlap_threshold,
            views=views,
            categories=[categories] if categories else [],
        )
        for image, answer in answers:
            if json_file is None:
                show(answer, write_files(image, answer, out))
            else:
                json_file.write(json.dumps(answer) + "\n")


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


app.command(epilog=batch_commands.EPILOG)(batch_commands.batch)
app.command()(training_commands.train)
app.command()(training_commands.evaluate)
app.command()(export_commands.export)
app.command()(export_commands.bundle)
app.command("import")(export_commands.import_)
app.command()(training_commands.check)
app.command()(training_commands.convert)
