"""Every metric of the paper's section 5.1 on evaluation records, as fractions of 1, with their resamples.

Each metric is a ratio of two sums over episodes, so that a bootstrap over problems is one matrix product.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from critique_rl.evaluation import Episode
from critique_rl.prompts import Verdict
from critique_rl.rewards import r_dis
from critique_rl.types import child_seed

Array = np.ndarray

# What is counted in each episode; all but the first two in graded episodes alone.
_COUNTS = (
    "all",
    "tokens",
    "graded",
    "right",  # response right
    "wrong",
    "refined",  # refinement right
    "spoiled",  # right response, wrong refinement
    "corrected",  # wrong response, right refinement
    "judged",  # criticised
    "parsed",  # ... with a verdict
    "agrees",  # ... that is right
    "judged_right",  # criticised, of right responses
    "agrees_right",
    "judged_wrong",
    "agrees_wrong",
)
_RATIOS = {
    "acc": ("right", "graded"),
    "graded_rate": ("graded", "all"),
    "tokens": ("tokens", "all"),
    "acc_refine": ("refined", "graded"),
    "delta_ci": ("spoiled", "graded"),
    "delta_ic": ("corrected", "graded"),
    "delta_ci_given_correct": ("spoiled", "right"),
    "delta_ic_given_wrong": ("corrected", "wrong"),
    "acc_dis": ("agrees", "judged"),
    "acc_dis_parsed": ("agrees", "parsed"),
    "acc_dis_on_correct": ("agrees_right", "judged_right"),
    "acc_dis_on_wrong": ("agrees_wrong", "judged_wrong"),
    "parse_rate": ("parsed", "judged"),
}
_WITHOUT_CRITIC = ("acc", "graded_rate", "tokens")


def metrics(episodes: Sequence[Episode]) -> dict[str, float | None]:
    """All metrics; None where there is nothing to divide by.

    Episodes with an answer that could not be graded count in `graded_rate` and nowhere else, so that
    delta = delta_ic - delta_ci holds exactly. Discrimination is measured on the episodes with a critique.

    Args:
        episodes: Of one round; several samples of a problem count alike.

    Returns:
        By name, see the README's section on metrics; without critiques `acc`, `graded_rate` and `tokens`.
    """
    with_critic = _with_critic(episodes)
    table_EC = np.array([_counts(e, with_critic) for e in episodes], dtype=float).reshape(-1, len(_COUNTS))
    values = _ratios(table_EC.sum(axis=0), with_critic)
    return {name: None if np.isnan(value) else float(value) for name, value in values.items()}


def resampled(episodes: Sequence[Episode], *, resamples: int = 1000) -> dict[str, Array]:
    """Metrics of bootstrap resamples of the problems; all samples of a problem are drawn together.

    Args:
        episodes: As in `metrics`.
        resamples: Number of resamples R.

    Returns:
        (R,) values by metric, NaN where one is undefined.
    """
    with_critic = _with_critic(episodes)
    place = {identity: i for i, identity in enumerate(dict.fromkeys(e.id for e in episodes))}
    table_PC = np.zeros((len(place), len(_COUNTS)))
    for episode in episodes:
        table_PC[place[episode.id]] += _counts(episode, with_critic)
    generator = np.random.default_rng(child_seed(0, "bootstrap"))
    times_RP = generator.multinomial(len(place), np.full(len(place), 1 / len(place)), size=resamples)
    return _ratios(times_RP @ table_PC, with_critic)


def _with_critic(episodes: Sequence[Episode]) -> bool:
    return any(e.critique is not None for e in episodes)


def _counts(e: Episode, with_critic: bool) -> list[float]:
    o, o2 = e.response_correct, e.refinement_correct
    if o is None or (with_critic and o2 is None):
        return [1.0, e.tokens, *[0.0] * (len(_COUNTS) - 2)]
    judged = e.critique is not None
    parsed = judged and e.verdict != Verdict.UNPARSED
    agrees = judged and e.verdict is not None and r_dis(Verdict(e.verdict), o) == 1.0
    flags = (True, o, not o, o2, o and not o2, o2 and not o, judged, parsed, agrees)
    by_class = (judged and o, agrees and o, judged and not o, agrees and not o)
    return [1.0, e.tokens, *(float(bool(flag)) for flag in (*flags, *by_class))]


def _ratios(sums: Array, with_critic: bool) -> dict[str, Array]:
    """Metrics from sums of `_COUNTS` in the last axis; NaN for 0 / 0."""
    at = {name: sums[..., i] for i, name in enumerate(_COUNTS)}
    names = _RATIOS if with_critic else _WITHOUT_CRITIC
    with np.errstate(invalid="ignore"):
        values = {name: at[_RATIOS[name][0]] / at[_RATIOS[name][1]] for name in names}
    if with_critic:
        values["delta"] = values["acc_refine"] - values["acc"]
        values["acc_dis_balanced"] = (values["acc_dis_on_correct"] + values["acc_dis_on_wrong"]) / 2
    return values
