"""95 % intervals: Student's t over seeds, bootstrap over problems, Wilson's for shares."""

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
"""Values of further metrics: by metric, the value of each problem by identity."""

Z975 = 1.959964
"""97.5 % quantile of the standard normal distribution."""


def t_interval(values: Sequence[float]) -> dict[str, Any]:
    """Mean and 95 % t-interval over seeds, in the shape of a metric; a single value gets width 0.

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
    z = Z975  # beyond the table: Cornish and Fisher's expansion, right to three decimals
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

    To compare two methods, give their differences by problem. The methods share the problems, so the difference
    can be clear even where the intervals of the two methods overlap.

    Args:
        values_by_problem: One value per problem; None is left out.
        resamples: Number of resamples R, drawn by `seed`.
        level: Mass between lower and upper end.

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

    Source: E. B. Wilson, Probable Inference, JASA 22 (1927). It lies within [0, 1] and behaves well near 0 and 1.

    Raises:
        ValueError: 0 <= successes <= n does not hold.
    """
    if not 0 <= successes <= n:
        raise ValueError(f"wilson needs 0 <= successes <= n, got successes={successes}, n={n}")
    if n == 0:
        return None
    share, shrink = successes / n, 1 + z**2 / n
    centre = (share + z**2 / (2 * n)) / shrink
    half = z * math.sqrt(share * (1 - share) / n + z**2 / (4 * n**2)) / shrink
    return max(0.0, centre - half), min(1.0, centre + half)


def share(successes: int, n: int) -> dict[str, float | None]:
    """Share with Wilson's 95 % interval: `mean`, `low` and `high`, each None for n = 0."""
    low, high = wilson(successes, n) or (None, None)
    return {"mean": successes / n if n else None, "low": low, "high": high}


def percent(share: Mapping[str, Any] | None, sign: str = "") -> str:
    """Cell of a table with a share and its interval, a dash without a value; `sign="+"` writes plus signs.

    >>> percent({"mean": 0.5, "low": 0.25, "high": 0.75})
    '50.0% (25.0% to 75.0%)'
    """
    if share is None or share["mean"] is None:
        return "–"
    mean, low, high = (f"{share[end]:{sign}.1%}" for end in ("mean", "low", "high"))
    return f"{mean} ({low} to {high})"
