"""Data sets: `load_task` loads the problems of one split of a task.

>>> " ".join(sorted(TASKS))
'aqua cnn_dailymail custom drawings gsm8k made_up_facts math modular_chain reasoning_gym svamp theoremqa'

To add a task: `TASKS["shopping"] = Task(...)`. The folder may import `grading`, `rewards`, `pairwise_rewards`,
`prompts`, `vision`, `records`, `display`, `markdown` and `types`.
"""

from __future__ import annotations

import importlib
import inspect
from collections import UserDict
from typing import Any

from critique_rl.tasks.base import DataError, Task, drop_overlap, split_problems, subsample
from critique_rl.tasks.check import GoldReport, gold_report
from critique_rl.types import Problem, nearest

__all__ = [
    "TASKS",
    "DataError",
    "GoldReport",
    "Task",
    "drop_overlap",
    "gold_report",
    "load_task",
    "split_problems",
    "subsample",
]

MODULES = {
    "aqua": "aqua",
    "cnn_dailymail": "cnn_dailymail",
    "custom": "custom",
    "drawings": "drawings",
    "gsm8k": "gsm8k",
    "made_up_facts": "made_up_facts",
    "math": "math_",
    "modular_chain": "modular_chain",
    "reasoning_gym": "reasoning_gym_",
    "svamp": "svamp",
    "theoremqa": "theoremqa",
}
"""Module in this package, by task name."""


class _Registry(UserDict[str, Task]):
    """Tasks by name; a module of this package is imported on first access."""

    def __init__(self) -> None:
        super().__init__()
        self.data = dict.fromkeys(MODULES)  # type: ignore[assignment]  # None before the import

    def __getitem__(self, name: str) -> Task:
        if self.data[name] is None:
            self.data[name] = importlib.import_module(f"critique_rl.tasks.{MODULES[name]}").TASK
        return self.data[name]


TASKS = _Registry()
"""Tasks by name."""


def load_task(
    name: str,
    *,
    source: str | None = None,
    split: str = "train",
    limit: int | None = None,
    seed: int = 0,
    **options: Any,
) -> list[Problem]:
    """Load the problems of one split of a task.

    Args:
        name: Name in `TASKS`.
        source: `None` for the hub or a generated task; else a local file or directory in the published layout.
        split: `train`, `validation`, `test`, or `math500` of task `math`. The splits of one task and source have
            no problem in common, except that published train and test sets may overlap; see `drop_overlap`.
        limit: Maximum number of problems, drawn by seed; `None` for all.
        seed: Seed of `limit` and of generated tasks. No seed moves a problem to another split.
        options: Options of the task, which are keyword parameters of its `load`.

    Raises:
        UserError: A name, split or option is unknown, the data cannot be read, or a row has a wrong field.
    """
    if name not in TASKS:
        raise DataError(f"no task {name!r}. {nearest(name, TASKS)}")
    task = TASKS[name]
    parameters = inspect.signature(task.load).parameters.values()
    keywords = {parameter.name for parameter in parameters if parameter.kind is parameter.KEYWORD_ONLY}
    known = keywords - {"source", "split", "seed"}
    for option in options:
        if option not in known:
            raise DataError(f"task {name}: no option {option!r}. {nearest(option, sorted(known))}")
    return subsample(task.load(source=source, split=split, seed=seed, **options), limit, seed)
