"""Scripted solver and annotator of the task `modular_chain`, for the cold start.

Their faults are parameters, so that RL has something to improve:

* The solver believes some wrong facts (`Solver.wrong_facts`), so the actor needs a critique with the right ones. A
  refinement copies the explanations of a critique and ignores its judgments.
* The annotator computes each step correctly, but often stops early, misses errors and raises false alarms.
  Filtering critiques by the success of the refinement cannot remove the wrong judgments, since the refinement
  ignores judgments.
"""

from __future__ import annotations

import random
import re
from dataclasses import dataclass

from critique_rl.prompts import STEP_LABEL, VERDICT_LABEL
from critique_rl.tasks.modular_chain import Chain, apply
from critique_rl.types import Problem, child_seed

_EXPLANATION = re.compile(r"Explanation: (\d)")


@dataclass(frozen=True)
class Solver:
    """Scripted solver.

    Attributes:
        wrong_facts: Share of the facts `a op b` for which the solver believes a wrong value.
        conviction: Probability of writing that wrong value.
        slip: Probability of a random value for any other fact.
    """

    wrong_facts: float = 0.0
    conviction: float = 0.0
    slip: float = 0.0

    def step(self, value: int, operation: str, operand: int, rng: random.Random) -> int:
        """Compute one step, with the solver's faults."""
        right = apply(value, operation, operand)
        fact = random.Random(child_seed(0, "fact", value, operation, operand))
        wrong = (right + fact.randint(1, 9)) % 10
        if fact.random() < self.wrong_facts:
            return wrong if rng.random() < self.conviction else right
        return rng.randrange(10) if rng.random() < self.slip else right

    def solve(self, problem: Problem, rng: random.Random) -> str:
        """Write a response."""
        return self.refine(problem, "", rng)

    def refine(self, problem: Problem, critique: str, rng: random.Random) -> str:
        """Write a refinement: copy the explained values and compute the steps without an explanation."""
        chain = Chain.parse(problem.question)
        explained = [int(v) for v in _EXPLANATION.findall(critique)]
        values, value = [], chain.start
        for i, (operation, operand) in enumerate(chain.operations):
            value = explained[i] if i < len(explained) else self.step(value, operation, operand, rng)
            values.append(value)
        return chain.write(values)


@dataclass(frozen=True)
class Annotator:
    """Scripted writer of critiques.

    Attributes:
        miss: Probability of calling a step correct although it differs from its explanation.
        false_alarm: Probability of calling a step wrong although it equals its explanation.
        stop_at_match: Probability of stopping after a step that equals its explanation.
        stop_at_error: Probability of stopping after a step that differs from its explanation.
        wrong_value: Probability of a random value in an explanation.
    """

    miss: float = 0.0
    false_alarm: float = 0.0
    stop_at_match: float = 0.0
    stop_at_error: float = 0.0
    wrong_value: float = 0.0

    def critique(self, problem: Problem, response: str, rng: random.Random) -> str:
        """Write a critique of a well-formed response, in the fields of the compact prompt set."""
        chain = Chain.parse(problem.question)
        lines, flagged, value = [], False, chain.start
        for (operation, operand), sentence in zip(chain.operations, response.split("\n"), strict=False):
            value = apply(value, operation, operand)
            if rng.random() < self.wrong_value:
                value = rng.randrange(10)
            differs = not sentence.endswith(f"={value}")
            wrong = rng.random() >= self.miss if differs else rng.random() < self.false_alarm
            flagged |= wrong
            lines.append(
                f"{STEP_LABEL} {sentence}\nExplanation: {value}\n"
                f"Correctness of the step: {'Wrong' if wrong else 'Correct'}"
            )
            if rng.random() < (self.stop_at_error if differs else self.stop_at_match):
                break
        return "\n".join([*lines, f"{VERDICT_LABEL} {'Wrong' if flagged else 'Correct'}"])
