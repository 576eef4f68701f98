"""Replies with their problems, in the form that the grader and the scorers read."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from critique_rl.grading import grade_batch
from critique_rl.types import Problem

if TYPE_CHECKING:
    from critique_rl.evaluation.episodes import Episode

Grade = TypeVar("Grade")


def grade_replies(problems: Sequence[Problem], replies: Sequence[str | None]) -> list[bool | None]:
    """Grade one reply per problem; None where no reply came."""
    return where_replied(grade_batch, items(problems, replies))


def where_replied(
    grader: Callable[[Sequence[Mapping[str, Any]]], Sequence[Grade | None]],
    asked: Sequence[Mapping[str, Any]],
) -> list[Grade | None]:
    """Grades, or scores, of items whose `reply` may be None: those without a reply are unknown, never wrong.

    >>> where_replied(lambda known: [len(item["reply"]) for item in known], [{"reply": "ab"}, {"reply": None}])
    [2, None]
    """
    replied = [item for item in asked if item["reply"] is not None]
    grades = iter(grader(replied) if replied else ())
    return [None if item["reply"] is None else next(grades) for item in asked]


def items(asked: Sequence[Problem | Episode], replies: Sequence[str | None]) -> list[dict[str, Any]]:
    """Pair each reply with the question, gold answer and kind of its problem."""
    return [
        {"question": p.question, "gold": p.answer, "reply": y, "kind": p.kind}
        for p, y in zip(asked, replies, strict=True)
    ]
