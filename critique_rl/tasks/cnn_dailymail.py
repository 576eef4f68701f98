"""CNN/DailyMail: news articles to summarise; replies get a score, since no single answer is right.

Source: https://huggingface.co/datasets/abisee/cnn_dailymail (config 3.0.0), licence Apache-2.0; 287,113 train,
13,368 validation, 11,490 test. The paper takes 5,000 train and 1,000 test (option `limit`):

    {"article": "The bridge closed on Monday. ...", "highlights": "Bridge closed .\\nIt ...", "id": "0a1b"}
"""

from __future__ import annotations

from critique_rl.tasks.published import make_problem, published_task
from critique_rl.tasks.rows import HubSplit, Row
from critique_rl.types import Problem

HUB = {
    split: HubSplit("abisee/cnn_dailymail", ("3.0.0",), split) for split in ("train", "validation", "test")
}


def parse(row: Row) -> Problem:
    """Turn a row into a problem; the article is the question, the highlights are the answer."""
    row.layout(("article", "highlights"))
    highlights = row.text("highlights")
    return make_problem(
        dataset="cnn_dailymail",
        question=row.text("article"),
        solution=highlights,
        answer=highlights,
        kind="score",
    )


TASK = published_task(
    "cnn_dailymail",
    parse,
    HUB,
    kind="score",
    licence="Apache-2.0",
    about="News articles to summarise, with the editors' highlights; replies are scored.",
)
