r"""Scripted solver, pairwise judge and annotator of the task `drawings`.

Their faults are parameters, as in `modular_chain_teacher`, so that RL has something to improve. A reply describes
the picture line by line and computes the answer, or it is a *glance*, a guess without a description:

    <think>bars A 3 B 5 C 0
    so 5-0=5</think> \boxed{5}

    <think>a glance</think> \boxed{2}

A description may misread some marks, and the rest of the text follows from it: a judge compares the boxed answers
with the result of its own description, a refinement copies the descriptions in a critique.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from critique_rl.prompts import STEP_LABEL, VERDICT_LABEL
from critique_rl.tasks import drawings
from critique_rl.tasks.drawings import CELLS, HEIGHTS, Scene, boxed, described, thought, thought_lines, write
from critique_rl.types import Problem

GLANCE = "a glance"
EXPLANATION_LABEL = "Explanation:"
JUDGMENT_LABEL = "Correctness of the step:"
ANSWERS = ("Answer 1", "Answer 2")
RIGHT, WRONG = " right.", " wrong."

PHRASES = (
    # questions
    *("How many", " shapes?", "s?", "What colour is the shape in row ", ", column ", "? (", " ("),
    *("How much higher is bar ", " than bar ", "How high is bar "),
    # thoughts
    *("<think>", "</think>", " \\boxed{", GLANCE, "row 1:", "row 2:"),
    *(f" {mark}" for mark in (*drawings.COLOURS, *drawings.SHAPES, drawings.EMPTY)),
    *("bars A ", " B ", " C ", "so ", "it is", ", ", *ANSWERS, RIGHT, WRONG),
    # critiques, and the prompts of the compact set
    *("Question: ", "\nSolution: ", f"{STEP_LABEL} "),
    *(f"\n{label} " for label in (STEP_LABEL, EXPLANATION_LABEL, JUDGMENT_LABEL, VERDICT_LABEL)),
    *("Correct", "Wrong", "user\n", "assistant\n"),
)
"""Texts that are one token each. Digits, option letters and bars are always single characters."""


def misread(scene: Scene, probability: float, rng: random.Random) -> Scene:
    """Replace each cell or height by a different one with `probability`."""
    marks = HEIGHTS if scene.is_chart else CELLS

    def read(mark: str) -> str:
        return rng.choice([m for m in marks if m != mark]) if rng.random() < probability else mark

    return Scene(tuple(tuple(map(read, row)) for row in scene.rows))


@dataclass(frozen=True)
class Looker:
    """Scripted solver.

    Attributes:
        glance: Probability of a guess without a description.
        misread: Probability of misreading a cell or bar.
    """

    glance: float = 0.0
    misread: float = 0.0

    def solve(self, problem: Problem, rng: random.Random) -> str:
        """Write a response."""
        if rng.random() < self.glance:
            return write([GLANCE], drawings.guess(problem.question, rng))
        return self._look(problem, {}, rng)

    def refine(self, problem: Problem, critique: str, rng: random.Random) -> str:
        """Write a refinement: copy the explained lines, read the others, and compute the answer again.

        A critique without explanations gives a new response.
        """
        lines = [line for line in critique.split("\n") if line.startswith(EXPLANATION_LABEL)]
        explained = described("\n".join(lines))
        return self._look(problem, explained, rng) if explained else self.solve(problem, rng)

    def _look(self, problem: Problem, known: dict[int, tuple[str, ...]], rng: random.Random) -> str:
        scene = misread(Scene.parse(problem.solution), self.misread, rng)
        first = 0 if scene.is_chart else 1
        corrected = Scene(tuple(known.get(i, row) for i, row in enumerate(scene.rows, first)))
        return write(*thought(problem.question, corrected, rng))


@dataclass(frozen=True)
class Judge:
    """Scripted pairwise judge.

    Attributes:
        glance: Probability of a random decision without a description.
        misread: Probability of misreading a cell or bar.
        flip: Probability of deciding against its own description, if exactly one answer agrees with that.
    """

    glance: float = 0.0
    misread: float = 0.0
    flip: float = 0.0

    def judge(self, problem: Problem, response_1: str, response_2: str, rng: random.Random) -> str:
        """Write a judgement; if both responses seem right, or both wrong, the decision is random."""
        if rng.random() < self.glance:
            return write([GLANCE], rng.choice("12"))
        seen = misread(Scene.parse(problem.solution), self.misread, rng)
        lines, answer = thought(problem.question, seen, rng)
        right = [boxed(response) == answer for response in (response_1, response_2)]
        comparison = [name + (RIGHT if ok else WRONG) for name, ok in zip(ANSWERS, right, strict=True)]
        better = rng.choice("12")
        if right[0] != right[1]:
            better = "1" if right[0] != (rng.random() < self.flip) else "2"
        return write([*lines, " ".join(comparison)], better)


@dataclass(frozen=True)
class Annotator:
    """Scripted writer of critiques.

    Attributes:
        miss: Probability of calling a step or a final answer correct although it differs from the annotator's.
        false_alarm: Probability of calling a step or a final answer wrong although it equals the annotator's.
        misread: Probability of misreading a cell or bar.
    """

    miss: float = 0.0
    false_alarm: float = 0.0
    misread: float = 0.0

    def critique(self, problem: Problem, response: str, rng: random.Random) -> str:
        """Write a critique in the fields of the compact prompt set: one step per line of the response's thought.

        The explanation of a step is the correct line. A response without a description is a single step, which is
        wrong if its answer is; its explanation is the whole correct thought in one line.
        """
        seen = misread(Scene.parse(problem.solution), self.misread, rng)
        own, answer = thought(problem.question, seen, rng)
        differs = boxed(response) != answer
        steps = thought_lines(response)
        if described("\n".join(steps)):
            judged = [(said, line, said != line) for said, line in zip(steps, own, strict=False)]
        else:
            judged = [(" ".join(steps), " ".join(own), differs)]
        lines = [
            f"{STEP_LABEL} {said}\n{EXPLANATION_LABEL} {line}\n{JUDGMENT_LABEL} {self._judgment(step, rng)}"
            for said, line, step in judged
        ]
        return "\n".join([*lines, f"{VERDICT_LABEL} {self._judgment(differs, rng)}"])

    def _judgment(self, differs: bool, rng: random.Random) -> str:
        wrong = rng.random() >= self.miss if differs else rng.random() < self.false_alarm
        return "Wrong" if wrong else "Correct"
