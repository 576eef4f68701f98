"""Pools from an evaluation, the baselines that choose from them, and what is measured of them and of judges."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args

from critique_rl.evaluation.episodes import Episode
from critique_rl.evaluation.intervals import interval, wilson
from critique_rl.evaluation.scaling import (
    ByK,
    chains,
    majority_vote,
    mean_of_known,
    outcome,
    pass_at_k,
    powers_of_two,
)
from critique_rl.self_critique.knockout import Bracket, How, Item, Judgement, check_identities, shuffled
from critique_rl.types import GradedKind, UserError, child_seed


def items_of(episodes: Iterable[Episode]) -> list[Item]:
    """The pools of an evaluation with several samples: the last reply of each chain is a candidate.

    The payload of an item is the image that its problem is about, None without one.

    Raises:
        UserError: Two records have the same problem, sample and round.
    """
    items = []
    for identity, samples in chains(episodes).items():
        last = [chain[-1] for chain in samples]
        texts, grades = zip(*map(outcome, last), strict=True)
        items.append(Item(identity, last[0].question, texts, grades, last[0].kind, last[0].image))
    return items


def blocks(order: Sequence[int], n: int) -> list[Sequence[int]]:
    """Whole blocks of n neighbours: disjoint sub-samples of a shuffled pool.

    >>> blocks((3, 0, 2, 1, 4), 2)
    [(3, 0), (2, 1)]
    """
    return [order[start : start + n] for start in range(0, len(order) - n + 1, n)]


def single(item: Item, n: int, *, seed: int) -> float | None:
    """Mean accuracy of a single sample, pass@1: over the whole pool, whatever n is."""
    return passing(item, 1, seed=seed)


def majority(item: Item, n: int, *, seed: int) -> float | None:
    """Majority vote of n candidates over normalised answers; a tie goes to the first in bracket order."""
    return _mean_grade(
        majority_vote([item.answers[i] for i in block], [item.correct[i] for i in block])
        for block in blocks(shuffled(item.id, len(item.candidates), seed=seed), n)
    )


def random_pick(item: Item, n: int, *, seed: int) -> float | None:
    """One of n candidates, by seed."""
    cut = blocks(shuffled(item.id, len(item.candidates), seed=seed), n)
    return _mean_grade(
        item.correct[block[child_seed(seed, "random", item.id, n, place) % n]]
        for place, block in enumerate(cut)
    )


def passing(item: Item, n: int, *, seed: int) -> float | None:
    """Oracle, pass@n: whether any of n candidates is right, see `scaling.pass_at_k`.

    Over all sub-samples of the graded pool and not the blocks alone, so that below the whole pool a selector can
    be above it by chance. The seed changes nothing.
    """
    grades = [grade for grade in item.correct if grade is not None]
    return pass_at_k(len(grades), sum(grades), n) if len(grades) >= n else None


BASELINES: dict[str, Callable[..., float | None]] = {
    "single": single,
    "majority": majority,
    "random": random_pick,
    "pass": passing,
}


def chosen(item: Item, bracket: Bracket, n: int) -> float | None:
    """Accuracy of what a knock-out among n candidates finds."""
    return _mean_grade(item.correct[i] for i in bracket.choices(n))


def _mean_grade(grades: Iterable[bool | None]) -> float | None:
    known = [grade for grade in grades if grade is not None]
    return statistics.fmean(known) if known else None


@dataclass(frozen=True)
class Estimate:
    """A mean with its 95 % interval; None where there is nothing to average.

    Attributes:
        mean: The mean.
        low: Lower end of the interval.
        high: Upper end.
    """

    mean: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Point:
    """One method at one n.

    Attributes:
        method: A name of `BASELINES`, or of a judge.
        n: Candidates it chooses from.
        accuracy: Over items.
        items: Items with a value.
        calls: Judgements for one choice, re-asks included, as a mean over items; 0 for a baseline.
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
) -> dict[str, ByK]:
    """Accuracy of each method at each n, kept by item: baselines, then judges.

    Args:
        items: Graded pools.
        brackets: Of these items, by name of the judge; each made with `seed`.
        seed: Seed of the tournaments; it cuts the blocks and draws the random picks.
        ns: Powers of two; by default all up to the smallest pool.

    Raises:
        UserError: There are no items, two share an identity, one lacks grades or cannot be voted on, an n is no
            power of two or above the smallest pool, a judge has the name of a baseline, or brackets are not
            those of these items and this seed.
    """
    _check_pools(items)
    wanted = _check_ns(items, ns)
    values: dict[str, ByK] = {
        name: {n: {item.id: value(item, n, seed=seed) for item in items} for n in wanted}
        for name, value in BASELINES.items()
    }
    for name, of in brackets.items():
        if name in BASELINES:
            raise UserError(f"a judge is called {name!r} as a baseline is: give it another name.")
        pairs = _paired(items, of, name, seed)
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
        for n, of in values.items():
            known = of or {}
            calls, tokens = _cost(brackets.get(method, ()), n)
            count = sum(v is not None for v in known.values())
            points.append(Point(method, n, estimate(known, seed=seed), count, calls, tokens))
    return points


