"""Tasks whose texts can be scripted, and who writes them: solver, annotator and judge of each task."""

from __future__ import annotations

import random
from typing import NamedTuple, Protocol

from critique_rl.tasks import drawings_teacher, made_up_facts_teacher, modular_chain_teacher
from critique_rl.types import Problem


class Scripts(NamedTuple):
    """Who writes the scripted texts of a task.

    Attributes:
        solver: Answers and refines.
        annotator: Criticises.
        judge: Says which of two responses is better; None if nobody does.
    """

    solver: type
    annotator: type
    judge: type | None = None

    def judging(self, **faults: float) -> Judge | None:
        """The judge with some faults."""
        return None if self.judge is None else self.judge(**faults)


class Solver(Protocol):
    """Answers and refines, with the faults that it is made with."""

    def solve(self, problem: Problem, rng: random.Random) -> str:
        """A response."""
        ...

    def refine(self, problem: Problem, critique: str, rng: random.Random) -> str:
        """A refinement."""
        ...


class Annotator(Protocol):
    """Criticises, with the faults that it is made with."""

    def critique(self, problem: Problem, response: str, rng: random.Random) -> str:
        """A critique."""
        ...


class Judge(Protocol):
    """Says which of two responses is better, with the faults that it is made with."""

    def judge(self, problem: Problem, response_1: str, response_2: str, rng: random.Random) -> str:
        """A judgement."""
        ...


SCRIPTED = {
    "drawings": Scripts(drawings_teacher.Looker, drawings_teacher.Annotator, drawings_teacher.Judge),
    "made_up_facts": Scripts(made_up_facts_teacher.Summariser, made_up_facts_teacher.Annotator),
    "modular_chain": Scripts(modular_chain_teacher.Solver, modular_chain_teacher.Annotator),
}
"""Tasks with scripted texts."""
