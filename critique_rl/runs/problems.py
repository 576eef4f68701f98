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

PUBLISHED = {
    ("aqua", "train"): 97_467,
    ("aqua", "validation"): 254,
    ("aqua", "test"): 254,
    ("cnn_dailymail", "train"): 287_113,
    ("cnn_dailymail", "validation"): 13_368,
    ("cnn_dailymail", "test"): 11_490,
    ("gsm8k", "train"): 7_473,
    ("gsm8k", "test"): 1_319,
    ("math", "train"): 7_500,
    ("math", "test"): 5_000,
    ("math", "math500"): 500,
    ("svamp", "train"): 700,
    ("svamp", "test"): 300,
    ("theoremqa", "test"): 800,
}
"""Sizes of the published splits, with duplicates; for plans made out of the hub's reach."""
HELD_OUT = 0.1
"""Share of train that is held out by default where there is no published validation split."""


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


def published_size(task: TaskConfig) -> int | None:
    """How many problems the task has, as far as its published size tells."""
    size, options = PUBLISHED.get((task.name, task.split)), dict(task.options)
    held_out = options.pop("held_out", HELD_OUT)
    if size is None or options:
        return None
    cut = task.split == "train" and (task.name, "validation") not in PUBLISHED
    return round(size * (1 - held_out)) if cut else size
