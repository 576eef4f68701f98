"""Replies with their problems, in the form that the grader and the scorers read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from critique_rl.grading import grade_batch
from critique_rl.types import Problem

if TYPE_CHECKING:
    from critique_rl.evaluation.episodes import Episode


def grade_replies(problems: Sequence[Problem], replies: Sequence[str]) -> list[bool | None]:
    """Grade one reply per problem."""
    return grade_batch(items(problems, replies))


def items(asked: Sequence[Problem | Episode], replies: Sequence[str]) -> list[dict[str, str]]:
    """Pair each reply with the question, gold answer and kind of its problem."""
    return [
        {"question": p.question, "gold": p.answer, "reply": y, "kind": p.kind}
        for p, y in zip(asked, replies, strict=True)
    ]
