"""Recorded replies as episodes; what the command prints of them is in cli/test_evaluate.py."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from critique_rl.evaluation.recorded import read_recorded
from critique_rl.prompts import VERDICT_LABEL
from critique_rl.types import UserError, problem_id


def test_each_row_keeps_its_own_grades_and_rows_of_one_question_are_its_samples(tmp_path: Path) -> None:
    wrong = f"{VERDICT_LABEL} Wrong"
    rows = [
        {"question": "1 + 1?", "answer": 2, "response": "3", "critique": wrong, "refinement": "2"},
        {"question": "2 + 2?", "answer": "4", "response": "4", "critique": "Hm.", "refinement": "4"},
        {"question": "1 + 1?", "answer": 2, "response": "2", "critique": "", "refinement": ""},
        {"question": "1 + 1?", "answer": 2, "response": "2", "critique": wrong, "refinement": "2"},
    ]
    path = tmp_path / "replies.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    episodes, agreement = read_recorded(path, kind="number")
    found = [(e.sample, e.response_correct, e.verdict, e.refinement_correct) for e in episodes]
    assert found == [
        (0, False, "wrong", True),
        (0, True, "unparsed", True),
        (1, True, "unparsed", False),
        (2, True, "wrong", True),
    ]
    assert [e.id for e in episodes] == [problem_id(str(row["question"])) for row in rows]
    assert {(e.dataset, e.kind) for e in episodes} == {("replies", "number")}
    assert agreement.labelled == 0
    # Beside refinements a response alone would count in none of the shares.
    del rows[1]["critique"], rows[1]["refinement"]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    with pytest.raises(UserError, match=r"replies.jsonl, line 2: no critique, though other rows have one"):
        read_recorded(path, kind="number")


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        ("answer", float("nan"), "found nan, expected a gold answer, not a missing value"),
        ("answer", "NULL", "found 'NULL', expected a gold answer, not a missing value"),
        ("answer", None, "found None, expected a gold answer, not a missing value"),
        ("kind", "maths", "found 'maths', expected one of math, number"),
    ],
)
def test_a_row_that_cannot_be_graded_is_named_before_any_is(
    tmp_path: Path, field: str, value: object, expected: str
) -> None:
    row = {"question": "1 + 1?", "answer": 2, "kind": "number", "response": "2"}
    path = tmp_path / "replies.jsonl"
    path.write_text("".join(json.dumps(r) + "\n" for r in (row, {**row, field: value})), encoding="utf-8")
    with pytest.raises(UserError) as error:
        read_recorded(path, kind=None)
    assert f"{path}, line 2, field '{field}': {expected}" in str(error.value)
