"""GSM8K: grade-school word problems with worked solutions and whole-number answers.

Source: https://huggingface.co/datasets/openai/gsm8k (config main), licence MIT; 7,473 train, 1,319 test.
The file `train.jsonl` of openai/grade-school-math has the same layout:

    {"question": "A tray holds 6 cups. How many cups do 4 trays hold?",
     "answer": "4 trays hold 4*6=<<4*6=24>>24 cups.\\n#### 24"}
"""

from __future__ import annotations

import re

from critique_rl.tasks.published import make_problem, published_task
from critique_rl.tasks.rows import HubSplit, Row
from critique_rl.types import Problem

HUB = {split: HubSplit("openai/gsm8k", ("main",), split) for split in ("train", "test")}


def parse(row: Row) -> Problem:
    """Turn a row into a problem, without the calculator annotations `<<...>>` in the solution."""
    row.layout(("question", "answer"))
    solution, marker, answer = row.gold("answer").rpartition("####")
    answer = answer.replace(",", "").strip()
    if not marker or not re.fullmatch(r"-?\d+(\.\d+)?", answer):
        raise row.error("answer", "a solution that ends in '#### <number>'")
    return make_problem(
        dataset="gsm8k",
        question=row.text("question"),
        solution=re.sub(r"<<.*?>>", "", solution).strip(),
        answer=answer,
        kind="number",
    )


TASK = published_task(
    "gsm8k", parse, HUB, kind="number", licence="MIT", about="Grade-school word problems with number answers."
)
