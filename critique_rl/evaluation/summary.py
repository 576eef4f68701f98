"""TODO docstring."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

import numpy as np

from critique_rl.evaluation.episodes import Episode
from critique_rl.evaluation.intervals import ByProblem, interval, t_interval
from critique_rl.evaluation.metrics import metrics, resampled


def summarise(
    per_seed: Sequence[Sequence[Episode]],
    by_problem: Sequence[ByProblem] | None = None,
) -> dict[str, dict[str, Any]]:
    """Mean and 95 % interval of every metric.

    Args:
        per_seed: Episodes of each seed; none where pairs are judged and nothing is asked.
        by_problem: Of each seed, further metrics, each the mean of its values over problems.

    Returns:
        `{metric: {"mean", "low", "high", "values"}}`: with several seeds a t-interval over them, with one
        seed a percentile bootstrap over its problems. A metric that is undefined for a seed is left out.
    """
    values = [metrics(episodes) if episodes else {} for episodes in per_seed]
    ends: dict[str, tuple[float, float]] = {}
    if len(per_seed) == 1 and per_seed[0]:
        known = {name: draws for name, draws in resampled(per_seed[0]).items() if not np.isnan(draws).all()}
        ends = {name: _ends(np.nanquantile(draws, (0.025, 0.975))) for name, draws in known.items()}
    if by_problem is not None:
        for seed_values, further in zip(values, by_problem, strict=True):
            for name, of in further.items():
                known_values = [v for v in of.values() if v is not None]
                seed_values[name] = statistics.fmean(known_values) if known_values else None
                found = interval(of) if len(per_seed) == 1 else None
                if found is not None:
                    ends[name] = found
    summary: dict[str, dict[str, Any]] = {}
    for name in values[0]:
        column = [v[name] for v in values]
        if any(v is None for v in column):
            continue
        summary[name] = t_interval([v for v in column if v is not None])
        if name in ends:
            summary[name] |= dict(zip(("low", "high"), ends[name], strict=True))
    for before, after in (("acc", "acc_refine"), ("score", "score_refine")):
        if before in summary:  # the paper's convention: one column of accuracies, also without a critic
            summary.setdefault(after, summary[before])
    return summary


def _ends(pair: Any) -> tuple[float, float]:
    low, high = (float(q) for q in pair)
    return low, high
