"""Replies and critiques from elsewhere, graded and read as in an evaluation.

A recorded file (JSON lines, JSON or parquet) has in each row `question`, `answer` and `response`. It may also have
`critique`, `refinement`, `kind`, and the labels `response_label` and `refinement_label`: true or false, against
which our grades are checked.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import get_args

from critique_rl.evaluation.episodes import Episode
from critique_rl.grading import grade_batch
from critique_rl.prompts import parse_verdict
from critique_rl.tasks.rows import Row, read_rows
from critique_rl.types import GradedKind, UserError, problem_id

LABELS = {"response_label": "response_correct", "refinement_label": "refinement_correct"}


@dataclass(frozen=True)
class Agreement:
    """Comparison of our grades with recorded labels.

    Attributes:
        labelled: Number of replies with a label.
        equal: Number of them with a grade equal to the label.
        ungraded: Number of them that could not be graded.
        differing: Place, label and grade of each reply whose grade differs from its label.
    """

    labelled: int
    equal: int
    ungraded: int
    differing: tuple[str, ...]

    def summary(self, most: int = 10) -> str:
        """Counts, and at most `most` differences, one on each line."""
        lines = [
            f"{self.equal} of {self.labelled} labelled replies are graded as labelled, {self.ungraded} "
            "could not be graded"
        ]
        lines += [f"  {place}" for place in self.differing[:most]]
        if len(self.differing) > most:
            lines.append(f"  and {len(self.differing) - most} more")
        return "\n".join(lines)


def read_recorded(path: Path, *, kind: str | None = None) -> tuple[list[Episode], Agreement]:
    """Grade recorded replies and read recorded critiques, as in an evaluation.

    Args:
        kind: How answers are graded in rows without `kind`.

    Raises:
        UserError: The file, a row or a field is missing or wrong; the message names it.
    """
    rows = read_rows(path)
    samples: dict[str, Iterator[int]] = defaultdict(count)
    read = (_episode(row, path.stem, kind) for row in rows)
    ungraded = [replace(e, sample=next(samples[e.id])) for e in read]
    without = [row.place for row, e in zip(rows, ungraded, strict=True) if e.critique is None]
    if 0 < len(without) < len(ungraded):
        raise UserError(
            f"{without[0]}: no critique, though other rows have one; put rows without one into another file."
        )
    replies = [(e, reply) for e in ungraded for reply in (e.response, e.refinement) if reply is not None]
    grades = iter(grade_batch([{"gold": e.answer, "reply": reply, "kind": e.kind} for e, reply in replies]))
    episodes = [
        replace(
            e,
            response_correct=next(grades),
            refinement_correct=None if e.refinement is None else next(grades),
        )
        for e in ungraded
    ]
    return episodes, _agreement(rows, episodes)


def _episode(row: Row, dataset: str, default_kind: str | None) -> Episode:
    """The episode of a row, not yet graded."""
    kind = _kind(row, default_kind)
    row.layout(("question", "answer", "response"))
    refined = row.fields.get("refinement") is not None
    if refined != (row.fields.get("critique") is not None):
        raise UserError(f"{row.place}: a row has both `critique` and `refinement`, or neither.")
    question = row.text("question")
    critique = row.text("critique", may_be_empty=True) if refined else None
    return Episode(
        id=problem_id(question),
        dataset=dataset,
        question=question,
        answer=row.gold("answer"),
        kind=kind,
        response=row.text("response", may_be_empty=True),
        response_correct=None,
        critique=critique,
        verdict=None if critique is None else parse_verdict(critique).value,
        refinement=row.text("refinement", may_be_empty=True) if refined else None,
        refinement_correct=None,
        tokens=0,
    )


def _kind(row: Row, default: str | None) -> str:
    known = get_args(GradedKind)
    kind, names = row.fields.get("kind", default), ", ".join(known)
    if kind is None:
        raise UserError(
            f"{row.place}: no field 'kind'; give the kind of all rows with --kind, one of {names}."
        )
    if kind not in known and "kind" in row.fields:
        raise row.error("kind", f"one of {names}")
    if kind not in known:
        raise UserError(f"--kind {kind} is none of {names}.")
    return str(kind)


def _agreement(rows: Sequence[Row], episodes: Sequence[Episode]) -> Agreement:
    grades: list[bool | None] = []
    differing = []
    for row, episode in zip(rows, episodes, strict=True):
        for field, name in LABELS.items():
            label, grade = row.fields.get(field), getattr(episode, name)
            if label is None:
                continue
            if not isinstance(label, bool):
                raise row.error(field, "true or false")
            grades.append(grade)
            if grade != label:
                differing.append(f"{row.place}: {field} {label}, graded {grade}")
    return Agreement(len(grades), len(grades) - len(differing), grades.count(None), tuple(differing))
