"""All metrics of the paper's section 5.1 on evaluation records, as fractions of 1, and their bootstrap resamples.

Scored replies have the metrics of the paper's Table 9 instead, in units of scores and ratings. Each metric is the
ratio of two sums over episodes, so a bootstrap over problems is one matrix product.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from critique_rl.evaluation.episodes import Episode
from critique_rl.prompts import Verdict
from critique_rl.rewards import r_dis
from critique_rl.types import child_seed

Array = np.ndarray

_TEXTS = ("response", "critique", "refinement")
# Columns of counts per episode, of all episodes.
_ALWAYS = (
    *("all", "metered", "tokens"),  # metered: with known tokens
    *("texts", "cut"),  # texts of which is known whether they ended at their limit, and those that did
    *(f"{count}_{text}" for text in _TEXTS for count in ("known", "cut")),
)
# The others are 0 in episodes that could not be graded.
_COUNTS = (
    *_ALWAYS,
    "graded",
    *("right", "wrong"),  # by response
    "refined",  # refinement right
    "spoiled",  # right response, wrong refinement
    "corrected",  # wrong response, right refinement
    *("judged", "parsed", "agrees"),  # with a critique, with a verdict, with a right verdict
    *("judged_right", "agrees_right"),  # the same for right responses
    *("judged_wrong", "agrees_wrong"),  # and for wrong ones
    *("score", "score_refine"),  # of responses, of refinements
    *("squared_error", "absolute_error"),  # of the critic's rating, if it has one
)
_CUT = {"cut": ("cut", "texts")} | {f"{text}_cut": (f"cut_{text}", f"known_{text}") for text in _TEXTS}
_RATIOS = {
    "acc": ("right", "graded"),
    "graded_rate": ("graded", "all"),
    "tokens": ("tokens", "metered"),
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
    **_CUT,
}
_SCORED_RATIOS = {
    "score": ("score", "graded"),
    "graded_rate": ("graded", "all"),
    "tokens": ("tokens", "metered"),
    "score_refine": ("score_refine", "graded"),
    "mse_dis": ("squared_error", "parsed"),
    "mae_dis": ("absolute_error", "parsed"),
    "parse_rate": ("parsed", "judged"),
    **_CUT,
}
_WITHOUT_CRITIC = ("acc", "score", "graded_rate", "tokens", "cut", "response_cut")


def metrics(episodes: Sequence[Episode]) -> dict[str, float | None]:
    """All metrics; None where there is nothing to divide by.

    Episodes with a reply that could not be graded or scored count only in `graded_rate`, `tokens` and
    the shares of cut texts, so that
    delta = delta_ic - delta_ci holds exactly. Discrimination is measured on the episodes with a critique. A
    critique without a rating has no error, so read `mse_dis` and `mae_dis` beside `parse_rate`.

    Args:
        episodes: Episodes of one round; all samples of a problem have the same weight.

    Returns:
        Values by name, see docs/metrics.md; without critiques only `acc` or `score`, `graded_rate`,
        `tokens`, `cut` and `response_cut`. Records that do not say what was cut have no such metrics.
    """
    with_critic = _with_critic(episodes)
    values = _ratios(_table(episodes, with_critic).sum(axis=0), episodes, with_critic)
    return {name: None if np.isnan(value) else float(value) for name, value in values.items()}


def resampled(episodes: Sequence[Episode], *, resamples: int = 1000) -> dict[str, Array]:
    """Metrics of bootstrap resamples of the problems; all samples of a problem are drawn together.

    Returns:
        Values (R,) by metric, with R resamples; NaN where a metric is undefined.
    """
    with_critic = _with_critic(episodes)
    rows = {identity: i for i, identity in enumerate(dict.fromkeys(e.id for e in episodes))}
    table_PC = np.zeros((len(rows), len(_COUNTS)))
    np.add.at(table_PC, [rows[e.id] for e in episodes], _table(episodes, with_critic))
    generator = np.random.default_rng(child_seed(0, "bootstrap"))
    times_RP = generator.multinomial(len(rows), np.full(len(rows), 1 / len(rows)), size=resamples)
    return _ratios(times_RP @ table_PC, episodes, with_critic)


def asked(episodes: Sequence[Episode]) -> dict[str, int]:
    """Number of problems behind each metric that is a share, at most one per problem however many samples."""
    with_critic = _with_critic(episodes)
    sums = dict(zip(_COUNTS, _table(episodes, with_critic).sum(axis=0), strict=True))
    ratios = _SCORED_RATIOS if any(e.kind == "score" for e in episodes) else _RATIOS
    shares = {name: of for name, (_, of) in ratios.items() if name in _RATIOS and name != "tokens"}
    problems = len({e.id for e in episodes})
    return {name: min(problems, int(sums[of])) for name, of in shares.items()}


def _with_critic(episodes: Sequence[Episode]) -> bool:
    return any(e.critique is not None for e in episodes)


def _table(episodes: Sequence[Episode], with_critic: bool) -> Array:
    """Counts (E, C) of each episode, in the order of `_COUNTS`."""
    table_EC = np.zeros((len(episodes), len(_COUNTS)))
    for e, row_C in zip(episodes, table_EC, strict=True):
        counts = _score_sums(e, with_critic) if e.kind == "score" else _grade_counts(e, with_critic)
        row_C[:] = [*_always(e), *(float(counts.get(name) or 0) for name in _COUNTS[len(_ALWAYS) :])]
    return table_EC


def _always(e: Episode) -> list[float]:
    """Counts of `_ALWAYS`."""
    cuts = (e.response_cut, e.critique_cut, e.refinement_cut)
    pairs = [(float(cut is not None), float(cut is True)) for cut in cuts]
    texts, cut = (sum(column) for column in zip(*pairs, strict=True))
    tokens = [float(e.tokens is not None), e.tokens or 0]
    return [1.0, *tokens, texts, cut, *(count for pair in pairs for count in pair)]


def _grade_counts(e: Episode, with_critic: bool) -> dict[str, bool | None]:
    o, o2 = e.response_correct, e.refinement_correct
    if o is None or (with_critic and o2 is None):
        return {}
    judged = e.verdict is not None  # the empty critique of a control judges nothing
    agrees = e.verdict is not None and r_dis(Verdict(e.verdict), o) == 1.0
    return {
        "graded": True,
        "right": o,
        "wrong": not o,
        "refined": o2,
        "spoiled": o and not o2,
        "corrected": o2 and not o,
        "judged": judged,
        "parsed": judged and e.verdict != Verdict.UNPARSED,
        "agrees": agrees,
        "judged_right": judged and o,
        "agrees_right": agrees and o,
        "judged_wrong": judged and not o,
        "agrees_wrong": agrees and not o,
    }


def _score_sums(e: Episode, with_critic: bool) -> dict[str, float | None]:
    if e.response_score is None or (with_critic and e.refinement_score is None):
        return {}
    error = None
    if e.critic_rating is not None and e.response_rating is not None:
        error = e.critic_rating - e.response_rating
    return {
        "graded": 1,
        "score": e.response_score,
        "score_refine": e.refinement_score,
        "judged": e.critique is not None,
        "parsed": error is not None,
        "squared_error": None if error is None else error**2,
        "absolute_error": None if error is None else abs(error),
    }


def _ratios(sums: Array, episodes: Sequence[Episode], with_critic: bool) -> dict[str, Array]:
    """Metrics from sums of `_COUNTS` in the last axis; NaN for 0 / 0."""
    scored = any(e.kind == "score" for e in episodes)
    columns = {name: sums[..., i] for i, name in enumerate(_COUNTS)}
    ratios = _SCORED_RATIOS if scored else _RATIOS
    names = [name for name in ratios if with_critic or name in _WITHOUT_CRITIC]
    known = {f"{text}_cut" for text in _TEXTS if any(getattr(e, f"{text}_cut") is not None for e in episodes)}
    names = [name for name in names if name not in _CUT or name in known or (name == "cut" and known)]
    with np.errstate(invalid="ignore"):
        values = {name: columns[ratios[name][0]] / columns[ratios[name][1]] for name in names}
    if with_critic and scored:
        values["delta"] = values["score_refine"] - values["score"]
    elif with_critic:
        values["delta"] = values["acc_refine"] - values["acc"]
        values["acc_dis_balanced"] = (values["acc_dis_on_correct"] + values["acc_dis_on_wrong"]) / 2
    return values
