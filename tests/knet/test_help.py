"""Every command teaches: examples that are legal, and options that mean the same everywhere."""

import shlex

import pytest
import typer
from typer.testing import CliRunner

from knet.cli import app
from knet.serve import command as serve

GROUP = typer.main.get_command(app)
COMMANDS = GROUP.commands | {"serve": typer.main.get_command(serve)}


def examples(name: str) -> list[str]:
    """The commands shown at the end of a command's help."""
    text = COMMANDS[name].epilog
    assert text.strip().startswith("Examples:")
    lines = [line.partition("knet ")[2].split(" | ")[0] for line in text.splitlines() if "knet " in line]
    return [line.split(" >> ")[0] for line in lines if line.split()[0] == name]


@pytest.mark.parametrize("name", COMMANDS)
def test_help_has_examples_with_options_that_exist(name):
    result = CliRunner().invoke(app, [name, "--help"], env={"COLUMNS": "200"})
    assert result.exit_code == 0
    assert "Examples:" in result.stdout
    parameters = COMMANDS[name].params
    options = {text for parameter in parameters for text in (*parameter.opts, *parameter.secondary_opts)}
    needed = sum(parameter.required and parameter.param_type_name == "argument" for parameter in parameters)
    assert examples(name)
    for example in examples(name):
        assert example in " ".join(result.stdout.split()).replace("│", "")
        words = shlex.split(example)[1:]
        assert {word for word in words if word.startswith("--")} <= options, example
        assert len(words) >= needed
        for parameter in parameters:
            if parameter.required and parameter.param_type_name == "option":
                assert set(parameter.opts) & set(words), example


def test_every_parameter_is_explained():
    for name, command in COMMANDS.items():
        for parameter in command.params:
            assert getattr(parameter, "help", None), f"{name} {parameter.name}"


@pytest.mark.parametrize(
    "option",
    [
        "--url",
        "--api-key",
        "--repository",
        "--model",
        "--version",
        "--description",
        "--json",
        "--max-images",
        "--categories",
        "--score-threshold",
        "--overlap-threshold",
        "--views",
    ],
)
def test_an_option_takes_the_same_everywhere(option):
    """The same type, and the same variable of the environment."""
    found = {
        name: (parameter.type_descriptor.annotation, parameter.envvar)
        for name, command in COMMANDS.items()
        for parameter in command.params
        if option in parameter.opts and name != "serve"
    }
    assert len(found) >= 2, option
    assert len(set(found.values())) == 1, found


def test_the_command_itself_names_the_exit_codes():
    result = CliRunner().invoke(app, ["--help"], env={"COLUMNS": "200"})
    assert "Exit codes: 0 done" in result.stdout
    for name in COMMANDS:
        assert f" {name} " in result.stdout
