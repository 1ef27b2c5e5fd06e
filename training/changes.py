"""`--set key=value`: any field of a configuration, as text, by its type."""

import difflib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass, replace
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from model.config import Category

Config = TypeVar("Config")


def parse_changes(settings: Sequence[str]) -> dict[str, str]:
    """`["model.num_kernels=50", ...]` -> values by key. Raises ValueError for anything else."""
    changes = {}
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not equals or not key:
            raise ValueError(f"--set is {setting!r}; legal: KEY=VALUE, such as steps=2000")
        changes[key.strip()] = value.strip()
    return changes


def with_changes(config: Config, changes: Mapping[str, str]) -> Config:
    """A configuration with other values, all put in at once, so that fields that depend on each other fit.

    Args:
        config: a dataclass, whose fields may be dataclasses.
        changes: text by dotted key: `{"model.backbone.name": "resnet50"}`.

    Raises:
        ValueError: there is no such key, its type does not allow the value, or the values do not fit together.
    """
    types = dict(_keys(config))
    for key in changes:
        if key not in types:
            raise ValueError(f"there is no setting {key!r}{_similar(key, types)}")
    values = {key: _parse(text, types[key], key) for key, text in changes.items()}
    changed: Config = _replaced(config, values, prefix="")
    return changed


def _keys(config: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every field that holds a value, with its type. Categories are the data's."""
    hints = get_type_hints(type(config))
    for field in fields(config):
        value = getattr(config, field.name)
        if is_dataclass(value):
            yield from _keys(value, f"{prefix}{field.name}.")
        elif hints[field.name] != tuple[Category, ...]:
            yield prefix + field.name, hints[field.name]


def _similar(key: str, types: Mapping[str, Any]) -> str:
    inside = [name for name in types if name.startswith(f"{key}.")]
    last = key.rsplit(".")[-1]
    lasts = difflib.get_close_matches(last, {name.rsplit(".")[-1] for name in types})
    near = inside or [name for name in types if name.rsplit(".")[-1] in lasts]
    groups = sorted({name.split(".")[0] for name in types if "." in name})
    listed = (
        ", ".join(near) if near else ", ".join([*(n for n in types if "." not in n), *(f"{g}...." for g in groups)])
    )
    return f"; {'similar' if near else 'legal'}: {listed} (--print shows all)"


def _parse(text: str, kind: Any, key: str) -> Any:
    try:
        return _value(text, kind)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{key} is {text!r}; legal: {_legal(kind)}") from error


def _value(text: str, kind: Any) -> Any:
    """Text as a value of a type. Raises ValueError."""
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        if text.lower() in ("none", "null"):
            return None
        (inner,) = (argument for argument in arguments if argument is not NoneType)
        return _value(text, inner)
    if origin is Literal:
        return {str(value): value for value in arguments}[text] if text in map(str, arguments) else _refuse()
    if kind is bool:
        return {"true": True, "false": False}[text.lower()] if text.lower() in ("true", "false") else _refuse()
    if kind in (int, float, str):
        value = kind(text)
        return _refuse() if value != value else value  # "nan" would pass most comparisons with what is legal
    if origin is tuple:
        parts = text.strip("()[] ").split(",") if text.strip("()[] ") else []
        parts = [part.strip().strip("\"'") for part in parts if part.strip()]
        kinds = [arguments[0]] * len(parts) if arguments[-1] is Ellipsis else list(arguments)
        return tuple(_value(part, of) for part, of in zip(parts, kinds, strict=True))
    if origin is dict:
        loaded = json.loads(text)
        if not isinstance(loaded, dict):
            _refuse()
        return {str(name): _value(str(value), arguments[1]) for name, value in loaded.items()}
    raise AssertionError(f"no rule for settings of type {kind}")


def _refuse() -> Any:
    raise ValueError


def _legal(kind: Any) -> str:
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        return ", ".join([*(_legal(argument) for argument in arguments if argument is not NoneType), "none"])
    if origin is Literal:
        return ", ".join(map(str, arguments))
    if origin is tuple:
        if arguments[-1] is Ellipsis:
            return f"any number of values ({_legal(arguments[0])}), with commas: 1,2,3"
        return f"{len(arguments)} values ({_legal(arguments[0])}), with a comma: 1,2"
    if origin is dict:
        return 'a JSON object, such as {"colour": 1.5}'
    return {bool: "true, false", int: "a whole number", float: "a number", str: "a text"}[kind]


def _replaced(config: Any, values: Mapping[str, Any], prefix: str) -> Any:
    changed = {}
    for field in fields(config):
        key, value = prefix + field.name, getattr(config, field.name)
        if key in values:
            changed[field.name] = values[key]
        elif is_dataclass(value) and any(name.startswith(f"{key}.") for name in values):
            changed[field.name] = _replaced(value, values, f"{key}.")
    return replace(config, **changed)
