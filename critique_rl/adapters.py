"""Folders of adapters: which folder is one, and the base whose weights it changes. Loads no model."""

from __future__ import annotations

import json
from pathlib import Path

from critique_rl.types import UserError

CONFIG = "adapter_config.json"
"""File that every adapter of PEFT has."""


def is_adapter(path: str | Path) -> bool:
    """Whether a directory holds an adapter and not whole weights."""
    return (Path(path) / CONFIG).is_file()


def holds_model(path: str | Path) -> bool:
    """Whether a directory holds whole weights or an adapter."""
    return (Path(path) / "config.json").is_file() or is_adapter(path)


def base_of(path: str | Path) -> str:
    """Directory or hub id of the model that an adapter is on, as it names it; for whole weights the path itself.

    A relative directory counts from the folder that the command is run in.

    Raises:
        UserError: The adapter's file is damaged, or names no base.
    """
    if not is_adapter(path):
        return str(path)
    file = Path(path) / CONFIG
    try:
        base = json.loads(file.read_text(encoding="utf-8")).get("base_model_name_or_path")
    except (ValueError, AttributeError) as error:
        raise UserError(f"{file} is damaged: {error}") from error
    if not base:
        raise UserError(f"{file} names no base: set base_model_name_or_path to the model that it is on.")
    return str(base)
