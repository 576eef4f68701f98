"""Scripted writers of the generated tasks: a solver, an annotator and sometimes a judge for each task."""

from __future__ import annotations

import random
from typing import NamedTuple, Protocol

from critique_rl.tasks import drawings_teacher, made_up_facts_teacher, modular_chain_teacher
from critique_rl.types import Problem


class Scripts(NamedTuple):
    """Classes that write the scripted texts of a task. Their constructors take fault probabilities.

    Attributes:
        solver: Writes responses and refinements.
        annotator: Writes critiques.
        judge: Writes judgements of two responses; None if the task has no judge.
    """

    solver: type
    annotator: type
    judge: type | None = None

    def judging(self, **faults: float) -> Judge | None:
        """Create the judge with these fault probabilities; None if the task has no judge."""
        return None if self.judge is None else self.judge(**faults)


class Solver(Protocol):
    """Writes responses and refinements."""

    def solve(self, problem: Problem, rng: random.Random) -> str:
        """Write a response."""

    def refine(self, problem: Problem, critique: str, rng: random.Random) -> str:
        """Write a refinement."""


class Annotator(Protocol):
    """Writes critiques."""

    def critique(self, problem: Problem, response: str, rng: random.Random) -> str:
        """Write a critique."""


class Judge(Protocol):
    """Decides which of two responses is better."""

    def judge(self, problem: Problem, response_1: str, response_2: str, rng: random.Random) -> str:
        """Write a judgement."""


SCRIPTED = {
    "drawings": Scripts(drawings_teacher.Looker, drawings_teacher.Annotator, drawings_teacher.Judge),
    "made_up_facts": Scripts(made_up_facts_teacher.Summariser, made_up_facts_teacher.Annotator),
    "modular_chain": Scripts(modular_chain_teacher.Solver, modular_chain_teacher.Annotator),
}
"""Scripted writers by name of the task."""
