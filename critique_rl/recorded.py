"""Replies and critiques that somebody else has recorded, graded and read as an evaluation would.

A recorded file (JSON lines, JSON or parquet) has for each item `question`, `answer` and `response`, and may have
`critique`, `refinement`, `kind`, and `response_label` and `refinement_label`: true or false, what somebody else
says of response and refinement, against which grading is checked.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from critique_rl.evaluation import Episode
from critique_rl.grading import grade_batch
from critique_rl.prompts import parse_verdict
from critique_rl.tasks.rows import Row, read_rows
from critique_rl.types import AnswerKind, UserError, problem_id

LABELS = {"response_label": "response_correct", "refinement_label": "refinement_correct"}


@dataclass(frozen=True)
class Agreement:
    """How our grades compare with recorded labels.

    Attributes:
        labelled: Replies with a label.
        equal: Graded as labelled.
        ungraded: Could not be graded.
        differing: Place of each reply that is graded otherwise, with both opinions.
    """

    labelled: int
    equal: int
    ungraded: int
    differing: tuple[str, ...]

    def summary(self, most: int = 10) -> str:
        """Counts, and at most `most` differences, one a line."""
        lines = [
            f"{self.equal} of {self.labelled} labelled replies are graded as labelled, {self.ungraded} "
            "could not be graded"
        ]
        lines += [f"  {place}" for place in self.differing[:most]]
        if len(self.differing) > most:
            lines.append(f"  and {len(self.differing) - most} more")
        return "\n".join(lines)


def read_recorded(path: Path, *, kind: str | None = None) -> tuple[list[Episode], Agreement]:
    """Grade recorded replies and read recorded critiques, as an evaluation would.

    Args:
        path: The file.
        kind: How answers are graded where a row has no `kind`.

    Raises:
        UserError: The file, a row or a field is missing or not as it should be; the message names it.
    """
    rows = read_rows(path)
    kinds = [_kind(row, kind) for row in rows]
    after = [row.fields.get("refinement") is not None for row in rows]
    for row, has in zip(rows, after, strict=True):
        row.layout(("question", "answer", "response"))
        if has != (row.fields.get("critique") is not None):
            raise UserError(f"{row.place}: a row has both `critique` and `refinement`, or neither.")
    before = _grades(rows, kinds, "response")
    refined = iter(
        _grades([r for r, h in zip(rows, after, strict=True) if h], _those(kinds, after), "refinement")
    )
    sample: dict[str, int] = {}
    episodes = []
    for row, o, of, has in zip(rows, before, kinds, after, strict=True):
        identity = problem_id(row.text("question"))
        critique = row.text("critique", may_be_empty=True) if has else None
        episodes.append(
            Episode(
                id=identity,
                dataset=path.stem,
                question=row.text("question"),
                answer=_answer(row),
                kind=of,
                response=row.text("response", may_be_empty=True),
                response_correct=o,
                critique=critique,
                verdict=None if critique is None else parse_verdict(critique).value,
                refinement=row.text("refinement", may_be_empty=True) if has else None,
                refinement_correct=next(refined) if has else None,
                tokens=0,
                sample=sample.setdefault(identity, 0),
            )
        )
        sample[identity] += 1
    return episodes, _agreement(rows, episodes)


def _kind(row: Row, default: str | None) -> str:
    known = get_args(AnswerKind)
    kind = row.fields.get("kind", default)
    if kind is None:
        raise UserError(
            f"{row.place}: no field 'kind'; give all rows one with --kind, of {', '.join(known)}."
        )
    if kind not in known:
        raise (
            row.error("kind", f"one of {', '.join(known)}")
            if "kind" in row.fields
            else UserError(f"--kind {kind} is none of {', '.join(known)}.")
        )
    return str(kind)


def _answer(row: Row) -> str:
    answer = row.fields["answer"]
    return (
        str(answer)
        if isinstance(answer, int | float) and not isinstance(answer, bool)
        else row.text("answer")
    )


def _those(kinds: Sequence[str], which: Sequence[bool]) -> list[str]:
    return [kind for kind, of in zip(kinds, which, strict=True) if of]


def _grades(rows: Sequence[Row], kinds: Sequence[str], field: str) -> list[bool | None]:
    return grade_batch(
        [
            {"gold": _answer(row), "reply": row.text(field, may_be_empty=True), "kind": kind}
            for row, kind in zip(rows, kinds, strict=True)
        ]
    )


def _agreement(rows: Sequence[Row], episodes: Sequence[Episode]) -> Agreement:
    labelled = equal = ungraded = 0
    differing = []
    for row, episode in zip(rows, episodes, strict=True):
        for field, name in LABELS.items():
            label = row.fields.get(field)
            if label is None:
                continue
            if not isinstance(label, bool):
                raise row.error(field, "true or false")
            grade = getattr(episode, name)
            labelled += 1
            equal += grade == label
            ungraded += grade is None
            if grade != label:
                differing.append(f"{row.place}: {field} {label}, graded {grade}")
    return Agreement(labelled, equal, ungraded, tuple(differing))
