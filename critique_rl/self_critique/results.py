"""Pools from an evaluation, baselines that choose from them, accuracies of both and of judges."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any, get_args

import critique_rl.evaluation.scaling as scaling
from critique_rl.evaluation.episodes import Episode
from critique_rl.evaluation.intervals import interval, share
from critique_rl.self_critique.knockout import Bracket, How, Item, check_identities, shuffled
from critique_rl.types import GradedKind, UserError, child_seed


def items_of(episodes: Iterable[Episode]) -> list[Item]:
    """Pools of an evaluation with several samples: the last reply of each chain is a candidate.

    The payload of an item is the image of its problem, None without an image; errors as of `scaling.chains`.
    """
    items = []
    for identity, samples in scaling.chains(episodes).items():
        last = [chain[-1] for chain in samples]
        texts, grades = zip(*map(scaling.outcome, last), strict=True)
        items.append(Item(identity, last[0].question, texts, grades, last[0].kind, last[0].image))
    return items


def blocks(order: Sequence[int], n: int) -> list[Sequence[int]]:
    """Whole blocks of n neighbours: disjoint sub-samples of a shuffled pool.

    >>> blocks((3, 0, 2, 1, 4), 2)
    [(3, 0), (2, 1)]
    """
    return [order[start : start + n] for start in range(0, len(order) - n + 1, n)]


def single(item: Item, n: int, *, seed: int) -> float | None:
    """Mean accuracy of a single sample, pass@1, over the whole pool; n changes nothing."""
    return passing(item, 1, seed=seed)


def majority(item: Item, n: int, *, seed: int) -> float | None:
    """Majority vote of n candidates over normalised answers; a tie goes to the first in bracket order."""
    order = shuffled(item.id, len(item.candidates), seed=seed)
    return scaling.majority_of_blocks([(item.answers[i], item.correct[i]) for i in order], n)


def random_pick(item: Item, n: int, *, seed: int) -> float | None:
    """One of n candidates, by seed."""
    return scaling.mean_of_known(
        item.correct[block[child_seed(seed, "random", item.id, n, place) % n]]
        for place, block in enumerate(blocks(shuffled(item.id, len(item.candidates), seed=seed), n))
    )


def passing(item: Item, n: int, *, seed: int) -> float | None:
    """Oracle, pass@n: whether any of n candidates is right, see `scaling.pass_at_k`.

    The value is over all sub-samples of the graded pool, not only over the blocks, so below the whole pool a
    selector can be above it by chance. The seed changes nothing.
    """
    return scaling.pass_of_grades(item.correct, n)


BASELINES: dict[str, Callable[..., float | None]] = {
    "single": single,
    "majority": majority,
    "random": random_pick,
    "pass": passing,
}


def chosen(item: Item, bracket: Bracket, n: int) -> float | None:
    """Accuracy of the winners of knock-outs among n candidates."""
    return scaling.mean_of_known(item.correct[i] for i in bracket.choices(n))


@dataclass(frozen=True)
class Estimate:
    """A mean with its 95 % interval; None without values.

    Attributes:
        mean: The mean.
        low: Lower end of the interval.
        high: Upper end of the interval.
    """

    mean: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Point:
    """One method at one n.

    Attributes:
        method: A name of `BASELINES`, or of a judge.
        n: Number of candidates to choose from.
        accuracy: Mean over items.
        items: Number of items with a value.
        calls: Judgements for one choice with re-asks, as a mean over items; 0 for a baseline.
        tokens: Tokens of these judgements.
    """

    method: str
    n: int
    accuracy: Estimate
    items: int
    calls: float
    tokens: float


def by_item(
    items: Sequence[Item],
    brackets: Mapping[str, Sequence[Bracket]],
    *,
    seed: int,
    ns: Sequence[int] | None = None,
) -> dict[str, scaling.ByK]:
    """Accuracy of each method at each n, kept by item: baselines, then judges.

    Args:
        items: Graded pools.
        brackets: Brackets of these items by name of the judge, with the same seed.
        seed: Seed of the tournaments; it cuts the blocks and draws the random picks.
        ns: Powers of two; by default all up to the smallest pool.

    Raises:
        UserError: There are no items, two items share an identity, an item has no grades or cannot be voted on,
            an n is no power of two or above the smallest pool, a judge has the name of a baseline, or brackets
            belong to other items or another seed.
    """
    _check_pools(items)
    wanted = _check_ns(items, ns)
    values: dict[str, scaling.ByK] = {
        name: {n: {item.id: value(item, n, seed=seed) for item in items} for n in wanted}
        for name, value in BASELINES.items()
    }
    for name, judged in brackets.items():
        if name in BASELINES:
            raise UserError(f"a judge has the name of the baseline {name!r}: give it another name.")
        pairs = _paired(items, judged, name, seed)
        values[name] = {n: {item.id: chosen(item, b, n) for item, b in pairs} for n in wanted}
    return values


def curve(
    items: Sequence[Item],
    brackets: Mapping[str, Sequence[Bracket]],
    *,
    seed: int,
    ns: Sequence[int] | None = None,
) -> list[Point]:
    """Mean of `by_item` over items, its bootstrap interval and its cost; same arguments and errors."""
    points = []
    for method, values in by_item(items, brackets, seed=seed, ns=ns).items():
        for n, by_problem in values.items():
            accuracies = by_problem or {}
            calls, tokens = _cost(brackets.get(method, ()), n)
            count = sum(v is not None for v in accuracies.values())
            points.append(Point(method, n, estimate(accuracies, seed=seed), count, calls, tokens))
    return points


def estimate(values: Mapping[str, float | None], *, seed: int) -> Estimate:
    """Mean over items with its percentile bootstrap, see `intervals.interval`; None is left out."""
    low, high = interval(values, seed=seed) or (None, None)
    return Estimate(scaling.mean_of_known(values.values()), low, high)


def difference(values: Mapping[str, scaling.ByK], method: str, other: str, n: int, *, seed: int) -> Estimate:
    """Accuracy of `method` minus that of `other` at n, with a bootstrap interval by seed.

    `values` is the result of `by_item`. Methods are paired by item; items without both values are left out.
    """
    others = values[other][n] or {}
    gains: dict[str, float | None] = {}
    for identity, x in (values[method][n] or {}).items():
        y = others.get(identity)
        gains[identity] = None if x is None or y is None else x - y
    return estimate(gains, seed=seed)


def metrics_by_item(values: Mapping[str, scaling.ByK]) -> dict[str, dict[str, float | None]]:
    """Result of `by_item` by metric `METHOD_at_N`, in the shape of the further metrics of `summarise`."""
    return {f"{method}_at_{n}": dict(v or {}) for method, by_n in values.items() for n, v in by_n.items()}


def judge_summary(items: Sequence[Item], brackets: Sequence[Bracket]) -> dict[str, Any]:
    """Behaviour of a judge over all its judgements; shares have Wilson's 95 % intervals.

    Returns:
        `calls`, `reasks` and `tokens`: counts; `unparsed`: share of judgements; `said_first`: share of parsed
        judgements that name the text shown first; `agreement`: share of the pairs that were judged and read in
        both orders; `accuracy`: share of parsed judgements of one right and one wrong candidate that name the
        right one; `decided`: number of matches by `How`.
    """
    graded = {item.id: item.correct for item in items if item.correct}
    matches = [m for bracket in brackets for m in bracket.matches]
    judgements = [j for m in matches for j in m.judgements]
    read = [j for j in judgements if j.label is not None]
    tested = [
        graded[j.item][j.winner] is True
        for j in read
        if j.item in graded and j.winner is not None
        if {graded[j.item][j.first], graded[j.item][j.second]} == {True, False}
    ]
    hows = Counter(m.how for m in matches)
    both = [m for m in matches if m.how in (How.AGREEMENT, How.COIN) and all(j.label for j in m.judgements)]
    return {
        "calls": sum(b.calls for b in brackets),
        "reasks": sum(b.reasks for b in brackets),
        "tokens": sum(j.tokens or 0 for j in judgements),
        "unparsed": _share(len(judgements) - len(read), len(judgements)),
        "said_first": _share(sum(j.label == 1 for j in read), len(read)),
        "agreement": _share(sum(m.how is How.AGREEMENT for m in both), len(both)),
        "accuracy": _share(sum(tested), len(tested)),
        "decided": {how.value: hows[how] for how in How},
    }


def _share(successes: int, n: int) -> Estimate:
    return Estimate(**share(successes, n))


def _cost(brackets: Sequence[Bracket], n: int) -> tuple[float, float]:
    """Judgements and tokens of one choice among n, as means over items."""
    if not brackets:
        return 0.0, 0.0
    judged = [(b.judgements(n), len(b.order) // n) for b in brackets]
    calls = fmean(len(judgements) / choices for judgements, choices in judged)
    return calls, fmean(sum(j.tokens or 0 for j in judgements) / choices for judgements, choices in judged)


def _check_pools(items: Sequence[Item]) -> None:
    if not items:
        raise UserError("there are no items to measure.")
    check_identities(items)
    for item in items:
        if not item.correct:
            raise UserError(f"item {item.id!r} has no grades: grade its candidates first.")
        if item.kind not in get_args(GradedKind):
            raise UserError(
                f"item {item.id!r} is of kind {item.kind!r}, which has no right answers: give one of "
                f"{', '.join(get_args(GradedKind))}."
            )


def _check_ns(items: Sequence[Item], ns: Sequence[int] | None) -> list[int]:
    smallest = min(items, key=lambda item: len(item.candidates))
    possible = scaling.powers_of_two(len(smallest.candidates))
    for n in ns or ():
        if n not in possible:
            raise UserError(
                f"n={n} cannot be measured: it must be a power of two, and item {smallest.id!r} has "
                f"{len(smallest.candidates)} candidates."
            )
    return possible if ns is None else list(ns)


def _paired(
    items: Sequence[Item], brackets: Sequence[Bracket], name: str, seed: int
) -> list[tuple[Item, Bracket]]:
    by_item = {bracket.item: bracket for bracket in brackets}
    for item in items:
        order = shuffled(item.id, len(item.candidates), seed=seed)
        if item.id not in by_item or by_item[item.id].order != order:
            raise UserError(
                f"the brackets of {name!r} have none of item {item.id!r} with seed {seed} and "
                f"{len(order)} candidates: measure the items and the seed of its judgements."
            )
    return [(item, by_item[item.id]) for item in items]
