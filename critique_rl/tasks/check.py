"""Grade every gold answer against itself: a gold that does not pass can never be earned by a model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from critique_rl.types import Problem, UserError


class GoldFailure(NamedTuple):
    """A problem whose gold answer is not graded correct."""

    id: str
    gold: str
    reason: str


@dataclass(frozen=True)
class GoldReport:
    """How the gold answers fare when given as replies.

    Attributes:
        correct: Graded correct, as all should be.
        wrong: Graded wrong.
        ungradable: Could not be graded.
        failures: Those that are wrong or ungradable, with the grader's reason.
    """

    correct: int
    wrong: int
    ungradable: int
    failures: tuple[GoldFailure, ...]

    def summary(self, most: int = 10) -> str:
        """Write counts and at most `most` failures, one a line."""
        total = self.correct + self.wrong + self.ungradable
        counts = f"{self.correct} correct, {self.wrong} wrong, {self.ungradable} ungradable"
        lines = [f"{total} gold answers: {counts}"]
        lines += [f"  {failure.id}  {failure.gold!r}: {failure.reason}" for failure in self.failures[:most]]
        if len(self.failures) > most:
            lines.append(f"  and {len(self.failures) - most} more")
        return "\n".join(lines)


def gold_report(problems: Sequence[Problem]) -> GoldReport:
    """Grade each problem's gold answer, stated in the form that the actor is asked for.

    Raises:
        UserError: Replies to the problems are scored.
    """
    from critique_rl.grading import explain, grade_batch

    if any(p.kind == "score" for p in problems):
        raise UserError("replies to these problems are scored: there is no gold answer to be graded.")
    items = [{"gold": p.answer, "reply": f"The answer is {p.answer}.", "kind": p.kind} for p in problems]
    grades = grade_batch(items)
    failures = [
        GoldFailure(problem.id, problem.answer, explain(**item).reason)
        for problem, item, grade in zip(problems, items, grades, strict=True)
        if grade is not True
    ]
    return GoldReport(
        correct=sum(grade is True for grade in grades),
        wrong=sum(grade is False for grade in grades),
        ungradable=sum(grade is None for grade in grades),
        failures=tuple(failures),
    )
