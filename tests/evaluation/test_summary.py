"""Metrics over seeds: their means, and intervals over seeds or problems."""

from __future__ import annotations

import math
import statistics

import pytest
from helpers import graded_episodes

from critique_rl.evaluation.episodes import Episode
from critique_rl.evaluation.intervals import t_interval, wilson
from critique_rl.evaluation.summary import summarise
from critique_rl.reports.markdown import format_metric


def test_several_seeds_give_their_values_and_a_t_interval_over_them() -> None:
    summary = summarise(
        [graded_episodes(10, 20, dis=20), graded_episodes(12, 20, dis=20), graded_episodes(17, 20, dis=20)]
    )
    refine = summary["acc_refine"]
    assert refine["values"] == [0.5, 0.6, 0.85]
    # mean 0.65; deviations -0.15, -0.05, 0.2; variance (0.0225 + 0.0025 + 0.04) / 2 = 0.0325
    half = 4.303 * math.sqrt(0.0325) / math.sqrt(3)
    assert refine["mean"] == pytest.approx(0.65)
    assert (refine["low"], refine["high"]) == pytest.approx((0.65 - half, 0.65 + half))
    # No spread over seeds: the interval is that over problems.
    assert (summary["acc_dis"]["low"], summary["acc_dis"]["high"]) == wilson(20, 20)


def test_seeds_that_share_all_problems_and_answers_are_not_exact() -> None:
    """An actor that is not trained gives each seed the same responses."""
    same = graded_episodes(30, 100, dis=50)
    alone, summary = summarise([same])["acc_refine"], summarise([same] * 3)["acc_refine"]
    assert summary["values"] == [0.3] * 3
    assert (summary["low"], summary["high"]) == (alone["low"], alone["high"])
    assert format_metric(summary) == f"30.0 ({100 * alone['low']:.1f} to {100 * alone['high']:.1f})"
    assert format_metric({"mean": 0.3, "low": 0.3, "high": 0.3, "values": [0.3] * 3}) == "30.0"


@pytest.mark.parametrize("right", [0, 8])
def test_none_or_all_of_eight_leave_room(right: int) -> None:
    refine = summarise([graded_episodes(right, 8, dis=right)])["acc_refine"]
    assert (refine["low"], refine["high"]) == wilson(right, 8)
    further = summarise(
        [graded_episodes(4, 8, dis=4)], [{"pass_at_2": {str(i): right / 8 for i in range(8)}}]
    )
    assert (further["pass_at_2"]["low"], further["pass_at_2"]["high"]) == wilson(right, 8)


def test_the_quantiles_of_student_are_those_of_the_tables() -> None:
    known = {1: 12.7062, 4: 2.7764, 10: 2.2281, 11: 2.2010, 15: 2.1314, 29: 2.0452, 120: 1.9799}
    for freedom, quantile in known.items():
        values = [0.0, 1.0] * ((freedom + 1) // 2) + [0.5] * ((freedom + 1) % 2)
        found = t_interval(values)
        spread = statistics.stdev(values) / math.sqrt(len(values))
        assert (found["high"] - found["mean"]) / spread == pytest.approx(quantile, abs=1e-3)


def test_one_seed_gives_a_bootstrap_interval_over_its_problems() -> None:
    found = graded_episodes(30, 100, dis=50)
    refine = summarise([found])["acc_refine"]
    assert refine["values"] == [0.3] and refine["mean"] == 0.3
    # A share of 0.3 over 100 items has standard error sqrt(0.21 / 100) = 0.046, so 95 % is about +- 0.09.
    assert 0.05 < 0.3 - refine["low"] < 0.13 and 0.05 < refine["high"] - 0.3 < 0.13
    assert summarise([found]) == summarise([found])


def test_a_metric_that_one_seed_lacks_is_left_out_and_not_averaged_over_the_others() -> None:
    unparsed = [Episode(**{**vars(e), "verdict": "unparsed"}) for e in graded_episodes(5, 10, dis=5)]
    summary = summarise([graded_episodes(5, 10, dis=5), unparsed])
    assert "acc_dis_parsed" not in summary
    assert summary["parse_rate"]["values"] == [1.0, 0.0]
