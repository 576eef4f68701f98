"""The protocol over a data set, and all metrics of its records.

`protocol.py` writes records, `episodes.py` reads them, `recorded.py` makes them from given replies. `metrics.py`,
`scaling.py` and `localisation.py` compute metrics, `intervals.py` and `summary.py` their intervals. In `audit.py`
another model judges critiques. May import configuration, actors, grading and lower layers; it trains nothing.
"""

from typing import Any

from critique_rl.moved import find

_HOMES = ("evaluation.protocol", "evaluation.episodes", "config.evaluation", "grading.replies")


def __getattr__(name: str) -> Any:
    return find(name, __name__, _HOMES)
