"""Mean and 95 % interval of every metric of a table row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from critique_rl.evaluation.episodes import Episode
from critique_rl.evaluation.intervals import ByProblem, interval, t_interval, wilson
from critique_rl.evaluation.metrics import asked, metrics, resampled
from critique_rl.evaluation.scaling import mean_of_known


def summarise(
    per_seed: Sequence[Sequence[Episode]], by_problem: Sequence[ByProblem] | None = None
) -> dict[str, dict[str, Any]]:
    """Mean and 95 % interval of every metric.

    Args:
        per_seed: Episodes of each seed; an empty list where pairs are judged and no problem is asked.
        by_problem: Further metrics of each seed by problem; their means over problems are added.

    Returns:
        `{metric: {"mean", "low", "high", "values"}}`: a t-interval over the seeds. With one seed, or where the
        seeds do not differ, a percentile bootstrap over the problems of a seed; where that has no width, since
        all or none are right, Wilson's interval. A metric that is undefined for a seed is left out.
    """
    values = [metrics(episodes) if episodes else {} for episodes in per_seed]
    ends: dict[str, tuple[float, float]] = {}
    if per_seed[0] and any(len({v.get(name) for v in values}) == 1 for name in values[0]):
        for name, draws in resampled(per_seed[0]).items():
            if not np.isnan(draws).all():
                low, high = np.nanquantile(draws, (0.025, 0.975))
                ends[name] = float(low), float(high)
    for seed_values, further in zip(values, by_problem, strict=True) if by_problem is not None else ():
        for name, problems in further.items():
            seed_values[name] = mean_of_known(problems.values())
            if name not in ends and (over_problems := interval(problems)) is not None:
                ends[name] = over_problems  # of the first seed
    problems_of = asked(per_seed[0]) if per_seed[0] else {}
    for name, problems in by_problem[0].items() if by_problem else ():
        problems_of[name] = sum(value is not None for value in problems.values())
    summary: dict[str, dict[str, Any]] = {}
    for name in values[0]:
        column = [value for v in values if (value := v[name]) is not None]
        if len(column) == len(values):
            summary[name] = t_interval(column)
            if len(set(column)) == 1 and name in ends:
                summary[name]["low"], summary[name]["high"] = _wide(name, column[0], ends[name], problems_of)
    for before, after in (("acc", "acc_refine"), ("score", "score_refine")):
        if before in summary:  # the paper's convention: one column of accuracies, also without a critic
            summary.setdefault(after, summary[before])
    return summary


def _wide(
    name: str, mean: float, ends: tuple[float, float], problems: Mapping[str, int]
) -> tuple[float, float]:
    """Both ends of an interval over problems; 0 of 8 and 8 of 8 do not make it a point."""
    n = problems.get(name, 0)
    if ends[0] < ends[1] or mean not in (0.0, 1.0) or not n:
        return ends
    return wilson(n if mean else 0, n) or ends
