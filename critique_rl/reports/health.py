"""Is a run healthy? The rules of `training.metrics`, applied to logs of trainings and rows of evaluations."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, variance
from typing import Any

from critique_rl.training.metrics import EVALUATION, TRAINING, Rule, level

LEAST = 4
"""Fewest RL steps for which trends are checked."""
RULES = {name: metric.rule for name, metric in TRAINING.items() if metric.rule and not metric.rule.pair}
"""Rules of single metrics."""
PAIR = {name: metric.rule for name, metric in TRAINING.items() if metric.rule and metric.rule.pair}
"""The two metrics that share a rule."""
Ends = tuple[list[float], list[float]]
"""Values of the first and of the last tenth of the RL steps."""


@dataclass(frozen=True)
class Finding:
    """One metric of one training, or of one row of the result table.

    Attributes:
        stage: Label of the stage; method and data set of a row.
        seed: Seed of the run.
        metric: Name that the trainer logs.
        first: Mean over the first tenth of the RL steps; for a row the same as `last`.
        last: Mean over the last tenth of the RL steps; the value of a row.
        healthy: The rule in words.
        outside: Why the metric is not healthy; empty if it is.
    """

    stage: str
    seed: int
    metric: str
    first: float
    last: float
    healthy: str
    outside: str


def check(
    log: Sequence[Mapping[str, Any]], *, stage: str, seed: int, refines: bool, limit: int | None = None
) -> list[Finding]:
    """Check the log of one training; returns a finding for each logged metric that has a rule.

    The log holds one mapping per RL step. `refines` says whether the reward has a term for the refinement. `limit`
    is the token limit of a critique; None skips rules about it.
    """
    findings = []

    def add(metric: str, rule: Rule, ends: Ends, outside: str) -> None:
        first, last = (round(fmean(values), 4) for values in ends)
        findings.append(Finding(stage, seed, metric, first, last, rule.healthy, outside))

    for metric, rule in RULES.items():
        ends = _ends(log, metric)
        skipped = (rule.without_refinement and refines) or (rule.of_limit is not None and limit is None)
        if ends is not None and not skipped:
            add(
                metric,
                rule,
                ends,
                _outside(rule, ends, _values(log, metric), limit, trends=len(log) >= LEAST),
            )
    both = {metric: ends for metric in PAIR if (ends := _ends(log, metric)) is not None}
    means = [fmean(last) for _, last in both.values()]
    for metric, ends in both.items():
        rule = PAIR[metric]
        collapsed = len(means) == 2 and min(means) < rule.low and max(means) > rule.high
        add(metric, rule, ends, rule.reason if collapsed else "")
    return findings


def check_rows(rows: Sequence[Mapping[str, Any]], seeds: Sequence[int]) -> list[Finding]:
    """Check rows of a result table; returns a finding for each seed of each metric that has a rule."""
    return [
        Finding(
            f"{row['method']}, {row['dataset']}",
            *(seed, name, round(value, 4), round(value, 4), rule.healthy, level(rule, value, None)),
        )
        for row in rows
        for name, metric in EVALUATION.items()
        if (rule := metric.rule) is not None and name in row["metrics"]
        for seed, value in zip(seeds, row["metrics"][name]["values"], strict=True)
    ]


def _outside(rule: Rule, ends: Ends, values: Sequence[float], limit: int | None, *, trends: bool) -> str:
    """Why a metric violates its rule; empty if it does not."""
    if not all(map(math.isfinite, values)):
        return "not a finite number"
    reason = level(rule, fmean(ends[1]), limit)
    if reason:
        return reason
    if rule.trend and trends and _moved(*ends) == -rule.trend:
        return f"{'fell' if rule.trend > 0 else 'rose'}: {rule.reason}"
    return ""


def _values(log: Sequence[Mapping[str, Any]], metric: str) -> list[float]:
    return [float(row[metric]) for row in log if row.get(metric) is not None]


def _ends(log: Sequence[Mapping[str, Any]], metric: str) -> Ends | None:
    """Both ends of a metric, of at least two values each where four were logged; None if it was not logged."""
    values = _values(log, metric)
    window = max(2 if len(values) >= LEAST else 1, len(values) // 10)
    return (values[:window], values[-window:]) if values else None


def _moved(first: Sequence[float], last: Sequence[float]) -> int:
    """1 for a rise, -1 for a fall, 0 for a difference of means within two standard errors.

    >>> _moved([0.5, 0.6], [0.9, 0.8]), _moved([0.5, 0.7], [0.6, 0.5])
    (1, 0)
    """
    if min(len(first), len(last)) < 2:
        return 0
    error = math.sqrt(sum(variance(values) / len(values) for values in (first, last)))
    difference = fmean(last) - fmean(first)
    return 0 if abs(difference) <= 2 * error else int(math.copysign(1, difference))
