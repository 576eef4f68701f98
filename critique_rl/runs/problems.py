"""Problems and protocol of an evaluation, made from their configurations."""

from __future__ import annotations

from dataclasses import fields

from critique_rl.config.data import LengthConfig, TaskConfig
from critique_rl.config.evaluation import Course, ProtocolConfig
from critique_rl.display import Display
from critique_rl.evaluation.protocol import Protocol
from critique_rl.prompts import PromptSet
from critique_rl.tasks import drop_overlap, gold_report, load_task, subsample
from critique_rl.types import Problem, Sampling, UserError, child_seed


def load_problems(task: TaskConfig, display: Display) -> list[Problem]:
    """Load the problems of one task without those that it excludes or drops; the number dropped is shown.

    Raises:
        UserError: The task cannot be loaded, or no problem is left.
    """
    task.check()
    problems = load_task(task.name, source=task.source, split=task.split, seed=task.seed, **task.options)
    problems = drop_overlap(problems, [p for other in task.exclude for p in load_problems(other, display)])
    if task.ungradable == "drop":
        failures = {failure.id for failure in gold_report(problems).failures}
        problems = [p for p in problems if p.id not in failures]
        if failures:
            display.note(f"{task.name}, {task.split}: dropped {len(failures)} ungradable golds")
    if not problems:
        raise UserError(
            f"task {task.name}: split '{task.split}' of {task.source or 'the hub'} is empty"
            + (" without what it excludes." if task.exclude else ".")
        )
    return subsample(problems, task.limit, task.seed)


def protocol_of(p: ProtocolConfig, prompts: PromptSet, lengths: LengthConfig, seed: int) -> Protocol:
    """The protocol of an evaluation with one seed."""
    return Protocol(
        prompts,
        response=Sampling(lengths.response, p.response_temperature),
        critique=Sampling(lengths.critique, p.critique_temperature),
        refinement=Sampling(lengths.refinement, p.refinement_temperature),
        seed=child_seed(seed, "evaluation"),
        **{field.name: getattr(p, field.name) for field in fields(Course)},
    )
