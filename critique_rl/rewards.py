"""The rewards of Critique-RL (arXiv 2510.24320), one pure function for each.

The rewards of LLaVA-Critic-R1 are in `pairwise_rewards.py`; their names are here as well.

`response_correct` is o = r_oracle(x, y), `refinement_correct` is o' = r_oracle(x, y'). `None` means that the
grader could not decide; a reward that needs that value is `None` too.
"""

from __future__ import annotations

from critique_rl.pairwise_rewards import pairwise_reward as pairwise_reward
from critique_rl.pairwise_rewards import r_format as r_format
from critique_rl.pairwise_rewards import r_pref as r_pref
from critique_rl.prompts import Verdict


def r_dis(verdict: Verdict, response_correct: bool | None) -> float | None:
    """Discriminability reward, Eq. 7: 1[f(x, y, c) = r_oracle(x, y)]. An unparsed critique earns 0.

    >>> r_dis(Verdict.WRONG, False), r_dis(Verdict.UNPARSED, False), r_dis(Verdict.CORRECT, None)
    (1.0, 0.0, None)
    """
    if response_correct is None:
        return None
    return float(verdict is (Verdict.CORRECT if response_correct else Verdict.WRONG))


def r_dis_signed(verdict: Verdict, response_correct: bool | None) -> float | None:
    """Discriminability reward of the released code: +1 if the verdict is right, else -1."""
    reward = r_dis(verdict, response_correct)
    return None if reward is None else 2.0 * reward - 1.0


def r_refine(response_correct: bool | None, refinement_correct: bool | None) -> float | None:
    """Refinement reward, Eq. 4: r_oracle(x, y'). The unused argument gives Eq. 4 to 6 the same signature."""
    return None if refinement_correct is None else float(refinement_correct)


def r_delta(response_correct: bool | None, refinement_correct: bool | None) -> float | None:
    """Improvement reward, Eq. 5: r_oracle(x, y') - r_oracle(x, y), in {-1, 0, 1}."""
    if response_correct is None or refinement_correct is None:
        return None
    return float(refinement_correct) - float(response_correct)


def r_correction(response_correct: bool | None, refinement_correct: bool | None) -> float | None:
    """Correction reward, Eq. 6: 1.0 for wrong -> right, 0.2 for right -> right, 0 for a wrong refinement."""
    if response_correct is None or refinement_correct is None:
        return None
    if not refinement_correct:
        return 0.0
    return 0.2 if response_correct else 1.0


def additive(refinement_reward: float | None, dis_reward: float | None, *, beta_1: float) -> float | None:
    """Stage II reward of the paper, Eq. 9 without its KL term: r_refine + beta_1 * r_dis."""
    if refinement_reward is None or dis_reward is None:
        return None
    return refinement_reward + beta_1 * dis_reward


def gated(refinement_reward: float | None, dis_reward: float | None, *, beta_1: float) -> float | None:
    """Stage II reward of the released code: -1 if the verdict is wrong or unparsed, else r_refine + beta_1.

    With a wrong verdict the refinement does not matter and may be `None`.
    """
    if dis_reward is None:
        return None
    if dis_reward <= 0.0:
        return -1.0
    return None if refinement_reward is None else refinement_reward + beta_1


def r_dis_scored(rating: float | None, true_rating: float | None, *, tolerance: float) -> float | None:
    """Discriminability reward for scored replies, appendix E: max(0, 1 - |f(x, y, c) - r_oracle(x, y)| / delta).

    `rating` is the critic's, f; None is unparsed and earns 0. `true_rating` is the scorer's. Both are on the scale
    from 1 to 10. `tolerance` is delta; the paper does not give its value.

    >>> [r_dis_scored(rating, 6.0, tolerance=2.0) for rating in (6.0, 7.0, 9.0, None)]
    [1.0, 0.5, 0.0, 0.0]
    """
    if true_rating is None:
        return None
    return 0.0 if rating is None else max(0.0, 1.0 - abs(rating - true_rating) / tolerance)


def r_refine_scored(refinement_rating: float | None) -> float | None:
    """Refinement reward for scored replies, appendix E: r_oracle(x, y'), on the scale from 1 to 10.

    Its range is nine times that of `r_refine`: r_dis with a beta_1 of 0.2 weighs nine times less.

    >>> r_refine_scored(8.5), r_refine_scored(None)
    (8.5, None)
    """
    return refinement_rating


REFINEMENT_REWARDS = {"r_refine": r_refine, "r_delta": r_delta, "r_correction": r_correction}
"""Refinement rewards by name, the value of `refinement_reward` of a stage."""
STAGE_2_REWARDS = {"additive": additive, "gated": gated}
"""Stage II rewards by name, the value of `combination` of a stage."""
