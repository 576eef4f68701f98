"""AQuA-RAT: algebra word problems with five options and a rationale.

Source: https://huggingface.co/datasets/deepmind/aqua_rat (config raw), licence Apache-2.0; 97,467 train,
254 validation, 254 test. `train.json`, `dev.json` and `test.json` of google-deepmind/AQuA hold JSON lines:

    {"question": "A pen costs 3 coins. What do 5 pens cost?",
     "options": ["A)8", "B)12", "C)15", "D)18", "E)20"], "rationale": "5 * 3 = 15. Answer C", "correct": "C"}
"""

from __future__ import annotations

from critique_rl.tasks.published import make_problem, published_task
from critique_rl.tasks.rows import HubSplit, Row
from critique_rl.types import Problem

HUB = {split: HubSplit("deepmind/aqua_rat", ("raw",), split) for split in ("train", "validation", "test")}
LETTERS = "ABCDEFGHIJ"


def parse(row: Row) -> Problem:
    """Turn a row into a problem; the question ends with `Answer Choices: (A) ... (B) ...`."""
    row.layout(("question", "options", "rationale", "correct"))
    options = row.fields["options"]
    if not isinstance(options, list) or not 2 <= len(options) <= len(LETTERS):
        raise row.error("options", f"a list of 2 to {len(LETTERS)} texts")
    choices = {}
    for letter, option in zip(LETTERS, options, strict=False):
        prefix, parenthesis, choice = option.partition(")") if isinstance(option, str) else ("", "", "")
        if not parenthesis or prefix.strip(" (") != letter:
            raise row.error("options", f"texts that begin with a letter, here '{letter})...'")
        choices[letter] = choice.strip()
    correct = row.gold("correct")
    if correct not in choices:
        raise row.error("correct", f"one of the options' letters {', '.join(choices)}")
    listed = " ".join(f"({letter}) {choice}" for letter, choice in choices.items())
    return make_problem(
        dataset="aqua",
        question=f"{row.text('question')}\nAnswer Choices: {listed}",
        solution=row.text("rationale", may_be_empty=True),
        answer=correct,
        kind="choice",
    )


TASK = published_task(
    "aqua", parse, HUB, kind="choice", licence="Apache-2.0", about="Algebra word problems with five options."
)
