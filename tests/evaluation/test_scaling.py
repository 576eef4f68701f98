"""Pass@K, majority votes, tokens and intervals against enumeration and arithmetic done by hand."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Sequence
from fractions import Fraction
from itertools import combinations
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from critique_rl.evaluation.episodes import Episode, read_episodes
from critique_rl.evaluation.intervals import interval, wilson
from critique_rl.evaluation.protocol import Protocol, evaluate
from critique_rl.evaluation.scaling import (
    by_round,
    chains,
    majority_at,
    majority_by_problem,
    majority_vote,
    pass_at,
    pass_at_k,
    pass_by_problem,
    powers_of_two,
    tokens_at,
)
from critique_rl.prompts import COMPACT, VERDICT_LABEL
from critique_rl.types import Conversation, Generation, Problem, Sampling, UserError


def record(
    identity: str,
    sample: int,
    answer: str,
    correct: bool | None,
    *,
    critic: bool = True,
    round: int = 0,
    tokens: int = 10,
) -> Episode:
    """A chain that ends in `answer`; with a critic the response is the opposite of the refinement."""
    reply = f"The answer is {answer}" if answer else "I do not know."
    first, first_correct = ("The answer is 99", not correct) if critic else (reply, correct)
    return Episode(
        id=identity,
        dataset="toy",
        question="?",
        answer="1",
        kind="number",
        response=first,
        response_correct=first_correct,
        critique="c" if critic else None,
        verdict="wrong" if critic else None,
        refinement=reply if critic else None,
        refinement_correct=correct if critic else None,
        tokens=tokens,
        sample=sample,
        round=round,
    )


def problem(identity: str, answers: Sequence[str], ungraded: Sequence[int] = (), **options) -> list[Episode]:
    """One chain per answer, of which "1" is right; chains in `ungraded` have no grade."""
    return [
        record(identity, i, a, None if i in ungraded else a == "1", **options) for i, a in enumerate(answers)
    ]


# --- Pass@K -------------------------------------------------------------------------------------------


def test_pass_at_k_is_the_share_of_draws_without_replacement_with_a_right_one() -> None:
    for n in range(1, 8):
        for c in range(n + 1):
            for k in range(1, n + 1):
                draws = list(combinations([True] * c + [False] * (n - c), k))
                assert pass_at_k(n, c, k) == pytest.approx(sum(map(any, draws)) / len(draws), abs=1e-15)


def test_pass_at_k_is_unbiased() -> None:
    n, p = 12, 0.3
    for k in (1, 3, 12):
        expected = sum(math.comb(n, c) * p**c * (1 - p) ** (n - c) * pass_at_k(n, c, k) for c in range(n + 1))
        assert expected == pytest.approx(1 - (1 - p) ** k, abs=1e-12)


def test_pass_at_k_is_exact_at_1024_samples() -> None:
    n = 1024
    for k in (1, 2, 511, 512, 1024):
        assert pass_at_k(n, 1, k) == k / n
        assert pass_at_k(n, 0, k) == 0.0
        assert pass_at_k(n, n, k) == 1.0
    for c in (2, 7, 500):
        missed = Fraction(1)
        for i in range(64):
            missed *= Fraction(n - c - i, n - i)
        assert pass_at_k(n, c, 64) == float(1 - missed)
    assert pass_at_k(n, 3, 1022) == 1.0 and pass_at_k(n, 3, 1021) < 1.0  # one draw in C(1024, 3) misses


@pytest.mark.parametrize(("n", "c", "k"), [(3, 4, 1), (3, -1, 1), (3, 1, 0), (3, 1, 4)])
def test_pass_at_k_refuses_what_is_no_draw(n: int, c: int, k: int) -> None:
    with pytest.raises(ValueError, match="pass_at_k needs"):
        pass_at_k(n, c, k)


def test_pass_at_is_the_mean_over_problems() -> None:
    episodes = [*problem("a", "1222"), *problem("b", "1122"), *problem("c", "2222")]
    assert pass_at(episodes, [1, 2, 4]) == pytest.approx(
        {
            1: (1 / 4 + 2 / 4 + 0) / 3,
            2: (3 / 6 + 5 / 6 + 0) / 3,  # b misses with the one pair of its two wrong chains
            4: (1 + 1 + 0) / 3,
        }
    )


def test_a_problem_with_too_few_samples_makes_k_none_and_no_other() -> None:
    episodes = [*problem("a", "1222"), *problem("b", "11")]
    for measured in (pass_at(episodes, [1, 2, 3]), majority_at(episodes, [1, 2, 3])):
        assert measured[1] is not None and measured[2] is not None and measured[3] is None
    assert tokens_at(episodes, [2, 3]) == {2: 20.0, 3: None}
    assert pass_by_problem(episodes, [3]) == {3: None}
    assert pass_at([], [1]) == {1: None}


def test_what_could_not_be_graded_is_no_score() -> None:
    episodes = [
        *problem("a", "1211", ungraded=[2]),
        *problem("b", "2222"),
        *problem("c", "11", ungraded=[0, 1]),
    ]
    episodes += [record("c", 2, "2", None), record("c", 3, "2", None)]
    # a has 2 right of 3 graded chains, c none at all.
    assert pass_by_problem(episodes, [1, 3, 4]) == {
        1: {"a": pytest.approx(2 / 3), "b": 0.0, "c": None},
        3: {"a": 1.0, "b": 0.0, "c": None},
        4: {"a": None, "b": 0.0, "c": None},  # 4 chains were drawn, but only 3 graded
    }
    assert pass_at(episodes, [1]) == {1: pytest.approx((2 / 3 + 0) / 2)}


def test_refinements_count_and_responses_where_there_is_none() -> None:
    assert pass_at(problem("a", "12"), [1]) == {1: 0.5}
    assert pass_at(problem("a", "122", critic=False), [1]) == {1: pytest.approx(1 / 3)}
    spared = record("a", 0, "1", True)  # kept by an oracle: no critique, the response as refinement
    object.__setattr__(spared, "critique", None)
    assert pass_at([spared], [1]) == {1: 1.0}


def test_the_last_round_counts_in_any_order_of_the_records() -> None:
    episodes = [
        record("a", 0, "1", True, round=0),
        record("a", 0, "2", False, round=1),
        record("a", 1, "2", False, round=0),
        record("a", 1, "1", True, round=2, tokens=7),
        record("a", 1, "2", False, round=1),
        record("a", 2, "2", False, round=0),
    ]
    for seed in range(5):
        random.Random(seed).shuffle(episodes)
        assert pass_at(episodes, [1]) == {1: pytest.approx(1 / 3)}
        # Chains cost 20, 27 and 10: two cost 2 * 57 / 3.
        assert tokens_at(episodes, [1, 2]) == {1: 19.0, 2: 38.0}
        assert [[e.round for e in chain] for chain in chains(episodes)["a"]] == [[0, 1], [0, 1, 2], [0]]


def test_records_of_two_runs_are_refused() -> None:
    with pytest.raises(UserError, match="two records of problem a, sample 1, round 0"):
        pass_at([*problem("a", "12"), record("a", 1, "1", True)], [1])


@pytest.mark.parametrize("measure", [pass_at, majority_at, tokens_at])
def test_k_below_one_is_refused(measure) -> None:
    with pytest.raises(UserError, match="at least 1"):
        measure(problem("a", "12"), [1, 0])


# --- majority votes -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answers", "correct", "expected"),
    [
        (["7", "8", "8"], [True, False, False], False),
        (["8", "7", "7"], [False, True, True], True),
        (["7", "8"], [True, False], True),  # a tie: the first
        (["8", "7"], [False, True], False),
        (["8", "7", "7", "8"], [False, True, True, False], False),
        ([None, None, "7"], [False, False, True], True),  # no answer is no vote
        (["7", "7", "8"], [None, None, True], None),  # the winner has no grade, 8 must not stand in
        (["7", "7", "8"], [None, True, False], True),  # but one of its samples may have
        ([None, None], [False, False], False),  # no answer at all is wrong
        ([None, None], [False, None], False),
        ([None, None], [None, None], None),  # the gold answer cannot be read
    ],
)
def test_majority_vote(answers: list, correct: list, expected: bool | None) -> None:
    assert majority_vote(answers, correct) is expected


def test_answers_without_a_grade_each_are_refused() -> None:
    with pytest.raises(ValueError, match="zip"):
        majority_vote(["7"], [True, False])


def test_majority_at_is_the_mean_over_blocks_then_over_problems() -> None:
    episodes = [*problem("a", "1211222"), *problem("b", "1111111")]
    # a in blocks of 2: 12 (tie, 1 first), 11, 22; of 3: 121, 122; the seventh chain is left over.
    expected = {1: (3 / 7 + 1) / 2, 2: (2 / 3 + 1) / 2, 3: (1 / 2 + 1) / 2, 7: (0 + 1) / 2, 8: None}
    random.Random(0).shuffle(episodes)  # blocks are cut in sample order, not in the order of the records
    assert majority_at(episodes, expected) == {k: v and pytest.approx(v) for k, v in expected.items()}


def test_votes_are_counted_by_value_and_not_by_spelling() -> None:
    # Right is 1 with four votes in three spellings, against three for 2.
    spelled = ["2", "2", "2", "1", "1.0", "$1$", "1"]
    assert majority_at([record("a", i, a, a != "2") for i, a in enumerate(spelled)], [7]) == {7: 1.0}


def test_a_vote_that_could_not_be_graded_is_left_out() -> None:
    episodes = [*problem("a", "113322", ungraded=[2, 3]), *problem("b", "333333", ungraded=range(6))]
    assert majority_by_problem(episodes, [2, 6]) == {
        2: {"a": 0.5, "b": None},  # 11 right, 33 without a grade, 22 wrong
        6: {"a": 1.0, "b": None},  # a tie of three, 1 first
    }
    assert majority_at(episodes, [2]) == {2: 0.5}


def test_accuracy_by_round_and_the_numbers_of_samples() -> None:
    assert powers_of_two(1) == [1] and powers_of_two(16) == [1, 2, 4, 8, 16] and powers_of_two(20)[-1] == 16
    episodes = [
        e
        for e in (
            {"id": "a", "round": 0, "refinement_correct": False},
            {"id": "a", "round": 1, "refinement_correct": True},
            {"id": "b", "round": 0, "refinement_correct": True},
            {"id": "b", "round": 1, "refinement_correct": None},
            {"id": "b", "round": 0, "refinement_correct": False},  # another sample
        )
    ]
    values = by_round([1, 2])([SimpleNamespace(**e) for e in episodes])  # type: ignore[list-item]
    assert values == {"refinement_at_1": {"a": 0.0, "b": 0.5}, "refinement_at_2": {"a": 1.0, "b": None}}


# --- the real protocol --------------------------------------------------------------------------------


class NoisyActor:
    """Answers 1 with a probability of 0.4, and of 0.7 when it refines; 10 + 3 tokens a reply."""

    name = "noisy"

    def generate(self, prompts: Sequence[Conversation], sampling: Sampling) -> list[Generation]:
        rng = random.Random(sampling.seed)
        share = [0.7 if len(p) > 1 else 0.4 for p in prompts]
        return [Generation(f"The answer is {'1' if rng.random() < s else '2'}", 10, 3, False) for s in share]


class Critic:
    name = "critic"

    def generate(self, prompts: Sequence[Conversation], sampling: Sampling) -> list[Generation]:
        return [Generation(f"{VERDICT_LABEL} Wrong", 20, 5, False) for _ in prompts]


def test_records_of_the_protocol(tmp_path: Path) -> None:
    asked = [Problem(f"p{i}", "toy", f"Say 1, {i}.", "", "1", "number") for i in range(100)]
    greedy = Sampling(8)
    ks = [1, 4, 16]
    with_critic = Protocol(COMPACT, greedy, greedy, greedy, seed=1, samples=16, rounds=2)
    evaluate(asked, NoisyActor(), Critic(), with_critic, records=tmp_path / "a.jsonl")
    episodes = read_episodes(tmp_path / "a.jsonl")
    measured = pass_at(episodes, ks)
    # 1,600 chains of which 0.7 are right: one standard error is 0.011.
    assert measured[1] == pytest.approx(0.7, abs=0.04)
    assert measured[4] == pytest.approx(1 - 0.3**4, abs=0.02)
    assert measured[16] == pytest.approx(1.0, abs=0.001)
    votes = majority_at(episodes, [1, 3])
    assert votes[1] == measured[1]
    assert votes[3] == pytest.approx(0.7**3 + 3 * 0.7**2 * 0.3, abs=0.05)
    # A response, then twice a critique and a refinement.
    assert tokens_at(episodes, ks) == {k: k * (13 + 2 * (25 + 13)) for k in ks}

    evaluate(asked, NoisyActor(), None, with_critic, records=tmp_path / "b.jsonl")
    alone = read_episodes(tmp_path / "b.jsonl")
    assert pass_at(alone, [1])[1] == pytest.approx(0.4, abs=0.04)
    assert tokens_at(alone, [16]) == {16: 16 * 13.0}


# --- intervals ----------------------------------------------------------------------------------------


def test_the_bootstrap_agrees_with_the_normal_interval_of_a_large_sample() -> None:
    values = {f"p{i}": float(i % 10 < 3) for i in range(1000)}
    found = interval(values, resamples=4000)
    assert found is not None
    half = 1.96 * math.sqrt(0.3 * 0.7 / 1000)
    assert found == pytest.approx((0.3 - half, 0.3 + half), abs=0.003)
    narrower = interval(values, resamples=4000, level=0.5)
    assert narrower is not None
    assert narrower[1] - narrower[0] == pytest.approx(2 * 0.674 * half / 1.96, abs=0.003)


def test_the_bootstrap_covers_the_true_mean_about_as_often_as_it_says() -> None:
    generator = np.random.default_rng(0)
    hits = 0
    for trial in range(300):
        drawn = generator.random(60) ** 2  # mean 1/3
        found = interval({str(i): float(v) for i, v in enumerate(drawn)}, seed=trial, resamples=300)
        assert found is not None
        hits += found[0] <= 1 / 3 <= found[1]
    assert 0.90 <= hits / 300 <= 0.98


def test_the_bootstrap_follows_its_seed_and_leaves_none_out() -> None:
    values = {f"p{i}": i / 40 for i in range(40)}
    assert interval(values, seed=3) == interval(values, seed=3) != interval(values, seed=4)
    assert interval(values | {"q": None}, seed=3) == interval(values, seed=3)
    assert interval({"p": 0.25, "q": 0.25}) == (0.25, 0.25)
    assert interval({"p": None}) is None and interval({}) is None


def test_the_bootstrap_is_instant_at_the_size_of_a_benchmark() -> None:
    values = {f"p{i}": float(i % 2) for i in range(1000)}
    started = time.process_time()
    interval(values, resamples=200)
    assert time.process_time() - started < 0.5


@pytest.mark.parametrize(
    ("successes", "n", "expected"),
    [  # Newcombe, Statistics in Medicine 17 (1998), table I, method 3
        (81, 263, (0.2553, 0.3662)),
        (15, 148, (0.0624, 0.1605)),
        (0, 20, (0.0, 0.1611)),
        (1, 29, (0.0061, 0.1718)),
    ],
)
def test_wilson_reproduces_published_intervals(successes: int, n: int, expected: tuple[float, float]) -> None:
    assert wilson(successes, n) == pytest.approx(expected, abs=5e-5)
    mirrored = wilson(n - successes, n)
    assert mirrored == pytest.approx((1 - expected[1], 1 - expected[0]), abs=5e-5)


def test_wilson_of_nothing_is_none_and_of_nonsense_refused() -> None:
    assert wilson(0, 0) is None
    with pytest.raises(ValueError, match="successes=3, n=2"):
        wilson(3, 2)
