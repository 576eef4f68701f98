"""MATH: competition problems with a boxed answer at the end of the solution, and the subset MATH-500.

Source: https://huggingface.co/datasets/EleutherAI/hendrycks_math (a mirror with one config per subject),
licence MIT; 7,500 train, 5,000 test. Split `math500`: https://huggingface.co/datasets/HuggingFaceH4/MATH-500,
500 problems of the test set. Without the field `answer`, the last box of the solution is the answer:

    {"problem": "Solve $2x = 6$.", "solution": "Halve both sides: $x = \\\\boxed{3}$.", "answer": "3",
     "level": "Level 1", "type": "Algebra"}
"""

from __future__ import annotations

import re

from critique_rl.tasks.published import make_problem, published_task
from critique_rl.tasks.rows import HubSplit, Row, is_missing
from critique_rl.types import Problem

SUBJECTS = (
    "algebra",
    "counting_and_probability",
    "geometry",
    "intermediate_algebra",
    "number_theory",
    "prealgebra",
    "precalculus",
)
HUB = {split: HubSplit("EleutherAI/hendrycks_math", SUBJECTS, split) for split in ("train", "test")} | {
    "math500": HubSplit("HuggingFaceH4/MATH-500", ("default",), "test")
}


def last_boxed(text: str) -> str | None:
    r"""Read the last `\boxed{...}` or `\fbox{...}`; `None` if there is none or its braces do not match.

    Some solutions write `\boxed 3$` without braces; then the content ends before the dollar.

    >>> last_boxed(r"so $\boxed{\frac{1}{2}}$.")
    '\\frac{1}{2}'
    """
    boxes = list(re.finditer(r"\\(?:boxed|fbox)\s*(\{|(?<=\s)[^\s{][^$]*)", text))
    if not boxes:
        return None
    if boxes[-1][1] != "{":
        return boxes[-1][1].strip()
    depth = 1
    start = boxes[-1].end()
    for end, (previous, char) in enumerate(zip(text[start - 1 :], text[start:], strict=False), start=start):
        if previous != "\\":  # \{ and \} are braces of sets and do not count
            depth += {"{": 1, "}": -1}.get(char, 0)
        if depth == 0:
            return text[start:end].strip()
    return None


def parse(row: Row) -> Problem:
    """Turn a row into a problem; the answer is the field `answer` or the last box of the solution."""
    row.layout(("problem", "solution"))
    solution = row.text("solution")
    answer = last_boxed(solution)
    if row.fields.get("answer") is not None:
        row.known("answer")
        answer = row.text("answer")
    if not answer or is_missing(answer):
        raise row.error("solution", "a solution with its answer in \\boxed{...}")
    return make_problem(
        dataset="math", question=row.text("problem"), solution=solution, answer=answer, kind="math"
    )


TASK = published_task(
    "math",
    parse,
    HUB,
    kind="math",
    licence="MIT",
    about="Competition mathematics with LaTeX answers; split math500 is MATH-500.",
)
