"""SVAMP: one-step word problems that vary the wording of simpler problems.

Source: https://huggingface.co/datasets/ChilleD/SVAMP, licence MIT; 700 train, 300 test. `SVAMP.json` of
arkilpatel/SVAMP is an array of all 1,000 problems; as a local file it is test data unless `splits` is set:

    {"ID": "x-1", "Body": "Mia had 9 shells and lost 4.", "Question": "How many shells are left?",
     "Equation": "( 9.0 - 4.0 )", "Answer": 5.0, "Type": "Subtraction"}

On the hub a row also has `question_concat`, which joins body and question, and `Answer` is text.
"""

from __future__ import annotations

import math

from critique_rl.tasks.published import make_problem, published_task
from critique_rl.tasks.rows import HubSplit, Row
from critique_rl.types import Problem

HUB = {split: HubSplit("ChilleD/SVAMP", ("default",), split) for split in ("train", "test")}
HUB_LAYOUT = ("question_concat", "Equation", "Answer")
FILE_LAYOUT = ("Body", "Question", "Equation", "Answer")


def parse(row: Row) -> Problem:
    """Turn a row into a problem; the solution is the equation."""
    if row.layout(HUB_LAYOUT, FILE_LAYOUT) == HUB_LAYOUT:
        question = row.text("question_concat")
    else:  # joined as on the hub, so that both layouts give the same problem id
        question = f"{row.text('Body', may_be_empty=True)} {row.text('Question')}".strip()
    answer = _number(row)
    solution = f"{row.text('Equation')} = {answer}"
    return make_problem(dataset="svamp", question=question, solution=solution, answer=answer, kind="number")


def _number(row: Row) -> str:
    value = row.known("Answer")
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise row.error("Answer", "a number")
    try:
        number = float(value.replace(",", "") if isinstance(value, str) else value)
    except ValueError as error:
        raise row.error("Answer", "a number") from error
    if not math.isfinite(number):
        raise row.error("Answer", "a finite number")
    return str(int(number)) if number.is_integer() else str(number)


TASK = published_task(
    "svamp", parse, HUB, kind="number", licence="MIT", about="One-step word problems in varied wording."
)
