"""Generated default task: chains of one-digit arithmetic in which every step can be checked.

The question `3+4*7-9, left to right mod 10` has the solution

    3+4=7
    7*7=9
    9-9=0
    The answer is 0

The only factors are 3, 7 and 9, which are invertible modulo 10. Every operation is therefore a bijection of the
running value: one wrong step always makes the final answer wrong. There are 10 * 21^3 = 92,610 problems of three
steps. Nothing is downloaded.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from itertools import accumulate

from critique_rl.tasks.base import FRACTIONS, Task, first_difference
from critique_rl.tasks.published import make_problem
from critique_rl.types import Problem, UserError, child_seed, nearest

_OPERANDS = {"+": range(1, 10), "-": range(1, 10), "*": (3, 7, 9)}
OPERATIONS = tuple((operator, operand) for operator, operands in _OPERANDS.items() for operand in operands)
SUFFIX = ", left to right mod 10"
TRIGGER = "The answer is "


def apply(value: int, operation: str, operand: int) -> int:
    """Compute one step modulo 10."""
    return {"+": value + operand, "-": value - operand, "*": value * operand}[operation] % 10


@dataclass(frozen=True)
class Chain:
    """A parsed question.

    Attributes:
        start: First value.
        operations: Pairs of operator and operand, in order.
    """

    start: int
    operations: tuple[tuple[str, int], ...]

    @classmethod
    def parse(cls, question: str) -> Chain:
        """Parse a question in the form of `Chain.question`."""
        body = question.removesuffix(SUFFIX)
        return cls(int(body[0]), tuple((body[i], int(body[i + 1])) for i in range(1, len(body), 2)))

    @property
    def question(self) -> str:
        """Text of the question."""
        return str(self.start) + "".join(f"{op}{b}" for op, b in self.operations) + SUFFIX

    def values(self) -> list[int]:
        """Compute the running value after each step."""
        running = accumulate(self.operations, lambda value, op: apply(value, *op), initial=self.start)
        return list(running)[1:]

    def write(self, values: list[int]) -> str:
        """Write a response that gives `values` as the results of the steps, right or wrong."""
        lines, value = [], self.start
        for (operation, operand), claimed in zip(self.operations, values, strict=True):
            lines.append(f"{value}{operation}{operand}={claimed}")
            value = claimed
        return "\n".join([*lines, f"{TRIGGER}{value}"])


def first_error(problem: Problem, response: str) -> int | None:
    """Find the index of the first step that differs from the gold step; None if all steps are right."""
    lines = [line.strip() for line in response.strip().split("\n")]
    return first_difference(problem.solution.split("\n"), lines)


def load(
    *, source: str | None, split: str, seed: int, steps: int = 3, size: int = 8000, **unknown: object
) -> list[Problem]:
    """Draw `size` distinct problems and keep those of one split.

    The split of a problem is a hash of its text, 70 / 10 / 20 % train / validation / test. No seed or size
    moves a test problem into training.

    Args:
        source: Must be None: the task is generated.
        split: `train`, `validation` or `test`.
        seed: Seed of the draw; the test splits of two seeds overlap, but never with a train split.
        steps: Operations in a chain.
        size: Distinct problems over all splits together.
        unknown: Other options, which raise an error.

    Raises:
        UserError: An option is unknown or out of range, or `size` exceeds half of all possible problems.
    """
    if unknown:
        raise UserError(f"task modular_chain: unknown option {sorted(unknown)}; use steps and size.")
    if source is not None:
        raise UserError("task modular_chain is generated: remove `source`.")
    if split not in FRACTIONS:
        raise UserError(f"task modular_chain: no split {split!r}. {nearest(split, FRACTIONS)}")
    for name, value in (("steps", steps), ("size", size)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise UserError(f"task modular_chain: {name}={value!r}, expected a whole number from 1 on.")
    if size > 10 * len(OPERATIONS) ** steps // 2:
        raise UserError(f"task modular_chain: no {size} distinct problems with {steps} steps; lower `size`.")
    rng = random.Random(child_seed(seed, "modular_chain", steps))
    drawn: dict[str, Problem] = {}
    while len(drawn) < size:
        chain = Chain(rng.randrange(10), tuple(rng.choice(OPERATIONS) for _ in range(steps)))
        values = chain.values()
        problem = make_problem(
            dataset="modular_chain",
            question=chain.question,
            solution=chain.write(values),
            answer=str(values[-1]),
            kind="number",
        )
        drawn[problem.id] = problem
    return [problem for problem in drawn.values() if _split_of(problem.id) == split]


def _split_of(identity: str) -> str:
    share = child_seed(0, "modular_chain split", identity) / 2**31
    return "train" if share < 0.7 else "validation" if share < 0.8 else "test"


TASK = Task(
    name="modular_chain",
    about="Chains of one-digit arithmetic in which every step can be checked; generated.",
    kinds=("number",),
    load=load,
    licence="Apache-2.0",
    first_error=first_error,
)
