"""The embedded default: chains of arithmetic on one digit, each step of which can be checked.

A question is `3+4*7-9, left to right mod 10`; its solution

    3+4=7
    7*7=9
    9-9=0
    The answer is 0

Factors are 3, 7 and 9 alone, which are invertible modulo 10: every operation is a bijection of the running
value, so one wrong step always makes the final answer wrong and a right answer is no accident. There are
10 * 21^3 = 92,610 problems of three steps; nothing is downloaded.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from critique_rl.tasks.base import Task
from critique_rl.types import Problem, UserError, child_seed, nearest, problem_id

OPERATIONS: tuple[tuple[str, int], ...] = (
    *(("+", b) for b in range(1, 10)),
    *(("-", b) for b in range(1, 10)),
    *(("*", b) for b in (3, 7, 9)),
)
SUFFIX = ", left to right mod 10"
TRIGGER = "The answer is "


def apply(value: int, operation: str, operand: int) -> int:
    """One step modulo 10."""
    if operation == "+":
        return (value + operand) % 10
    return (value - operand if operation == "-" else value * operand) % 10


@dataclass(frozen=True)
class Chain:
    """A parsed question.

    Attributes:
        start: The first value.
        operations: What is done to it in turn, each an operator and its operand.
    """

    start: int
    operations: tuple[tuple[str, int], ...]

    @classmethod
    def parse(cls, question: str) -> Chain:
        """Read a question as `question` writes it."""
        body = question.removesuffix(SUFFIX)
        return cls(int(body[0]), tuple((body[i], int(body[i + 1])) for i in range(1, len(body), 2)))

    @property
    def question(self) -> str:
        """The question's text."""
        return str(self.start) + "".join(f"{op}{b}" for op, b in self.operations) + SUFFIX

    def values(self) -> list[int]:
        """Running value after each step."""
        values, value = [], self.start
        for operation, operand in self.operations:
            value = apply(value, operation, operand)
            values.append(value)
        return values

    def write(self, values: list[int]) -> str:
        """A response that claims `values` after the steps, right or wrong."""
        lines, value = [], self.start
        for (operation, operand), claimed in zip(self.operations, values, strict=True):
            lines.append(f"{value}{operation}{operand}={claimed}")
            value = claimed
        return "\n".join([*lines, f"{TRIGGER}{value}"])


def first_error(problem: Problem, response: str) -> int | None:
    """Index of the first step of a response that is not the gold step; None if all steps are right."""
    gold = problem.solution.split("\n")
    lines = response.strip().split("\n")
    for i, line in enumerate(gold):
        if i >= len(lines) or lines[i].strip() != line:
            return i
    return None


def load(
    *, source: str | None, split: str, seed: int, steps: int = 3, size: int = 8000, **unknown: object
) -> list[Problem]:
    """Draw `size` distinct problems and keep those of one split.

    The split of a problem is a hash of its text, 70 / 10 / 20 % train / validation / test, so no seed and
    no size can bring a test problem into training.

    Args:
        source: Must be None: the task is generated.
        split: `train`, `validation` or `test`.
        seed: Seed of the draw; the test split of one seed overlaps with that of another, never with train.
        steps: Operations in a chain.
        size: Distinct problems over all splits together.
        unknown: Refused.

    Raises:
        UserError: An option is unknown or out of range, or `size` exceeds half of the problems there are.
    """
    if unknown:
        raise UserError(f"task modular_chain: unknown option {sorted(unknown)}; there are steps and size.")
    if source is not None:
        raise UserError("task modular_chain is generated: remove `source`.")
    if split not in ("train", "validation", "test"):
        known = ("train", "validation", "test")
        raise UserError(f"task modular_chain: no split {split!r}. {nearest(split, known)}")
    for name, value in (("steps", steps), ("size", size)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise UserError(f"task modular_chain: {name}={value!r}, expected a whole number from 1 on.")
    if size > 10 * len(OPERATIONS) ** steps // 2:
        raise UserError(f"task modular_chain: no {size} distinct problems with {steps} steps; lower `size`.")
    rng = random.Random(child_seed(seed, "modular_chain", steps))
    drawn: dict[str, Chain] = {}
    while len(drawn) < size:
        chain = Chain(rng.randrange(10), tuple(rng.choice(OPERATIONS) for _ in range(steps)))
        drawn[problem_id(chain.question)] = chain
    return [_problem(i, chain) for i, chain in drawn.items() if _split_of(i) == split]


def _problem(identity: str, chain: Chain) -> Problem:
    values = chain.values()
    return Problem(
        id=identity,
        dataset="modular_chain",
        question=chain.question,
        solution=chain.write(values),
        answer=str(values[-1]),
        kind="number",
    )


def _split_of(identity: str) -> str:
    share = child_seed(0, "modular_chain split", identity) / 2**31
    return "train" if share < 0.7 else "validation" if share < 0.8 else "test"


TASK = Task(
    name="modular_chain",
    about="Chains of arithmetic on one digit, every step of which can be checked; generated.",
    kinds=("number",),
    load=load,
    hub=None,
    licence="Apache-2.0",
    first_error=first_error,
)
