"""Which models a file of records comes from, so that it is not continued with others."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from critique_rl.manifest import write_atomically
from critique_rl.types import UserError


def identity_of(model: object) -> dict[str, str]:
    """What tells an actor, or a judge made from one, from another: its `identity`; empty if it has none."""
    return dict(getattr(model, "identity", None) or {})


def check_models(path: Path, models: Mapping[str, object], *, begun: bool) -> dict[str, dict[str, str]]:
    """Remember in a file which models results come from; refuse to go on with other models.

    Only facts of the same kind are compared: a run may change between an actor in this process (`weights`) and one
    behind a server (`served`, `root`). Results of which nothing is remembered go on.

    Args:
        path: The file, beside the results.
        models: Actors or judges by role; None where there is none.
        begun: Whether there are results; without them nothing is compared.

    Returns:
        What tells each model from others, by role; empty where nothing does.

    Raises:
        UserError: A model differs from the one that the results come from.
    """
    before: dict[str, dict[str, str]] = {}
    if begun and path.exists():
        try:
            before = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise UserError(f"{path} is damaged ({error}): delete it; the results stay valid.") from error
    found = {role: identity_of(model) for role, model in models.items()}
    known = {role: identity for role, identity in found.items() if identity}
    for role, identity in known.items():
        for kind, value in identity.items():
            old = before.get(role, {}).get(kind, value)
            if old != value:
                raise UserError(
                    f"{path}: what is there comes from the {role} {old!r} ({kind}), which is {value!r} now, so "
                    "results of two models would be mixed. Bring the first one back, or choose another folder. "
                    "Delete this file only if both are the same model."
                )
    merged = before | {role: before.get(role, {}) | identity for role, identity in known.items()}
    if merged != before:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, json.dumps(merged, indent=1, ensure_ascii=False))
    return found
