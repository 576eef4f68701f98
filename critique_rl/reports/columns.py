"""Columns of result tables: which metrics, under which headings, in percent or in their own unit."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from critique_rl.training.metrics import EVALUATION


def _default(table: str) -> dict[str, str]:
    return {name: metric.heading for name, metric in EVALUATION.items() if table in metric.tables}


COLUMNS = _default("graded")
"""Headings by metric, where replies are right or wrong."""
SCORED_COLUMNS = _default("scored")
"""Headings where replies are scored: in units of the score, and of the ratings from 1 to 10."""
PAIRWISE_COLUMNS = _default("pairs")
"""Headings where models are critics of pairs."""
LOCALISATION_COLUMNS = _default("steps")
"""Headings where the steps of critiques are measured."""
CHOSEN = {
    name: name.replace("_", " ").capitalize()
    for name in (n.removesuffix("_at_K") for n in _default("samples"))
}
"""Headings of what is chosen among N samples of a model, by the start of the metric's name."""


def columns_of(rows: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Metrics that a table of these rows shows, with their headings; `cut` where texts were cut at their limit."""
    cut = any((row["metrics"].get("cut") or {"mean": 0})["mean"] > 0 for row in rows)
    return _usual(rows) | ({"cut": EVALUATION["cut"].heading} if cut else {})


def _usual(rows: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    if is_scored(rows):
        return SCORED_COLUMNS
    names = {name for row in rows for name in row["metrics"]}
    if "critic_acc_mean" not in names:
        return COLUMNS
    ns = sorted(int(name.rpartition("_")[2]) for name in names if name.startswith("self_critique_at_"))
    columns = [n for n in ns if n in (4, 16, 64, ns[-1])]  # one candidate leaves nothing to choose
    chosen = {f"{name}_at_{n}": f"{heading}@{n}" for n in columns for name, heading in CHOSEN.items()}
    return PAIRWISE_COLUMNS | chosen


def is_scored(rows: Sequence[Mapping[str, Any]]) -> bool:
    """Whether replies were scored instead of graded."""
    return any("score" in row["metrics"] for row in rows)


def label(metric: str) -> str:
    """Heading of a metric.

    >>> label("acc_refine"), label("pass_at_10"), label("mse_dis"), label("acc_dis_on_wrong")
    ('Acc@Refine', 'Pass@10', 'MSE@Dis', 'acc dis on wrong')
    """
    chosen = re.fullmatch(r"(\w+)_at(?:_(\d+|[KR]))?", metric)
    if chosen:
        return f"{chosen[1].replace('_', ' ').capitalize()}@{chosen[2] or 'K'}"
    known = EVALUATION.get(metric)
    return (known and known.heading) or metric.replace("_", " ")


def is_share(metric: str, unit: str) -> bool:
    """Whether a metric is a fraction of 1, shown in percent.

    The table's unit is `percent`, or `score`, where `delta` is a difference of scores.
    """
    known = EVALUATION.get(metric)
    if known:
        return known.unit == "share" and not (unit == "score" and metric == "delta")
    return not metric.startswith(("score", "mse_", "mae_", "tokens", "steps", "n_"))
