"""Mean and 95 % interval of every metric of a table row."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from critique_rl.evaluation.episodes import Episode
from critique_rl.evaluation.intervals import ByProblem, interval, t_interval
from critique_rl.evaluation.metrics import metrics, resampled
from critique_rl.evaluation.scaling import mean_of_known


def summarise(
    per_seed: Sequence[Sequence[Episode]], by_problem: Sequence[ByProblem] | None = None
) -> dict[str, dict[str, Any]]:
    """Mean and 95 % interval of every metric.

    Args:
        per_seed: Episodes of each seed; an empty list where pairs are judged and no problem is asked.
        by_problem: Further metrics of each seed by problem; their means over problems are added.

    Returns:
        `{metric: {"mean", "low", "high", "values"}}`: with several seeds a t-interval over the seeds, with one
        seed a percentile bootstrap over its problems. A metric that is undefined for a seed is left out.
    """
    values = [metrics(episodes) if episodes else {} for episodes in per_seed]
    ends: dict[str, tuple[float, float]] = {}
    if len(per_seed) == 1 and per_seed[0]:
        for name, draws in resampled(per_seed[0]).items():
            if not np.isnan(draws).all():
                low, high = np.nanquantile(draws, (0.025, 0.975))
                ends[name] = float(low), float(high)
    for seed_values, further in zip(values, by_problem, strict=True) if by_problem is not None else ():
        for name, problems in further.items():
            seed_values[name] = mean_of_known(problems.values())
            if len(per_seed) == 1 and (over_problems := interval(problems)) is not None:
                ends[name] = over_problems
    summary: dict[str, dict[str, Any]] = {}
    for name in values[0]:
        column = [value for v in values if (value := v[name]) is not None]
        if len(column) == len(values):
            summary[name] = t_interval(column)
            if name in ends:
                summary[name]["low"], summary[name]["high"] = ends[name]
    for before, after in (("acc", "acc_refine"), ("score", "score_refine")):
        if before in summary:  # the paper's convention: one column of accuracies, also without a critic
            summary.setdefault(after, summary[before])
    return summary
