"""Gains from more samples and rounds on evaluation records: Pass@K, majority votes, accuracy by round, tokens.

A chain is one sample of a problem. Its last round counts: the refinement, or the response if there was no critic.
Values are kept by problem, so that intervals are over problems: the chains of one problem are not independent.

Replies without a grade (None): Pass@K leaves the chain out, and a problem with fewer than K graded chains out of
that K. In a majority vote an ungraded answer still votes; a vote that it wins is left out. If some problem has
fewer than K chains, the value at K is None.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from statistics import fmean
from typing import TypeVar

from critique_rl.evaluation.episodes import Episode
from critique_rl.evaluation.intervals import ByProblem
from critique_rl.grading import extract_answer
from critique_rl.types import UserError

Sample = TypeVar("Sample")
ByK = dict[int, dict[str, float | None] | None]
"""For each K the value of each problem by identity; None as in the module's docstring."""

Measure = Callable[[Sequence[Episode]], ByProblem]
"""Computes further metrics of a row: by name, the value of each problem."""


def powers_of_two(most: int) -> list[int]:
    """1, 2, 4, ... up to `most`."""
    return [2**i for i in range(most.bit_length()) if 2**i <= most]


def chains(episodes: Iterable[Episode]) -> dict[str, list[list[Episode]]]:
    """The episodes of each problem: a list of chains in sample order, each a list of its rounds in order.

    Raises:
        UserError: Two records have the same problem, sample and round.
    """
    problems: dict[str, dict[int, dict[int, Episode]]] = {}
    for e in episodes:
        rounds = problems.setdefault(e.id, {}).setdefault(e.sample, {})
        if e.round in rounds:
            raise UserError(
                f"there are two records of problem {e.id}, sample {e.sample}, round {e.round}: give the "
                "records of one evaluation, not of several seeds together."
            )
        rounds[e.round] = e
    return {
        identity: [[rounds[r] for r in sorted(rounds)] for _, rounds in sorted(samples.items())]
        for identity, samples in problems.items()
    }


def outcome(episode: Episode) -> tuple[str, bool | None]:
    """The last reply of an episode and its grade: the refinement, or the response if there is none."""
    if episode.refinement is None:
        return episode.response, episode.response_correct
    return episode.refinement, episode.refinement_correct


def pass_at_k(n: int, c: int, k: int) -> float:
    """Unbiased estimate of the probability that one of k samples is right: 1 - C(n-c, k) / C(n, k).

    Source: arXiv 2107.03374, section 2.1. Computed in whole numbers up to one division, so exact to the last bit
    of a float for any n; a product of ratios would round, and factorials would overflow.

    Args:
        n: Samples drawn.
        c: Right samples among them.
        k: Samples allowed, at most n.

    Raises:
        ValueError: 0 <= c <= n or 1 <= k <= n does not hold.

    >>> pass_at_k(4, 1, 2)
    0.5
    """
    if not 0 <= c <= n or not 1 <= k <= n:
        raise ValueError(f"pass_at_k needs 0 <= c <= n and 1 <= k <= n, got n={n}, c={c}, k={k}")
    return (math.comb(n, k) - math.comb(n - c, k)) / math.comb(n, k)


def pass_of_grades(grades: Sequence[bool | None], k: int) -> float | None:
    """Pass@K of one problem from the grades of its samples; None if fewer than k samples were graded."""
    known = [grade for grade in grades if grade is not None]
    return pass_at_k(len(known), sum(known), k) if len(known) >= k else None


def pass_by_problem(episodes: Iterable[Episode], ks: Iterable[int]) -> ByK:
    """Estimate of Pass@K for each problem, from all its graded chains."""
    grades = {i: [outcome(c[-1])[1] for c in samples] for i, samples in chains(episodes).items()}
    return _by_problem(grades, ks, pass_of_grades)


def pass_at(episodes: Iterable[Episode], ks: Iterable[int]) -> dict[int, float | None]:
    """Pass@K over problems: the mean of `pass_by_problem`."""
    return _means_by_k(pass_by_problem(episodes, ks))


def passing(ks: Sequence[int]) -> Measure:
    """Metric `pass_at_K`: any of K chains is right, see `pass_by_problem`."""
    return lambda episodes: _named("pass_at", pass_by_problem(episodes, ks))


