"""Check of gold answers: each one is graded as a reply, since no model can match a gold answer that fails."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from critique_rl.types import Problem, UserError


class GoldFailure(NamedTuple):
    """A problem with a gold answer that is not graded correct."""

    id: str
    gold: str
    reason: str


@dataclass(frozen=True)
class GoldReport:
    """Result of grading the gold answers as replies.

    Attributes:
        correct: Number of gold answers graded correct; all should be.
        wrong: Number graded wrong.
        ungradable: Number that cannot be graded.
        failures: Wrong and ungradable problems, with the grader's reason.
    """

    correct: int
    wrong: int
    ungradable: int
    failures: tuple[GoldFailure, ...]

    def summary(self, most: int = 10) -> str:
        """Write the counts and at most `most` failures, one per line."""
        total = self.correct + self.wrong + self.ungradable
        counts = f"{self.correct} correct, {self.wrong} wrong, {self.ungradable} ungradable"
        lines = [f"{total} gold answers: {counts}"]
        lines += [f"  {failure.id}  {failure.gold!r}: {failure.reason}" for failure in self.failures[:most]]
        if len(self.failures) > most:
            lines.append(f"  and {len(self.failures) - most} more")
        return "\n".join(lines)


def gold_report(problems: Sequence[Problem]) -> GoldReport:
    """Grade each gold answer as a reply `The answer is ...`, the form that the prompts require.

    Raises:
        UserError: Some problems are of kind `score`; they have no gold answer to grade.
    """
    from critique_rl.grading import explain, grade_batch

    if any(p.kind == "score" for p in problems):
        raise UserError("replies to these problems are scored: there is no gold answer to grade.")
    items = [{"gold": p.answer, "reply": f"The answer is {p.answer}.", "kind": p.kind} for p in problems]
    grades = grade_batch(items)
    failures = [
        GoldFailure(problem.id, problem.answer, explain(**item).reason)
        for problem, item, grade in zip(problems, items, grades, strict=True)
        if grade is not True
    ]
    return GoldReport(grades.count(True), grades.count(False), grades.count(None), tuple(failures))