def estimate(values: Mapping[str, float | None], *, seed: int) -> Estimate:
    """Mean over items and its percentile bootstrap, see `scaling.interval`; None is left out."""
    known = [v for v in values.values() if v is not None]
    low, high = interval(values, seed=seed) or (None, None)
    return Estimate(statistics.fmean(known) if known else None, low, high)


def difference(values: Mapping[str, ByK], method: str, other: str, n: int, *, seed: int) -> Estimate:
    """By how much a method is better than another at n: over the items in which both have a value, in pairs.

    Args:
        values: From `by_item`.
        method: The one that is counted as positive.
        other: What it is compared with.
        n: Candidates.
        seed: Seed of the bootstrap.
    """
    a, b = values[method][n] or {}, values[other][n] or {}
    gains: dict[str, float | None] = {}
    for identity, x in a.items():
        y = b.get(identity)
        gains[identity] = None if x is None or y is None else x - y
    return estimate(gains, seed=seed)


def metrics_by_item(values: Mapping[str, ByK]) -> dict[str, dict[str, float | None]]:
    """What `by_item` gives, by metric `METHOD_at_N`, as `report.summarise` takes further metrics."""
    return {f"{method}_at_{n}": dict(of or {}) for method, ns in values.items() for n, of in ns.items()}


def judge_summary(items: Sequence[Item], brackets: Sequence[Bracket]) -> dict[str, Any]:
    """How a judge behaved, from all its judgements; shares have Wilson's 95 % intervals.

    Returns:
        `calls`, `reasks` and `tokens`, counts; `unparsed`, share of judgements; `said_first`, share of parsed
        judgements that name the text that is shown first; `agreement`, of the pairs that were read in both
        orders, where these are asked; `accuracy`, share of parsed judgements of one right and one wrong
        candidate that name the right one; `decided`, the number of matches by `How`.
    """
    graded = {item.id: item.correct for item in items if item.correct}
    matches = [m for bracket in brackets for m in bracket.matches]
    made = [j for m in matches for j in m.judgements]
    read = [j for j in made if j.label is not None]
    said = [_picks_right(graded[j.item], j) for j in read if j.item in graded]
    tested = [right for right in said if right is not None]
    hows = Counter(m.how for m in matches)
    both = [m for m in matches if m.how in (How.AGREEMENT, How.COIN) and all(j.label for j in m.judgements)]
    return {
        "calls": sum(b.calls for b in brackets),
        "reasks": sum(b.reasks for b in brackets),
        "tokens": sum(j.tokens for j in made),
        "unparsed": _share(len(made) - len(read), len(made)),
        "said_first": _share(sum(j.label == 1 for j in read), len(read)),
        "agreement": _share(sum(m.how is How.AGREEMENT for m in both), len(both)),
        "accuracy": _share(sum(tested), len(tested)),
        "decided": {how.value: hows[how] for how in How},
    }


def _picks_right(correct: Sequence[bool | None], judgement: Judgement) -> bool | None:
    """Whether a judgement of a right and a wrong candidate names the right one; None for other pairs."""
    if {correct[judgement.first], correct[judgement.second]} != {True, False} or judgement.winner is None:
        return None
    return correct[judgement.winner]


def _share(successes: int, n: int) -> Estimate:
    low, high = wilson(successes, n) or (None, None)
    return Estimate(successes / n if n else None, low, high)


def _cost(brackets: Sequence[Bracket], n: int) -> tuple[float, float]:
    """Judgements and tokens of one choice among n, as means over items."""
    calls, tokens = [0.0], [0.0]
    if brackets:
        made = [(b.judgements(n), len(b.order) // n) for b in brackets]
        calls = [len(judged) / cut for judged, cut in made]
        tokens = [sum(j.tokens for j in judged) / cut for judged, cut in made]
    return statistics.fmean(calls), statistics.fmean(tokens)


def _check_pools(items: Sequence[Item]) -> None:
    if not items:
        raise UserError("there are no items to measure.")
    check_identities(items)
    for item in items:
        if not item.correct:
            raise UserError(f"item {item.id!r} has no grades: grade its candidates first.")
        if item.kind not in get_args(GradedKind):
            raise UserError(
                f"item {item.id!r} is of kind {item.kind!r}, which has no right answers to measure by: give one "
                f"of {', '.join(get_args(GradedKind))}."
            )


def _check_ns(items: Sequence[Item], ns: Sequence[int] | None) -> list[int]:
    smallest = min(items, key=lambda item: len(item.candidates))
    possible = powers_of_two(len(smallest.candidates))
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
    found = {bracket.item: bracket for bracket in brackets}
    for item in items:
        order = shuffled(item.id, len(item.candidates), seed=seed)
        if item.id not in found or found[item.id].order != order:
            raise UserError(
                f"the brackets of {name!r} have none of item {item.id!r} with seed {seed} and "
                f"{len(order)} candidates: measure the items and the seed that it judged."
            )
    return [(item, found[item.id]) for item in items]
