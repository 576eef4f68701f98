"""Where the texts of the cold start come from: reasoning, critiques and refinements to fine-tune on.

Three teachers behind one interface. `ModelTeacher` is the paper's recipe. `ReferenceTeacher` serves models
that are too small to write the critique format by themselves. `ScriptedTeacher` makes the embedded default.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from typing import Protocol

from critique_rl.actors.base import Actor
from critique_rl.prompts import STEP_LABEL, VERDICT_LABEL, PromptSet
from critique_rl.tasks.scripted import Annotator, Judge, Solver, _judged
from critique_rl.types import Problem, Sampling, UserError, child_seed


class Teacher(Protocol):
    """Writes texts to fine-tune on; one text per problem, in order. Prefills are added by the caller."""

    def solve(self, problems: Sequence[Problem], *, seed: int) -> list[str]:
        """Reasoning that ends in the answer."""
        ...

    def critique(
        self, problems: Sequence[Problem], responses: Sequence[str], *, seed: int, polished: bool
    ) -> list[str]:
        """Critiques of responses; `polished` ones need not show the faults the critic is to start with."""
        ...

    def refine(
        self, problems: Sequence[Problem], responses: Sequence[str], critiques: Sequence[str], *, seed: int
    ) -> list[str]:
        """Refinements that follow the critiques."""
        ...


class ModelTeacher:
    """The paper's recipe: published reasoning; critiques and refinements by a model of the same size.

    Args:
        model: Writes critiques and refinements, for instance the base's -Instruct sibling.
        prompts: Prompt set.
        max_tokens: Most tokens of a text.
        temperature: Sampling temperature.
    """

    def __init__(self, model: Actor, prompts: PromptSet, *, max_tokens: int, temperature: float) -> None:
        self.model, self.prompts = model, prompts
        self.max_tokens, self.temperature = max_tokens, temperature

    def solve(self, problems: Sequence[Problem], *, seed: int) -> list[str]:
        """The data set's own reasoning, ended as the reasoning prompt asks."""
        return [gold_reasoning(problem) for problem in problems]

    def critique(
        self, problems: Sequence[Problem], responses: Sequence[str], *, seed: int, polished: bool
    ) -> list[str]:
        """Critiques by the model; it is not shown the gold answer."""
        generations = self.model.generate(
            [
                self.prompts.critique_prompt(p.question, y, image=p.image)
                for p, y in zip(problems, responses, strict=True)
            ],
            Sampling(self.max_tokens, self.temperature, seed=child_seed(seed, "teacher critique")),
        )
        return [g.text for g in generations]

    def refine(
        self, problems: Sequence[Problem], responses: Sequence[str], critiques: Sequence[str], *, seed: int
    ) -> list[str]:
        """Refinements by the model, in the actor's place."""
        generations = self.model.generate(
            [
                self.prompts.refinement_prompt(p.question, y, c, image=p.image)
                for p, y, c in zip(problems, responses, critiques, strict=True)
            ],
            Sampling(self.max_tokens, self.temperature, seed=child_seed(seed, "teacher refine")),
        )
        return [g.text for g in generations]


