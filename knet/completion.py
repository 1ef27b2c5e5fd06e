"""What the shell completes after a tab. Only names of files and JSON are read, so that it answers at once."""

import json
import os
from pathlib import Path

import typer

import service

_BUNDLED = Path(service.__file__).resolve().parent.parent / "repository"
RECIPES = (
    "nuclei",
    "small_panoptic",
    "small_instance",
    "small_semantic",
    "panoptic_r50_1x",
    "panoptic_r50_3x",
    "instance_r50_1x",
    "instance_r50_3x",
    "semantic_r50_80k",
)


def complete_model(context: typer.Context, incomplete: str) -> list[str]:
    """Names of the models of the repository that the command names, or of its default."""
    return _starting({path.parent.parent.name for path in _artifacts(context)}, incomplete)


def complete_version(context: typer.Context, incomplete: str) -> list[str]:
    """Versions of the model that the command names."""
    return _starting({path.parent.name for path in _artifacts(context)}, incomplete)


def complete_variant(context: typer.Context, incomplete: str) -> list[str]:
    """Variants of the artifact that the command names: by its folder, or by its name in the repository."""
    folder = context.params.get("artifact") or context.params.get("model") or ""
    here = Path(str(folder)) / "artifact.json"
    found = [here] if here.is_file() else _artifacts(context)
    return _starting({name for path in found for name in _variants(path)}, incomplete)


def complete_recipe(incomplete: str) -> list[str]:
    """Names of recipes."""
    return _starting(set(RECIPES), incomplete)


def _artifacts(context: typer.Context) -> list[Path]:
    """Files `NAME/VERSION/artifact.json` of the repository; of one model, if the command names one that is there."""
    named = context.params.get("repository") or os.environ.get("KNET_REPOSITORY") or _BUNDLED
    found = sorted(Path(str(named)).glob("*/*/artifact.json"))
    return [path for path in found if path.parent.parent.name == context.params.get("model")] or found


def _variants(path: Path) -> list[str]:
    try:
        variants = json.loads(path.read_text(encoding="utf-8"))["variants"]
        return [f"{variant['runtime']}-{variant['precision']}" for variant in variants]
    except (OSError, ValueError, KeyError, TypeError):  # what is wrong with it, the command itself will say
        return []


def _starting(names: set[str], incomplete: str) -> list[str]:
    return sorted(name for name in names if name.startswith(incomplete))
