"""Reading of settings: YAML, overrides, and typed dataclasses from plain data and back."""

from __future__ import annotations

import dataclasses
import difflib
import re
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from critique_rl.config.checks import unknown
from critique_rl.types import UserError, redacted


class _Loader(yaml.SafeLoader):
    """Reads `1e-4` as a number, like YAML 1.2, Python and trl; YAML 1.1 reads text."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+\Z"), list("-+0123456789")
)


def parse_yaml(text: str) -> Any:
    """Read YAML by the rules for all settings.

    >>> parse_yaml("[1e-4, 3, yes, tiny]")
    [0.0001, 3, True, 'tiny']
    """
    return yaml.load(text, Loader=_Loader)  # a safe loader


def similar_file(path: Path) -> str:
    """Suggestion for a missing file: one of the same folder with a similar name, or a preset."""
    files = [*path.parent.glob("*.yaml"), *Path("experiments/configs").glob("*.yaml")]
    by_name = {file.stem: file for file in reversed(files)}  # the same folder wins
    close = difflib.get_close_matches(path.name.removesuffix(".yaml"), by_name, n=1)
    return f" Did you mean {by_name[close[0]]}?" if close else ""


def environment_variables(data: Any, where: str) -> dict[str, str]:
    """Environment variables as trl writes them, `str(value)`; a wrong name or type is a `UserError`."""
    if not isinstance(data, dict):
        raise UserError(f"{where} must be a mapping of environment variables, got {data!r}.")
    for name, value in data.items():
        if not isinstance(name, str) or not name.isidentifier():
            raise UserError(f"{where}: {name!r} is no name of an environment variable.")
        if not isinstance(value, str | int | float) or "\0" in str(value):
            raise UserError(f"{where}.{name} must be a text, a number, true or false, got {value!r}.")
    return {name: str(value) for name, value in data.items()}


def override(data: dict[str, Any], item: str) -> None:
    """Change settings in place by one `a.b.c=value`; the value is YAML, a number is a place in a list.

    Raises:
        UserError: The item has another form, its value is not valid YAML, or its path leads nowhere.
    """
    key, equals, text = item.partition("=")
    names = key.split(".")
    if not equals or not all(names):
        raise UserError(f"override '{item}' is not of the form key=value.")
    try:
        value = parse_yaml(text)
    except yaml.YAMLError as error:
        raise UserError(f"override '{item}': its value is not valid YAML.") from error
    settings: Any = data
    for depth, name in enumerate(names, start=1):
        place: Any = name
        if isinstance(settings, list):
            if not name.isdigit() or int(name) >= len(settings):
                raise UserError(f"override '{item}': '{name}' is no place in a list of {len(settings)}.")
            place = int(name)
        elif not isinstance(settings, dict):
            raise UserError(f"override '{item}': '{names[depth - 2]}' holds no settings.")
        if depth == len(names):
            settings[place] = value
        elif isinstance(settings, dict) and settings.get(place) is None:
            settings[place] = {}
        settings = settings[place]


def as_dict(settings: Any) -> dict[str, Any]:
    """Plain data of a configuration without its secrets, for result files and for comparison."""
    return dict(redacted(dataclasses.asdict(settings)))


def differences(old: Any, new: Any, path: str = "") -> list[str]:
    """Lines `path: old -> new` for each setting in which two configurations differ."""
    if isinstance(old, dict) and isinstance(new, dict):
        lines = []
        for key in [*old, *(k for k in new if k not in old)]:
            lines += differences(old.get(key), new.get(key), f"{path}.{key}" if path else str(key))
        return lines
    return [] if old == new else [f"{path}: {old!r} -> {new!r}"]


def check_options(cls: type, options: Mapping[str, Any], where: str) -> None:
    """Check fields of another library's dataclass: all names, and the type of numbers and flags.

    Raises:
        UserError: A name is unknown, or a value has another type; the message begins with `where`.
    """
    known = [f.name for f in dataclasses.fields(cls) if f.init]
    hints = typing.get_type_hints(cls)
    for key, value in options.items():
        if key not in known:
            raise UserError(unknown(f"{where}: setting", str(key), known))
        wanted = set(typing.get_args(hints[key]) or (hints[key],)) - {type(None)}
        if value is not None and (wanted in ({bool}, {int}) or (float in wanted and wanted <= {float, int})):
            _value(float if float in wanted else wanted.pop(), value, where, key)


def build(cls: Any, data: dict[str, Any], source: str) -> Any:
    """Make a dataclass from plain data, as `typed` does, and call its `check()` if it has one."""
    config = typed(cls, data, source)
    if hasattr(config, "check"):
        config.check()
    return config


def typed(cls: Any, data: dict[str, Any], source: str, path: str = "") -> Any:
    """Make a dataclass from plain data; only names and types are checked.

    Args:
        data: Values of fields; a field that is a dataclass itself has a mapping.
        source: File or command that the data come from, for messages.
        path: Path of the data inside the source; empty at its top.

    Raises:
        UserError: A name is unknown, a setting is missing, or a value has another type.
    """
    fields = {f.name: f for f in dataclasses.fields(cls)}
    hints = typing.get_type_hints(cls)
    where = f"{source}: {path}" if path else source
    for key in data:
        if key not in fields:
            raise UserError(unknown(f"{where}: setting", str(key), list(fields)))
    required = [n for n, f in fields.items() if f.default is f.default_factory is dataclasses.MISSING]
    if missing := [name for name in required if name not in data]:
        raise UserError(f"{where}: missing setting(s) {', '.join(missing)}.")
    inside = f"{path}." if path else ""
    return cls(**{key: _value(hints[key], value, source, inside + key) for key, value in data.items()})


def _value(hint: Any, value: Any, source: str, path: str) -> Any:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    where = f"{source}: {path}"
    if origin in (types.UnionType, typing.Union):
        if value is None and type(None) in args:
            return None
        return _value(next(a for a in args if a is not type(None)), value, source, path)
    if dataclasses.is_dataclass(hint):
        if not isinstance(value, dict):
            raise UserError(f"{where} must be a mapping of settings, got {value!r}.")
        return typed(hint, value, source, path)
    if origin is list:
        if not isinstance(value, list):
            raise UserError(f"{where} must be a list, got {value!r}.")
        return [_value(args[0], item, source, f"{path}[{i}]") for i, item in enumerate(value)]
    if origin is dict:
        if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
            raise UserError(f"{where} must be a mapping with names as keys, got {value!r}.")
        return {key: _value(args[1], item, source, f"{path}.{key}") for key, item in value.items()}
    if hint is Any:
        return value
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, hint) or (hint is int and isinstance(value, bool)):
        raise UserError(f"{where} must be {hint.__name__}, got {value!r}.")
    return value
