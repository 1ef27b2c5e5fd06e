"""`knet serve`: its options are made from the settings of the server, so that no setting is written down twice."""

import inspect
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, Literal, get_args, get_origin

import typer

from service.settings import Settings
from service.settings_text import Described, describe, describe_models, print_config

# Plain, as the tables of `rich` cut names off on a narrow terminal.
command = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_show_locals=False)

_EXAMPLES = (
    "Examples:",
    "knet serve",
    "knet serve --repository repository --port 9000",
    "knet serve --host 0.0.0.0 --api-keys-file keys.txt",
    "KNET_MODELS__NUCLEI__VARIANT=openvino-bf16 knet serve --print-config",
)


def _serve(context: typer.Context, show: bool, **values: Any) -> None:
    """Serve models over HTTP until stopped.

    A setting is taken from the option, else from its environment variable, else from the file that --config or
    KNET_CONFIG names, else it has its default. docs/operation.md says more.
    """
    given = {
        name: value
        for name, value in values.items()
        if (source := context.get_parameter_source(name)) is not None and source.name == "COMMANDLINE"
    }
    if show:
        typer.echo(print_config(given))
        return
    from service.server import run

    run(Settings(**given))


def _option(setting: Described) -> inspect.Parameter:
    """The option of a setting. Its variable is shown by it and read by `Settings`."""
    option = typer.Option(
        f"--{setting.name.replace('_', '-')}" + _negative(setting.name),
        help=_sentence(setting.description) + (f" Default: {setting.default}." if setting.default else ""),
        envvar=setting.variable,
    )
    return inspect.Parameter(
        setting.name,
        inspect.Parameter.KEYWORD_ONLY,
        default=None,
        annotation=Annotated[_type(setting.name) | None, option],
    )


def _negative(name: str) -> str:
    return f"/--no-{name.replace('_', '-')}" if _type(name) is bool else ""


def _type(name: str) -> Any:
    """The type of an option's value: the setting's own where the command line knows it, else a text."""
    annotation = Settings.model_fields[name].annotation
    kinds = [kind for kind in get_args(annotation) or (annotation,) if kind is not NoneType]
    if get_origin(annotation) is Literal:
        return annotation
    if len(kinds) == 1 and (kinds[0] in (bool, int, float, str, Path) or get_origin(kinds[0]) is Literal):
        return kinds[0]
    return str


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}."


def _epilog() -> str:
    """What is no option: secrets, which other users of the machine could read there, and tables."""
    secrets = [f"{one.variable}: {_sentence(one.description)}" for one in describe() if one.is_secret]
    models = [f"{one.name}: {_sentence(one.description)}" for one in describe_models()]
    return "\n\n".join(
        [
            *_EXAMPLES,
            "By the environment or the file alone:",
            *secrets,
            "For a single model, in a table [models.NAME] of the file, or as KNET_MODELS__NAME__MAX_BATCH and so on:",
            *models,
        ]
    )


_serve.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
    [
        inspect.Parameter("context", inspect.Parameter.KEYWORD_ONLY, annotation=typer.Context),
        *(_option(setting) for setting in describe() if not setting.is_secret),
        inspect.Parameter(
            "show",
            inspect.Parameter.KEYWORD_ONLY,
            default=False,
            annotation=Annotated[
                bool,
                typer.Option("--print-config", help="Print the settings in force and where they came from, and stop."),
            ],
        ),
    ]
)
command.command(epilog=_epilog())(_serve)
