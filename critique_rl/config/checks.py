"""Checks that several configuration classes share, with one wording for their messages."""

from __future__ import annotations

from collections.abc import Sequence

from critique_rl.types import UserError, nearest


def unknown(setting: str, name: str, known: Sequence[str]) -> str:
    """Message that a setting names something unknown, with the nearest known name."""
    return f"{setting} '{name}' is unknown. {nearest(name, known)}".rstrip()


def one_of(setting: str, name: str, known: Sequence[str]) -> None:
    """Raise a `UserError` for an unknown name."""
    if name not in known:
        raise UserError(unknown(setting, name, known))


def at_least(least: int, prefix: str, **values: float | None) -> None:
    """Raise a `UserError` for a value below `least`; None passes. `prefix` stands before the names of settings."""
    for name, value in values.items():
        if value is not None and not value >= least:
            raise UserError(f"{prefix}{name} must be at least {least}, got {value}.")


def repeated(names: Sequence[str]) -> str | None:
    """The first name that occurs more than once; None if all differ."""
    return next((name for name in names if names.count(name) > 1), None)
