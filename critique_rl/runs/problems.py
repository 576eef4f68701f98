"""TODO docstring."""

from __future__ import annotations

from critique_rl.config.data import TaskConfig
from critique_rl.display import Display
from critique_rl.tasks import drop_overlap, gold_report, load_task, subsample
from critique_rl.types import Problem, UserError


def load_problems(task: TaskConfig, display: Display) -> list[Problem]:
    """Problems of one task, without what it excludes or drops; what is dropped is noted.

    Raises:
        UserError: They cannot be loaded, or none is left.
    """
    found = load_task(task.name, source=task.source, split=task.split, seed=task.seed, **task.options)
    found = drop_overlap(found, [p for other in task.exclude for p in load_problems(other, display)])
    if task.ungradable == "drop":
        failures = {f.id for f in gold_report(found).failures}
        found = [p for p in found if p.id not in failures]
        if failures:
            display.note(f"{task.name}, {task.split}: dropped {len(failures)} ungradable golds")
    if not found:
        raise UserError(
            f"task {task.name}: split '{task.split}' of {task.source or 'the hub'} is empty"
            + (" without what it excludes." if task.exclude else ".")
        )
    return subsample(found, task.limit, task.seed)
