"""TODO docstring."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from critique_rl.types import child_seed

_T975 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228)
"""Student's t, 97.5 % quantile, by degrees of freedom."""

ByProblem = Mapping[str, Mapping[str, float | None]]
"""Value of each problem by metric and identity."""

Z975 = 1.959964
"""97.5 % quantile of the standard normal distribution."""


def t_interval(values: Sequence[float]) -> dict[str, Any]:
    """Mean and 95 % t-interval over seeds, in the shape of a metric; one value has no width.

    >>> t_interval([0.25, 0.25])
    {'mean': 0.25, 'low': 0.25, 'high': 0.25, 'values': [0.25, 0.25]}
    """
    mean, half = statistics.fmean(values), 0.0
    if len(values) > 1:
        half = _t975(len(values) - 1) * statistics.stdev(values) / len(values) ** 0.5
    return {"mean": mean, "low": mean - half, "high": mean + half, "values": list(values)}


def _t975(freedom: int) -> float:
    if freedom <= len(_T975):
        return _T975[freedom - 1]
    z = 1.959964  # and from there on Cornish and Fisher's expansion, which is right to three decimals
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
    )
    return z + sum(term / freedom ** (i + 1) for i, term in enumerate(terms))


def interval(
    values_by_problem: Mapping[str, float | None],
    *,
    seed: int = 0,
    resamples: int = 1000,
    level: float = 0.95,
) -> tuple[float, float] | None:
    """Percentile bootstrap of a mean over problems.

    For the difference of two methods give the differences by problem: the methods share the problems, so two
    intervals that overlap do not mean that the difference could be zero.

    Args:
        values_by_problem: One value per problem; None is left out.
        seed: Seed of the resamples.
        resamples: Number of resamples R.
        level: Mass between the ends.

    Returns:
        Lower and upper end, None without a value.
    """
    values_P = np.array([v for v in values_by_problem.values() if v is not None], dtype=float)
    if not len(values_P):
        return None
    generator = np.random.default_rng(child_seed(seed, "bootstrap"))
    means_R = values_P[generator.integers(len(values_P), size=(resamples, len(values_P)))].mean(axis=1)
    low, high = np.quantile(means_R, ((1 - level) / 2, (1 + level) / 2))
    return float(low), float(high)


def wilson(successes: int, n: int, z: float = Z975) -> tuple[float, float] | None:
    """Wilson's score interval of a share, by default 95 %; None for n = 0.

    Source: E. B. Wilson, Probable Inference, JASA 22 (1927). Within [0, 1], and sensible near its ends.

    Raises:
        ValueError: Not 0 <= successes <= n.
    """
    if not 0 <= successes <= n:
        raise ValueError(f"wilson needs 0 <= successes <= n, got successes={successes}, n={n}")
    if n == 0:
        return None
    share, shrink = successes / n, 1 + z**2 / n
    centre = (share + z**2 / (2 * n)) / shrink
    half = z * math.sqrt(share * (1 - share) / n + z**2 / (4 * n**2)) / shrink
    return max(0.0, centre - half), min(1.0, centre + half)
