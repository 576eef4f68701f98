"""Is a training healthy? The column *healthy* of docs/metrics.md, as rules over its log."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

LEAST = 4
"""RL steps below which nothing is said of a trend."""


@dataclass(frozen=True)
class Rule:
    """What a metric should do.

    Attributes:
        metric: As the trainer logs it.
        healthy: What it should do, in words.
        reason: What it means if it does not.
        low: Least mean over the last tenth of the RL steps.
        high: Largest such mean.
        trend: 1 if it must not fall, -1 if it must not rise, from the first to the last tenth.
        without_refinement: Whether the rule is for stages without a refinement reward alone.
        of_limit: Largest share of the limit of tokens, in place of `high`.
    """

    metric: str
    healthy: str
    reason: str
    low: float = -math.inf
    high: float = math.inf
    trend: int = 0
    without_refinement: bool = False
    of_limit: float | None = None


RULES = (
    Rule("critic/acc_dis", "rises in Stage I", "it judges worse", trend=1, without_refinement=True),
    Rule("critic/mae_dis", "falls in Stage I", "its ratings get worse", trend=-1, without_refinement=True),
    Rule("critic/parse_rate", "above 0.95", "critiques without one verdict earn nothing", low=0.95),
    Rule("actor/acc_refine", "rises in Stage II", "refinements get worse", trend=1),
    Rule("actor/delta_ci", "falls", "more right responses are made wrong", trend=-1),
    Rule("actor/delta_ic", "rises", "fewer wrong responses are made right", trend=1),
    Rule("actor/rating_refine", "rises in Stage II", "refinements get worse", trend=1),
    Rule("actor/delta_rating", "rises in Stage II", "refinements gain less", trend=1),
    Rule("actor/graded_rate", "above 0.99", "ungraded refinements teach nothing", low=0.99),
    Rule("reward/r_pref", "rises", "its preferences get worse", trend=1),
    Rule("reward/r_format", "near 1, at least 0.9", "the format is lost", low=0.9),
    Rule("critic/said_first", "near 0.5, between 0.4 and 0.6", "it likes one position", low=0.4, high=0.6),
    Rule("value/loss", "falls", "the value model gets worse", trend=-1),
    Rule("value/explained_variance", "not below 0", "the value model hurts", low=0.0),
    Rule("kl", "below about 0.2", "the critic is far from its start", high=0.2),
    Rule("entropy", "not near 0, at least 0.01", "no exploration is left", low=0.01),
    Rule("clip_ratio/region_mean", "below 0.1", "the updates are too large", high=0.1),
    Rule("frac_reward_zero_std", "below 0.8", "most groups earn one reward and teach nothing", high=0.8),
    Rule("completions/mean_length", "far from the limit", "critiques grow to the limit", of_limit=0.9),
    Rule("completions/clipped_ratio", "below 0.05", "critiques are cut at the limit", high=0.05),
)
ON_CORRECT, ON_WRONG = "critic/acc_dis_on_correct", "critic/acc_dis_on_wrong"
COLLAPSE = Rule(
    ON_WRONG,
    "not near 0 (below 0.2) while the other is near 1 (above 0.8)",
    "collapse to one verdict",
    low=0.2,
    high=0.8,
)


@dataclass(frozen=True)
class Finding:
    """One metric of one training.

    Attributes:
        stage: Label of the stage.
        seed: Seed of the run.
        metric: As the trainer logs it.
        first: Mean over the first tenth of the RL steps.
        last: The same over the last tenth.
        healthy: What it should do.
        outside: Why it is not healthy; empty if it is.
    """

    stage: str
    seed: int
    metric: str
    first: float
    last: float
    healthy: str
    outside: str


def check(
    log: Sequence[Mapping[str, Any]],
    *,
    stage: str,
    seed: int,
    refines: bool,
    limit: int | None = None,
) -> list[Finding]:
    """Check the log of one training.

    Args:
        log: One mapping per RL step.
        stage: Its label.
        seed: Seed of the run.
        refines: Whether its reward has a term of the refinement.
        limit: Most tokens of a critique.

    Returns:
        A finding for each metric with a rule that was logged.
    """
    found = []
    for rule in RULES:
        ends = _ends(log, rule.metric)
        if ends is None or (rule.without_refinement and refines):
            continue
        first, last = ends
        high = rule.high
        if rule.of_limit is not None:
            if limit is None:
                continue
            high = rule.of_limit * limit
        outside = ""
        if not rule.low <= statistics.fmean(last) <= high:
            outside = rule.reason
        elif rule.trend and len(log) >= LEAST and _moved(first, last) == -rule.trend:
            outside = f"{'fell' if rule.trend > 0 else 'rose'}: {rule.reason}"
        found.append(_finding(stage, seed, rule.metric, first, last, rule.healthy, outside))
    judged = {metric: _ends(log, metric) for metric in (ON_CORRECT, ON_WRONG)}
    means = [statistics.fmean(ends[1]) for ends in judged.values() if ends is not None]
    collapsed = len(means) == 2 and min(means) < COLLAPSE.low and max(means) > COLLAPSE.high
    for metric, ends in judged.items():
        if ends is not None:
            reason = COLLAPSE.reason if collapsed else ""
            found.append(_finding(stage, seed, metric, *ends, COLLAPSE.healthy, reason))
    return found


def _finding(
    stage: str,
    seed: int,
    metric: str,
    first: Sequence[float],
    last: Sequence[float],
    healthy: str,
    outside: str,
) -> Finding:
    before, after = (round(statistics.fmean(values), 4) for values in (first, last))
    return Finding(stage, seed, metric, before, after, healthy, outside)


def _ends(log: Sequence[Mapping[str, Any]], metric: str) -> tuple[list[float], list[float]] | None:
    """Values of the first and of the last tenth of the RL steps, at least two of each where there are four."""
    values = [float(row[metric]) for row in log if row.get(metric) is not None]
    if not values:
        return None
    window = max(2 if len(values) >= LEAST else 1, len(values) // 10)
    return values[:window], values[-window:]


def _moved(first: Sequence[float], last: Sequence[float]) -> int:
    """1 if it rose, -1 if it fell, 0 if that is within two standard errors of the difference of the means.

    >>> _moved([0.5, 0.6], [0.9, 0.8]), _moved([0.5, 0.7], [0.6, 0.5])
    (1, 0)
    """
    if min(len(first), len(last)) < 2:
        return 0
    error = math.sqrt(sum(statistics.variance(values) / len(values) for values in (first, last)))
    difference = statistics.fmean(last) - statistics.fmean(first)
    return 0 if abs(difference) <= 2 * error else int(math.copysign(1, difference))
