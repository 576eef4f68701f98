"""News to be summarised: replies with a score instead of a right answer.

Source: https://huggingface.co/datasets/abisee/cnn_dailymail (config 3.0.0), licence Apache-2.0; 287,113 train,
13,368 validation, 11,490 test, of which the paper takes 5,000 train and 1,000 test (`limit`):

    {"article": "The bridge closed on Monday. ...", "highlights": "Bridge closed .\\nIt ...", "id": "0a1b"}
"""

from __future__ import annotations

from functools import partial

from critique_rl.tasks.base import Task
from critique_rl.tasks.published import load_published, make_problem
from critique_rl.tasks.rows import HubSplit, Row
from critique_rl.types import Problem

HUB = {
    split: HubSplit("abisee/cnn_dailymail", ("3.0.0",), split) for split in ("train", "validation", "test")
}


def parse(row: Row) -> Problem:
    """Turn a row of CNN/DailyMail into a problem; the article is the question."""
    row.layout(("article", "highlights"))
    highlights = row.text("highlights")
    return make_problem(
        dataset="cnn_dailymail",
        question=row.text("article"),
        solution=highlights,
        answer=highlights,
        kind="score",
    )


TASK = Task(
    name="cnn_dailymail",
    about="News articles to be summarised, with the editors' highlights; replies are scored.",
    kinds=("score",),
    load=partial(load_published, parse, HUB),
    hub="abisee/cnn_dailymail",
    licence="Apache-2.0",
)
