"""What more samples buy: Pass@K and majority votes on evaluation records, their cost in tokens, intervals.

A chain is one sample of a problem; its last round counts, by its refinement, or by its response where there was
no critic. Values are kept by problem, so that intervals are over problems: chains of one problem are alike.

Grades of None: Pass@K leaves the chain out, and a problem with fewer than K graded chains out of that K. In a
majority vote an answer that could not be graded still votes; a vote that it wins is left out. A K for which some
problem has fewer than K chains is None as a whole.
"""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TypeVar

from critique_rl.evaluation.episodes import Episode
from critique_rl.grading import extract_answer
from critique_rl.types import UserError

Sample = TypeVar("Sample")
ByProblem = dict[int, dict[str, float | None] | None]
"""For each K the value of each problem by identity; None as in the module's docstring."""


def chains(episodes: Iterable[Episode]) -> dict[str, list[list[Episode]]]:
    """The episodes of each problem: one list per sample, in sample order, that holds its rounds in order.

    Raises:
        UserError: Two records have the same problem, sample and round.
    """
    found: dict[str, dict[int, dict[int, Episode]]] = {}
    for e in episodes:
        rounds = found.setdefault(e.id, {}).setdefault(e.sample, {})
        if e.round in rounds:
            raise UserError(
                f"there are two records of problem {e.id}, sample {e.sample}, round {e.round}: give the "
                "records of one evaluation, not of several seeds together."
            )
        rounds[e.round] = e
    return {
        identity: [[rounds[r] for r in sorted(rounds)] for _, rounds in sorted(samples.items())]
        for identity, samples in found.items()
    }


def outcome(episode: Episode) -> tuple[str, bool | None]:
    """The last reply of an episode and its grade: the refinement, or the response if there is none."""
    if episode.refinement is None:
        return episode.response, episode.response_correct
    return episode.refinement, episode.refinement_correct


def pass_at_k(n: int, c: int, k: int) -> float:
    """Unbiased estimate of the probability that one of k samples is right: 1 - C(n-c, k) / C(n, k).

    Source: arXiv 2107.03374, section 2.1. In whole numbers up to one division, so exact to the last bit of a
    float for any n, where a product of ratios rounds and factorials overflow.

    Args:
        n: Samples drawn.
        c: Right ones among them.
        k: Samples allowed, at most n.

    Raises:
        ValueError: Not 0 <= c <= n, or not 1 <= k <= n.

    >>> pass_at_k(4, 1, 2)
    0.5
    """
    if not 0 <= c <= n or not 1 <= k <= n:
        raise ValueError(f"pass_at_k needs 0 <= c <= n and 1 <= k <= n, got n={n}, c={c}, k={k}")
    return (math.comb(n, k) - math.comb(n - c, k)) / math.comb(n, k)


def pass_by_problem(episodes: Iterable[Episode], ks: Iterable[int]) -> ByProblem:
    """Estimate of Pass@K for each problem, from all its graded chains."""

    def estimate(grades: Sequence[bool | None], k: int) -> float | None:
        n = sum(grade is not None for grade in grades)
        return pass_at_k(n, sum(grade is True for grade in grades), k) if n >= k else None

    grades = {i: [outcome(c[-1])[1] for c in samples] for i, samples in chains(episodes).items()}
    return _by_problem(grades, ks, estimate)


def pass_at(episodes: Iterable[Episode], ks: Iterable[int]) -> dict[int, float | None]:
    """Pass@K over problems: the mean of `pass_by_problem`."""
    return _means(pass_by_problem(episodes, ks))


def majority_vote(answers: Sequence[str | None], correct: Sequence[bool | None]) -> bool | None:
    """Whether the most frequent answer is right; of equally frequent ones the first to occur.

    Args:
        answers: One answer per sample, in one spelling per value; None casts no vote.
        correct: Grade of each sample.

    Returns:
        The grade of the first graded sample with the winning answer, None if no such sample was graded.
        Without any vote False, as a reply without an answer is wrong, but None if no sample was graded.

    >>> majority_vote(["7", "8", "8", None], [True, False, False, False])
    False
    """
    pairs = list(zip(answers, correct, strict=True))
    votes = Counter(answer for answer in answers if answer is not None)
    if not votes:
        return None if all(grade is None for grade in correct) else False
    winner = votes.most_common(1)[0][0]  # Counter keeps equal counts in the order of first occurrence
    return next((grade for answer, grade in pairs if answer == winner and grade is not None), None)


def majority_by_problem(episodes: Iterable[Episode], ks: Iterable[int]) -> ByProblem:
    """Majority accuracy at K for each problem: the mean over its floor(n / K) disjoint blocks of K chains.

    Blocks are cut in sample order. One vote over the first K alone would waste the other samples.
    """

    def blocks(votes: Sequence[tuple[str | None, bool | None]], k: int) -> float | None:
        won = []
        for start in range(0, len(votes) - k + 1, k):
            answers, correct = zip(*votes[start : start + k], strict=True)
            won.append(majority_vote(answers, correct))
        decided = [w for w in won if w is not None]
        return statistics.fmean(decided) if decided else None

    votes = {
        i: [(extract_answer(outcome(c[-1])[0], c[-1].kind), outcome(c[-1])[1]) for c in samples]
        for i, samples in chains(episodes).items()
    }
    return _by_problem(votes, ks, blocks)


def majority_at(episodes: Iterable[Episode], ks: Iterable[int]) -> dict[int, float | None]:
    """Majority accuracy at K over problems: the mean of `majority_by_problem`."""
    return _means(majority_by_problem(episodes, ks))


def tokens_at(episodes: Iterable[Episode], ks: Iterable[int]) -> dict[int, float | None]:
    """Tokens that K chains of a problem cost: K times the mean of its chains, then the mean over problems.

    All rounds of a chain count, and chains that could not be graded, for they were paid for as well.
    """
    spent = {
        i: [sum(e.tokens for e in chain) for chain in samples] for i, samples in chains(episodes).items()
    }
    return _means(_by_problem(spent, ks, lambda tokens, k: k * statistics.fmean(tokens)))


def _by_problem(
    samples: Mapping[str, Sequence[Sample]],
    ks: Iterable[int],
    value: Callable[[Sequence[Sample], int], float | None],
) -> ByProblem:
    fewest = min(map(len, samples.values()), default=0)
    wanted = list(ks)
    if any(k < 1 for k in wanted):
        raise UserError(f"each K must be at least 1, got {wanted}.")
    return {k: {i: value(s, k) for i, s in samples.items()} if k <= fewest else None for k in wanted}


def _means(values: ByProblem) -> dict[int, float | None]:
    means: dict[int, float | None] = {}
    for k, by_problem in values.items():
        known = [v for v in (by_problem or {}).values() if v is not None]
        means[k] = statistics.fmean(known) if known else None
    return means
