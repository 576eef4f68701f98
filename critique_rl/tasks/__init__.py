"""Data sets: a name and a split give a list of problems.

>>> " ".join(sorted(TASKS))
'aqua cnn_dailymail custom drawings gsm8k made_up_facts math modular_chain reasoning_gym svamp theoremqa'

A task of one's own is put in: `TASKS["shopping"] = Task(...)`.
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
"""Names of tasks, each with its module in this package."""


class _Registry(UserDict[str, Task]):
    """Names to tasks; the module of one in this package is imported when it is asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.data = dict.fromkeys(MODULES)  # type: ignore[assignment]  # None until then

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
        source: `None` for the hub by name; otherwise a local file or directory in the published layout.
        split: `train`, `validation`, `test`, or `math500` of task `math`. The splits of one task and one
            source are disjoint by problem identity, except that published train and test sets are taken as
            they are; `drop_overlap` removes from one what is in the other.
        limit: At most so many problems, drawn by seed.
        seed: Seed of `limit` and of generated tasks. It never moves a problem from one split to another.
        options: The task's own options, the keyword parameters of its `load`.

    Raises:
        UserError: Name, split or option is unknown, the data cannot be read or a row is not as it should be.
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
