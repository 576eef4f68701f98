"""Tests of `critique_rl.rewards`: the truth tables of the paper's Eq. 4 to 9 and of the released code."""

from __future__ import annotations

import itertools

import pytest

from critique_rl.prompts import Verdict, parse_verdict
from critique_rl.rewards import (
    REFINEMENT_REWARDS,
    additive,
    gated,
    r_correction,
    r_delta,
    r_dis,
    r_dis_scored,
    r_dis_signed,
    r_refine,
    r_refine_scored,
)

CORRECT, WRONG, UNPARSED = Verdict.CORRECT, Verdict.WRONG, Verdict.UNPARSED


@pytest.mark.parametrize(
    ("verdict", "response_correct", "expected", "why"),
    [
        (CORRECT, True, 1.0, "f = o = 1"),
        (CORRECT, False, 0.0, "a miss"),
        (WRONG, True, 0.0, "a false alarm"),
        (WRONG, False, 1.0, "f = o = 0"),
        (UNPARSED, True, 0.0, "no verdict is not right"),
        (UNPARSED, False, 0.0, "no verdict is not right either where the response is wrong"),
        (CORRECT, None, None, "nobody knows o"),
        (WRONG, None, None, "nobody knows o"),
        (UNPARSED, None, None, "nobody knows o"),
    ],
)
def test_r_dis(verdict: Verdict, response_correct: bool | None, expected: float | None, why: str) -> None:
    assert r_dis(verdict, response_correct) == expected, why
    signed = {1.0: 1.0, 0.0: -1.0, None: None}[expected]  # the released code: +1 if right, -1 if not
    assert r_dis_signed(verdict, response_correct) == signed, why


def test_both_verdicts_are_never_rewarded() -> None:
    both = "Correctness of the final answer: Correct\nCorrectness of the final answer: Wrong"
    assert [r_dis(parse_verdict(both), o) for o in (True, False)] == [0.0, 0.0]


# o, o', Eq. 4, Eq. 5, Eq. 6
INDIRECT = [
    (True, True, 1.0, 0.0, 0.2),
    (True, False, 0.0, -1.0, 0.0),
    (False, True, 1.0, 1.0, 1.0),
    (False, False, 0.0, 0.0, 0.0),
]


@pytest.mark.parametrize(("o", "refined", "eq4", "eq5", "eq6"), INDIRECT)
def test_indirect_rewards(o: bool, refined: bool, eq4: float, eq5: float, eq6: float) -> None:
    assert (r_refine(o, refined), r_delta(o, refined), r_correction(o, refined)) == (eq4, eq5, eq6)


@pytest.mark.parametrize("name", REFINEMENT_REWARDS)
@pytest.mark.parametrize(("o", "refined"), list(itertools.product((True, False, None), repeat=2)))
def test_indirect_rewards_of_the_unknown(name: str, o: bool | None, refined: bool | None) -> None:
    known = refined is not None and (o is not None or name == "r_refine")  # Eq. 4 does not need o
    assert (REFINEMENT_REWARDS[name](o, refined) is not None) == known


def test_delta_is_the_difference_of_the_two_transitions() -> None:
    for o, refined, *_ in INDIRECT:
        assert r_delta(o, refined) == float(refined and not o) - float(
            o and not refined
        )  # Delta = i->c minus c->i


@pytest.mark.parametrize(
    ("refinement", "dis", "eq9", "released", "why"),
    [
        (1.0, 1.0, 1.2, 1.2, "verdict right, o' = 1"),
        (0.0, 1.0, 0.2, 0.2, "verdict right, o' = 0"),
        (1.0, 0.0, 1.0, -1.0, "verdict wrong or none, o' = 1"),
        (0.0, 0.0, 0.0, -1.0, "verdict wrong or none, o' = 0"),
        (-1.0, 1.0, -0.8, -0.8, "r_delta of a spoilt answer"),
        (-1.0, 0.0, -1.0, -1.0, "r_delta of a spoilt answer"),
        (None, 1.0, None, None, "the refinement could not be graded"),
        (None, 0.0, None, -1.0, "the gate does not look at the refinement"),
        (1.0, None, None, None, "the response could not be graded"),
        (None, None, None, None, "nothing is known"),
    ],
)
def test_stage_2(
    refinement: float | None, dis: float | None, eq9: float | None, released: float | None, why: str
) -> None:
    for rule, expected in ((additive, eq9), (gated, released)):
        wanted = None if expected is None else pytest.approx(expected, abs=1e-12)
        assert rule(refinement, dis, beta_1=0.2) == wanted, (rule.__name__, why)


def test_beta_1_weighs_r_dis_alone() -> None:
    assert additive(1.0, 1.0, beta_1=0.9) == pytest.approx(1.9)  # appendix G of the paper
    assert gated(1.0, 1.0, beta_1=0.9) == pytest.approx(1.9)
    assert additive(1.0, 1.0, beta_1=0.0) == additive(1.0, 0.0, beta_1=0.0) == 1.0  # w/o discrimination


@pytest.mark.parametrize(
    ("rating", "true_rating", "expected", "why"),
    [
        (6.0, 6.0, 1.0, "exact"),
        (7.0, 6.0, 0.5, "half the tolerance above: 1 - 1 / 2"),
        (5.0, 6.0, 0.5, "and below"),
        (4.0, 6.0, 0.0, "the tolerance itself: 1 - 2 / 2"),
        (1.0, 10.0, 0.0, "far beyond: never negative"),
        (None, 6.0, 0.0, "no rating is not right"),
        (6.0, None, None, "the scorer does not know"),
        (None, None, None, "nothing is known"),
    ],
)
def test_discrimination_of_scored_replies(
    rating: float | None, true_rating: float | None, expected: float | None, why: str
) -> None:
    assert r_dis_scored(rating, true_rating, tolerance=2.0) == expected, why


def test_tolerance_is_in_points_of_the_rating() -> None:
    assert r_dis_scored(7.0, 6.0, tolerance=4.0) == 0.75


def test_refinement_of_scored_replies_goes_through_eq_9() -> None:
    assert r_refine_scored(None) is None
    assert additive(r_refine_scored(8.5), r_dis_scored(7.0, 6.0, tolerance=2.0), beta_1=0.2) == 8.6
    assert additive(r_refine_scored(None), 1.0, beta_1=0.2) is None
