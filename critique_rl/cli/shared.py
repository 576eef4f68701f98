"""Pieces that several commands share: the arguments of a task, and the result file."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from critique_rl.config.data import TaskConfig
from critique_rl.config.reading import parse_yaml
from critique_rl.reports.provenance import result
from critique_rl.tasks import TASKS
from critique_rl.types import UserError


def add_task_arguments(group: argparse._ArgumentGroup) -> None:
    """Declare `--task`, `--source`, `--split` and `--option`."""
    group.add_argument("--task", choices=list(TASKS), metavar="TASK", help=f"one of {', '.join(TASKS)}")
    group.add_argument("--source", help="local file or directory of the task; the hub if left out")
    add_split_arguments(group)


def add_split_arguments(group: argparse._ActionsContainer) -> None:
    """Declare `--split` and `--option`."""
    group.add_argument("--split", default="test", help="train, validation or test, which is the default")
    group.add_argument(
        "--option", action="append", default=[], metavar="KEY=VALUE", help="option of the task"
    )


def task_config(arguments: argparse.Namespace) -> TaskConfig:
    """The task that the arguments name; raises what `task_options` raises."""
    options = task_options(arguments.option)
    return TaskConfig(arguments.task, arguments.split, arguments.source, options=options)


def task_options(items: Sequence[str]) -> dict[str, Any]:
    """Options of a task from `--option KEY=VALUE`; values are YAML.

    Raises:
        UserError: An item is not of this form.
    """
    options = {}
    for item in items:
        key, equals, value = item.partition("=")
        if not key or not equals:
            raise UserError(f"--option {item} is not of the form key=value.")
        options[key] = parse_yaml(value)
    return options


def write_result(
    path: Path, settings: Mapping[str, Any], seed: int, rows: Sequence[Mapping[str, Any]], **more: Any
) -> None:
    """Write a result file, as `critique_rl.reports.provenance.result` describes it, with `more` entries."""
    content = json.dumps(result(settings, [seed], rows) | more, indent=1, ensure_ascii=False)
    path.write_text(f"{content}\n", encoding="utf-8")
