"""The protocol over a data set, and every metric on its records.

May import actors, grading, configuration and what is below them; it trains nothing."""

from typing import Any

from critique_rl.moved import find

_HOMES = (
    "evaluation.protocol",
    "evaluation.episodes",
    "config.evaluation",
    "grading.replies",
)


def __getattr__(name: str) -> Any:
    return find(name, __name__, _HOMES)
