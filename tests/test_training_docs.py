"""Every command of the pages about training parses: its options, recipes and settings exist. Nothing is trained."""

import re
import shlex
from dataclasses import fields
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from knet.cli import app
from model.config import Category, Kind
from training.changes import parse_changes, with_changes
from training.choose import RECIPES, make_config
from training.config import TrainConfig
from training.recipes import DataFacts

DOCS = Path(__file__).resolve().parent.parent / "docs"
PAGES = ("training.md", "training_options.md", "data.md", "own_data.md", "nuclei.md")
# Between two backquotes, or a line of a block; before it may be variables, torchrun or srun.
COMMAND = re.compile(r"(?:^|`|\s)(?:-m )?(knet (?:train|evaluate|check|convert|export)\b[^`\n#]*)", flags=re.M)
FILES, FOLDERS = ("--backbone-weights", "--description"), ("--from", "--images", "--data")
CATEGORIES = (
    Category(id=1, name="cell", is_thing=True, colour=(200, 0, 0)),
    Category(id=2, name="ground", is_thing=False, colour=(0, 0, 200)),
)


def commands(page: str) -> list[str]:
    text = (DOCS / page).read_text(encoding="utf-8").replace("\\\n", " ")
    found = [match.strip() for match in COMMAND.findall(text)]
    typed = [command for command in found if re.match(r"knet \w+ [^-].* --", command)]
    return [command.replace("...", "nuclei --data DATA --out RUN") for command in typed]


def parsed(command: str, folder: Path) -> Any:
    """As the command line does, with the files that it names in place."""
    _, name, *words = shlex.split(command)
    for option, value in pairwise(words):
        if option in FILES:
            (folder / value).touch()
        elif option in FOLDERS:
            (folder / value).mkdir(parents=True, exist_ok=True)
    if name != "train":
        (folder / words[0]).mkdir(parents=True, exist_ok=True)
    return get_command(app).commands[name].make_context(name, words)  # type: ignore[attr-defined]


def config_of(recipe: str) -> TrainConfig:
    kind: Kind = "panoptic" if RECIPES[recipe].kind != "semantic" else "semantic"
    categories = CATEGORIES if kind == "panoptic" else CATEGORIES[1:]
    return make_config(recipe, DataFacts(kind=kind, categories=categories, num_images=100, image_size=(360, 480)))


@pytest.mark.parametrize("page", PAGES)
def test_commands_parse(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = commands(page)
    for command in found:
        context = parsed(command, tmp_path)
        if context.info_name == "train":
            with_changes(config_of(context.params["recipe"]), parse_changes(context.params["settings"] or []))
    assert len(found) >= {"training.md": 8, "own_data.md": 4, "data.md": 4}.get(page, 0)


def test_an_option_or_setting_that_is_not_there_is_noticed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(Exception, match="No such option: --speed"):
        parsed("knet train nuclei --data DATA --speed 3", tmp_path)
    context = parsed("knet train nuclei --data DATA --set model.kernels=3", tmp_path)
    with pytest.raises(ValueError, match=r"no setting 'model\.kernels'"):
        with_changes(config_of("nuclei"), parse_changes(context.params["settings"]))


def names_in_table(header: str) -> set[str]:
    """What the first column of a table of training.md has between backquotes."""
    rows = (DOCS / "training.md").read_text(encoding="utf-8").split(header)[1].split("\n\n")[0].strip().splitlines()
    return {name for row in rows for name in re.findall(r"`([\w.]+)`", row.split("|")[1])}


def test_the_table_of_fields_has_all_of_the_run():
    own = {field.name for field in fields(TrainConfig)} - {"model", "loss", "augment"}
    named = names_in_table("| field | meaning |")
    assert named >= own
    assert named - own == {"loss.points"}


def test_the_table_of_recipes_has_them_all():
    assert names_in_table("| recipe | trains | made for |") | {"panoptic_r50_3x", "instance_r50_3x"} == {
        *RECIPES,
        "_3x",
    }


def test_settings_that_the_text_recommends_exist():
    text = (DOCS / "training.md").read_text(encoding="utf-8")
    recommended = re.findall(r"`(?:--set )?([a-z_.]+=[\w.]+)`", text)
    assert len(recommended) > 8
    for setting in recommended:
        with_changes(config_of("nuclei"), parse_changes([setting]))