class ReferenceTeacher:
    """Critiques and refinements put together from the gold reasoning; not the paper's recipe, and no model.

    A line of a response counts as right if the last number in it occurs in the gold reasoning or question;
    the first other line is called wrong, with the gold reasoning as explanation. Rough, but it teaches a
    model of 135 M parameters the format, which it cannot pick up from the prompt.
    """

    def solve(self, problems: Sequence[Problem], *, seed: int) -> list[str]:
        """The data set's own reasoning."""
        return [gold_reasoning(problem) for problem in problems]

    def critique(
        self, problems: Sequence[Problem], responses: Sequence[str], *, seed: int, polished: bool
    ) -> list[str]:
        """A critique per response, from the gold reasoning."""
        return [self._critique(p, y) for p, y in zip(problems, responses, strict=True)]

    def refine(
        self, problems: Sequence[Problem], responses: Sequence[str], critiques: Sequence[str], *, seed: int
    ) -> list[str]:
        """The gold reasoning again."""
        return self.solve(problems, seed=seed)

    @staticmethod
    def _critique(problem: Problem, response: str) -> str:
        known = set(
            _NUMBER.findall(f"{problem.question} {problem.solution} {problem.answer}".replace(",", ""))
        )
        blocks, flagged = [], False
        for line in [line.strip() for line in response.split("\n") if line.strip()]:
            numbers = _NUMBER.findall(line.replace(",", ""))
            wrong = bool(numbers) and numbers[-1] not in known
            why = f"It should be: {gold_reasoning(problem)}" if wrong else "This follows from the question."
            blocks.append(
                f"{STEP_LABEL} {line}\nCorrectness of the step: {'Wrong' if wrong else 'Correct'}\n"
                f"Explanation: {' '.join(why.split())}"
            )
            if wrong:
                flagged = True
                break
        return "\n".join([*blocks, f"\n{VERDICT_LABEL} {'Wrong' if flagged else 'Correct'}"])


class ScriptedTeacher:
    """A faulty solver and an unreliable annotator for an embedded task, see `SCRIPTED`.

    Args:
        solver: Writes responses and refinements.
        annotator: Writes critiques.
        polished: Annotator of the critiques that the actor learns to follow.
        judge: Writes preferences, if the task has some.
    """

    def __init__(
        self, solver: Solver, annotator: Annotator, polished: Annotator, judge: Judge | None = None
    ) -> None:
        self.solver, self.annotator, self.polished, self.judging = solver, annotator, polished, judge

    def solve(self, problems: Sequence[Problem], *, seed: int) -> list[str]:
        """Responses with the solver's errors."""
        return [self.solver.solve(p, _rng(seed, "solve", i)) for i, p in enumerate(problems)]

    def critique(
        self, problems: Sequence[Problem], responses: Sequence[str], *, seed: int, polished: bool
    ) -> list[str]:
        """Critiques with the annotator's faults."""
        annotator = self.polished if polished else self.annotator
        return [
            annotator.critique(p, y, _rng(seed, "critique", i))
            for i, (p, y) in enumerate(zip(problems, responses, strict=True))
        ]

    def refine(
        self, problems: Sequence[Problem], responses: Sequence[str], critiques: Sequence[str], *, seed: int
    ) -> list[str]:
        """Refinements that take over the explained values."""
        return [
            self.solver.refine(p, c, _rng(seed, "refine", i))
            for i, (p, c) in enumerate(zip(problems, critiques, strict=True))
        ]

    def judge(
        self, problems: Sequence[Problem], first: Sequence[str], second: Sequence[str], *, seed: int
    ) -> list[str]:
        """Which of two responses is better, with the judge's faults.

        Raises:
            UserError: The task has no judge.
        """
        if self.judging is None:
            raise UserError(
                f"nobody writes judgements for this task: set judgements to 0, or train on {_judged()}."
            )
        return [
            self.judging.judge(p, a, b, _rng(seed, "judge", i))
            for i, (p, a, b) in enumerate(zip(problems, first, second, strict=True))
        ]


_NUMBER = re.compile(r"-?\d+(?:\.\d+)?")


def gold_reasoning(problem: Problem) -> str:
    """The data set's reasoning, with the sentence the reasoning prompt asks for at its end; a summary has none."""
    if problem.kind == "score":
        return problem.solution.strip()
    ending = f"The answer is {problem.answer}."
    solution = problem.solution.strip()
    return (
        solution
        if problem.answer in solution.split("\n")[-1] and "answer is" in solution
        else f"{solution}\n{ending}".strip()
    )


def _rng(seed: int, name: str, index: int) -> random.Random:
    return random.Random(child_seed(seed, "scripted", name, index))
