"""The one table of metrics, read from `metrics.yaml`: unit, meaning, function, heading and healthy range of each.

Columns, curves, health checks, the viewer and docs/metrics.md follow from it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from importlib.resources import files
from typing import Any

from critique_rl.config.reading import build, parse_yaml


@dataclass(frozen=True)
class Rule:
    """When a metric is healthy; one of an evaluation has a level alone.

    Attributes:
        healthy: The rule in words.
        reason: What a violation means.
        low: Smallest healthy mean over the last tenth of the RL steps.
        high: Largest healthy mean over the last tenth.
        trend: 1 if the metric must not fall from the first to the last tenth, -1 if it must not rise.
        without_refinement: Whether the rule only holds for stages without a refinement reward.
        of_limit: Largest healthy share of the token limit, in place of `high`.
        pair: Whether two metrics share the rule: one below `low` beside one above `high` is unhealthy.
    """

    healthy: str
    reason: str
    low: float = -math.inf
    high: float = math.inf
    trend: int = 0
    without_refinement: bool = False
    of_limit: float | None = None
    pair: bool = False


@dataclass(frozen=True)
class Metric:
    """One metric.

    Attributes:
        name: Name in logs or result files; `K` or `R` at its end stands for a number.
        unit: `share` (a fraction of 1), `score` (of the scorer), `rating` (1 to 10), `tokens` and so on.
        meaning: What is measured.
        function: Where it is computed, below `critique_rl` or in trl.
        heading: Heading of its column or curve; a logged metric without one is not drawn.
        rule: When it is healthy.
        healthy: Healthy behaviour that no rule checks.
        tables: Tables with such a column by default: `graded`, `scored`, `pairs`, `samples`, `steps`.
        stored: Whether a result file with curves holds it.
    """

    name: str
    unit: str
    meaning: str
    function: str
    heading: str = ""
    rule: Rule | None = None
    healthy: str = ""
    tables: list[str] = field(default_factory=list)
    stored: bool = False


def _read() -> dict[str, dict[str, Metric]]:
    text = (files(__package__) / "metrics.yaml").read_text("utf-8")
    return {
        group: {
            name: build(Metric, {"name": name, **entry}, f"metrics.yaml: {name}")
            for name, entry in part.items()
        }
        for group, part in parse_yaml(text).items()
    }


GROUPS = _read()
"""Metrics by name, in groups: `training` and `trl` are logged, the others are of evaluations."""
TRAINING = GROUPS["training"] | GROUPS["trl"]
"""Metrics that are logged at every RL step."""
EVALUATION = {name: metric for group in list(GROUPS)[2:] for name, metric in GROUPS[group].items()}
"""Metrics of evaluations."""
LOGGED = tuple(name for name, metric in TRAINING.items() if metric.stored)
"""Metrics of a training that a result file with curves holds."""
CURVES = {name: metric.heading for name, metric in TRAINING.items() if metric.heading}
"""Metrics of a training that are drawn over its RL steps, with their headings."""
LEVELS = {
    name: metric.rule
    for name, metric in TRAINING.items()
    if metric.rule is not None and not metric.rule.pair and not metric.rule.trend
}
"""Rules about the level of a metric, which hold at every RL step."""


def logged_curves(log: Iterable[Mapping[str, Any]]) -> dict[str, list[float | None]]:
    """Each of `LOGGED` as a list over the entries of a log, rounded to three digits; None where it is missing."""
    entries = list(log)
    columns = {name: [entry.get(name) for entry in entries] for name in LOGGED}
    return {name: [v if v is None else round(v, 3) for v in column] for name, column in columns.items()}


def level(rule: Rule, value: float, limit: int | None) -> str:
    """Why a value is outside of a rule's range; empty if it is inside, or `limit` is needed and None."""
    if not math.isfinite(value):
        return "not a finite number"
    if rule.of_limit is not None and limit is None:
        return ""
    high = rule.high if rule.of_limit is None else rule.of_limit * (limit or 0)
    return "" if rule.low <= value <= high else rule.reason
