"""TODO docstring."""

from __future__ import annotations

import typing

from critique_rl.types import UserError, nearest


def unknown(what: str, name: str, known: typing.Sequence[str]) -> str:
    """Message that `name` is none of the known names, with the nearest of them."""
    return f"{what} '{name}' is unknown. {nearest(name, known)}".rstrip()


def _one_of(what: str, name: str, known: typing.Sequence[str]) -> None:
    if name not in known:
        raise UserError(unknown(what, name, known))


def _at_least(least: int, where: str, **values: float | None) -> None:
    for name, value in values.items():
        if value is not None and not value >= least:
            raise UserError(f"{where}{name} must be at least {least}, got {value}.")