def majority_vote(answers: Sequence[str | None], correct: Sequence[bool | None]) -> bool | None:
    """Whether the most frequent answer is right; among equally frequent answers the first to occur wins.

    Args:
        answers: One answer per sample, in one spelling per value; None casts no vote.
        correct: Grade of each sample.

    Returns:
        The grade of the first graded sample with the winning answer, None if no such sample was graded. Without
        any vote False, since a reply without an answer is wrong, or None if no sample was graded.

    >>> majority_vote(["7", "8", "8", None], [True, False, False, False])
    False
    """
    pairs = list(zip(answers, correct, strict=True))
    votes = Counter(answer for answer in answers if answer is not None)
    if not votes:
        return None if all(grade is None for grade in correct) else False
    winner = votes.most_common(1)[0][0]  # Counter keeps equal counts in the order of first occurrence
    return next((grade for answer, grade in pairs if answer == winner and grade is not None), None)


def majority_of_blocks(votes: Sequence[tuple[str | None, bool | None]], k: int) -> float | None:
    """Mean of `majority_vote` over the whole blocks of k neighbours; a vote is an answer and its grade."""
    blocks = (votes[start : start + k] for start in range(0, len(votes) - k + 1, k))
    return mean_of_known(majority_vote(*zip(*block, strict=True)) for block in blocks)


def majority_by_problem(episodes: Iterable[Episode], ks: Iterable[int]) -> ByK:
    """Majority accuracy at K for each problem: the mean over its floor(n / K) disjoint blocks of K chains.

    Blocks are cut in sample order. A single vote over the first K would waste the other samples.
    """
    votes = {
        i: [(extract_answer(outcome(c[-1])[0], c[-1].kind), outcome(c[-1])[1]) for c in samples]
        for i, samples in chains(episodes).items()
    }
    return _by_problem(votes, ks, majority_of_blocks)


def majority_at(episodes: Iterable[Episode], ks: Iterable[int]) -> dict[int, float | None]:
    """Majority accuracy at K over problems: the mean of `majority_by_problem`."""
    return _means_by_k(majority_by_problem(episodes, ks))


def majority(ks: Sequence[int]) -> Measure:
    """Metric `majority_at_K`: majority vote over K chains, see `majority_by_problem`."""
    return lambda episodes: _named("majority_at", majority_by_problem(episodes, ks))


def by_round(rounds: Sequence[int]) -> Measure:
    """Metric `refinement_at_R`: share of right refinements in round R, counted from 1."""
    return lambda episodes: {
        f"refinement_at_{number}": means_by_problem(
            (e.id, e.refinement_correct) for e in episodes if e.round == number - 1
        )
        for number in rounds
    }


def tokens_at(episodes: Iterable[Episode], ks: Iterable[int]) -> dict[int, float | None]:
    """Tokens that K chains of a problem cost: K times the mean of its chains, then the mean over problems.

    All rounds of a chain count, and so do chains that could not be graded: their tokens were paid for as well.
    Unknown counts are 0.
    """
    spent = {
        i: [sum(e.tokens or 0 for e in chain) for chain in samples] for i, samples in chains(episodes).items()
    }
    return _means_by_k(_by_problem(spent, ks, lambda tokens, k: k * fmean(tokens)))


def mean_of_known(values: Iterable[float | None]) -> float | None:
    """Mean of the values that are not None; None if there is none."""
    known = [value for value in values if value is not None]
    return fmean(known) if known else None


def means_by_problem(values: Iterable[tuple[str, float | None]]) -> dict[str, float | None]:
    """Mean of each problem over its samples, from pairs of identity and value; None where no value is known."""
    samples: dict[str, list[float | None]] = {}
    for identity, value in values:
        samples.setdefault(identity, []).append(value)
    return {identity: mean_of_known(column) for identity, column in samples.items()}


def _named(metric: str, values: ByK) -> dict[str, dict[str, float | None]]:
    return {f"{metric}_{k}": by_problem or {} for k, by_problem in values.items()}


def _by_problem(
    samples: Mapping[str, Sequence[Sample]],
    ks: Iterable[int],
    value: Callable[[Sequence[Sample], int], float | None],
) -> ByK:
    fewest = min(map(len, samples.values()), default=0)
    wanted = list(ks)
    if any(k < 1 for k in wanted):
        raise UserError(f"each K must be at least 1, got {wanted}.")
    return {k: {i: value(s, k) for i, s in samples.items()} if k <= fewest else None for k in wanted}


def _means_by_k(values: ByK) -> dict[int, float | None]:
    return {k: mean_of_known((by_problem or {}).values()) for k, by_problem in values.items()}
