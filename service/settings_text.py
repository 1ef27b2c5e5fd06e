"""The settings as text: what there is, and what is in force and where it came from."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import SecretStr
from pydantic.fields import FieldInfo
from pydantic_settings import EnvSettingsSource

from service.settings import BUNDLED_REPOSITORY, PREFIX, ModelSettings, Settings, file_source


@dataclass(frozen=True)
class Described:
    """A setting: its name in a file, its environment variable, its default and what it does, as people read them."""

    name: str
    variable: str
    default: str
    description: str
    is_secret: bool


def describe() -> list[Described]:
    """All settings but the tables of single models, in the order of their class."""
    return [
        Described(
            name=name,
            variable=f"{PREFIX}{name}".upper(),
            default=_default(field),
            description=field.description or "",
            is_secret="SecretStr" in str(field.annotation),
        )
        for name, field in Settings.model_fields.items()
        if name != "models"
    ]


def describe_models() -> list[Described]:
    """The settings in a table `[models.NAME]`."""
    return [
        Described(
            name=name,
            variable=f"{PREFIX}MODELS__NAME__{name}".upper(),
            default="",
            description=field.description or "",
            is_secret=False,
        )
        for name, field in ModelSettings.model_fields.items()
    ]


def print_config(options: Mapping[str, Any]) -> str:
    """The settings in force as a file in TOML, each with its origin as a comment; secrets are masked.

    Raises:
        ValueError: the settings are not legal.
    """
    settings = Settings(**options)
    origins = _origins(options, settings.config)
    names = [name for name in Settings.model_fields if name not in ("config", "models")]
    lines = [_line(name, getattr(settings, name), origins.get((name,), "default")) for name in names]
    for model, own in settings.models.items():
        lines += ["", f"[models.{_toml(model)}]"]
        lines += [_line(name, getattr(own, name), origins[("models", model, name)]) for name in own.model_fields_set]
    return "\n".join(lines)


def _default(field: FieldInfo) -> str:
    """The default where it is a plain value; the description tells those that are found out."""
    if field.default == BUNDLED_REPOSITORY:
        return "the bundled models"
    return "" if field.default in (None, ()) else _toml(field.default).strip('"')


def _origins(options: Mapping[str, Any], config: Path | None) -> dict[tuple[str, ...], str]:
    """Where each setting that is not a default came from."""
    origins: dict[tuple[str, ...], str] = {}
    for path, _ in _flat(file_source(Settings, config)()):
        origins[path] = f"file {config}"
    for path, _ in _flat(EnvSettingsSource(Settings)()):
        origins[path] = f"environment {PREFIX}{'__'.join(path).upper()}"
    for path, _ in _flat(options):
        origins[path] = f"option --{path[0].replace('_', '-')}"
    return origins


def _flat(values: Mapping[str, Any], path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, (*path, name))
        else:
            yield (*path, name), value


def _line(name: str, value: Any, origin: str) -> str:
    if value is None:
        return f"# {name} is not set"
    return f"{name} = {_toml(value)}  # {origin}"


def _toml(value: Any) -> str:
    """JSON's strings, numbers and lists are TOML's as well."""
    if isinstance(value, SecretStr | Path):
        value = str(value)
    if isinstance(value, tuple):
        return f"[{', '.join(map(_toml, value))}]"
    return json.dumps(value, ensure_ascii=False)
