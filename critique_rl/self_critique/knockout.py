"""The knock-out: candidates of an item meet in pairs, round by round, until one is left.

Pairing, byes and what is done about a judgement that cannot be read are our choices, see the package.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property, lru_cache
from typing import Any, Literal

from critique_rl.evaluation.scaling import powers_of_two
from critique_rl.grading import extract_answer
from critique_rl.types import UserError, child_seed

Order = Literal["forward", "swapped"]
ORDERS: tuple[Order, ...] = ("forward", "swapped")


@dataclass(frozen=True)
class Item:
    """One question with its pool of candidates.

    Attributes:
        id: Identity; it seeds shuffle and coins, so two items never share one. Where one question is asked of
            several images, or other payloads, `types.problem_id` of the question alone will not do.
        question: What was asked.
        candidates: Full responses.
        correct: Grade of each, None where it could not be graded; empty if only a winner is wanted.
        kind: How answers are graded, see `critique_rl.grading.grade`.
        payload: Whatever else the judge must see, an image for instance; passed on as it is, never read here.
    """

    id: str
    question: str
    candidates: tuple[str, ...]
    correct: tuple[bool | None, ...] = ()
    kind: str = "math"
    payload: Any = None

    def __post_init__(self) -> None:
        if not self.candidates:
            raise UserError(f"item {self.id!r} has no candidates: give at least one response.")
        if self.correct and len(self.correct) != len(self.candidates):
            raise UserError(
                f"item {self.id!r} has {len(self.candidates)} candidates and {len(self.correct)} grades: give "
                "one grade for each candidate, None where there is none."
            )

    @cached_property
    def answers(self) -> tuple[str | None, ...]:
        """Answer of each candidate, in one spelling per value."""
        return tuple(extract_answer(candidate, self.kind) for candidate in self.candidates)


@dataclass(frozen=True)
class Call:
    """Which call of a judge, for what is asked and for what was answered.

    Attributes:
        item: Identity of the item.
        round: Round of the knock-out, from 0.
        pair: Place of the pair in its round.
        order: `forward`, or `swapped`: the other way round.
    """

    item: str
    round: int
    pair: int
    order: Order


@dataclass(frozen=True)
class Comparison(Call):
    """What a judge is asked: which of two responses is better. It holds no grade and no gold answer.

    Attributes:
        places: Which candidates are shown first and second.
        question: Question of the item.
        first: Text that is shown first.
        second: Text that is shown second.
        payload: Payload of the item.
    """

    places: tuple[int, int]
    question: str
    first: str
    second: str
    payload: Any


@dataclass(frozen=True)
class Ruling:
    """A judge's answer to a comparison, with what is worth keeping of how it came about.

    Attributes:
        label: 1 or 2, the better response as shown; None if the reply could not be read.
        reply: What the judge wrote.
        tokens: Prompt and completion tokens.
    """

    label: int | None
    reply: str = ""
    tokens: int = 0


Judge = Callable[[Sequence[Comparison]], Sequence[int | Ruling | None]]
"""Says of each comparison 1, 2 or None, or the same in a `Ruling`. It is asked about many items at once."""


@dataclass(frozen=True)
class Judgement(Call):
    """What came of a call. It holds no texts but the reply: those shown are in the item.

    Attributes:
        first: Candidate that was shown first.
        second: Candidate that was shown second.
        label: 1, 2 or None, as the judge said.
        winner: Candidate that this call speaks for; None without a label.
        reply: What the judge wrote.
        tokens: Prompt and completion tokens.
    """

    first: int
    second: int
    label: int | None
    winner: int | None
    reply: str
    tokens: int


class How(StrEnum):
    """What sent a candidate into the next round."""

    LABEL = "label"  # one order, at the first call
    REASK = "reask"  # one order, at the second call, with the texts swapped
    AGREEMENT = "agreement"  # both orders say the same
    COIN = "coin"  # both orders do not, or one of them could not be read
    KEPT = "kept"  # no call could be read: the left one stays
    BYE = "bye"  # no other to meet


@dataclass(frozen=True)
class Match:
    """One pair of a round, or a bye.

    Attributes:
        round: From 0.
        pair: Place in the round.
        left: Candidate that is shown first in the forward order.
        right: The other; None for a bye.
        winner: Candidate that goes on.
        how: Why.
        judgements: Calls that were made, in their order.
    """

    round: int
    pair: int
    left: int
    right: int | None
    winner: int
    how: How
    judgements: tuple[Judgement, ...]


@dataclass(frozen=True)
class Bracket:
    """The whole knock-out of one item.

    Attributes:
        item: Identity of the item.
        order: Candidates as they were shuffled.
        matches: By round, then by place in it.
        winner: The survivor, as an index of the item's candidates.
        calls: Judgements without re-asks: n - 1, or twice that with both orders.
        reasks: Further judgements after one that could not be read.
    """

    item: str
    order: tuple[int, ...]
    matches: tuple[Match, ...]
    winner: int
    calls: int
    reasks: int

    def survivors(self, rounds: int) -> tuple[int, ...]:
        """Candidates that are left after some rounds, in bracket order."""
        return tuple(m.winner for m in self.matches if m.round == rounds - 1) if rounds else self.order

    def choices(self, n: int) -> tuple[int, ...]:
        """Survivor of each whole block of n neighbours.

        Raises:
            ValueError: n is no power of two, or above the number of candidates.
        """
        if n not in powers_of_two(len(self.order)):
            raise ValueError(f"a bracket of {len(self.order)} has no choices among n={n}")
        return self.survivors(n.bit_length() - 1)[: len(self.order) // n]

    def judgements(self, n: int) -> list[Judgement]:
        """Calls that `choices(n)` cost."""
        inside = [
            m
            for m in self.matches
            if 2 << m.round <= n and (m.pair + 1) * (2 << m.round) <= len(self.order) // n * n
        ]
        return [j for m in inside for j in m.judgements]


@dataclass(frozen=True)
class _Duel:
    """Two candidates of an item that meet."""

    item: Item
    round: int
    pair: int
    left: int
    right: int

    def asked(self, order: Order) -> Comparison:
        a, b = (self.left, self.right) if order == "forward" else (self.right, self.left)
        texts = self.item.candidates
        return Comparison(
            self.item.id,
            self.round,
            self.pair,
            order,
            (a, b),
            self.item.question,
            texts[a],
            texts[b],
            self.item.payload,
        )


def tournament(
    candidates: Sequence[str],
    judge: Judge,
    *,
    seed: int,
    both_orders: bool,
    question: str = "",
    payload: Any = None,
    item: str = "",
) -> Bracket:
    """Find the best of some candidates by knock-out; for many items at once use `tournaments`.

    Args:
        candidates: Responses to one question.
        judge: See `Judge`; called once a round, and once more where it could not be read.
        seed: Seed of shuffle and coins, together with `item`.
        both_orders: Judge each pair in both orders and let agreement alone decide it, else a coin, so that no
            liking for a position decides anything; each order is the other's re-ask. With one order a judgement
            that cannot be read is asked again in swapped order; if that cannot be read either, the left one
            stays. If p and q are the chances that the better one is named where it is shown first and second,
            and all can be read, it goes on with a chance of (p + q) / 2 in either mode, for the shuffle puts it
            on either side: twice the calls find no better candidates, they show the bias and keep it out.
        question: What the candidates answer.
        payload: Passed on to the judge as it is.
        item: Identity of the question.

    Raises:
        UserError: There are no candidates.
        ValueError: The judge did not answer 1, 2 or None to each comparison.

    >>> longer = lambda asked: [1 if len(c.first) > len(c.second) else 2 for c in asked]
    >>> bracket = tournament(["a", "ccc", "bb"], longer, seed=0, both_orders=True)
    >>> bracket.winner, bracket.calls
    (1, 4)
    """
    pool = Item(item, question, tuple(candidates), payload=payload)
    return tournaments([pool], judge, seed=seed, both_orders=both_orders)[0]


def tournaments(items: Sequence[Item], judge: Judge, *, seed: int, both_orders: bool) -> list[Bracket]:
    """The knock-outs of many items, round by round, so that a judge has a whole round in one call.

    What an item gets depends on no other item, if the judge's answers do not. Arguments and errors are those
    of `tournament`.

    Returns:
        One bracket per item, in their order.
    """
    check_identities(items)
    orders = {item.id: shuffled(item.id, len(item.candidates), seed=seed) for item in items}
    standing, matches = dict(orders), {item.id: list[Match]() for item in items}
    number = 0
    while any(len(left) > 1 for left in standing.values()):
        playing = [item for item in items if len(standing[item.id]) > 1]
        duels = [duel for item in playing for duel in _duels(item, number, standing[item.id])]
        for duel, judged in zip(duels, _judge_round(duels, judge, both_orders), strict=True):
            matches[duel.item.id].append(_decide(duel, judged, seed, both_orders))
        for item in playing:
            left = standing[item.id]
            if len(left) % 2:
                bye = Match(number, len(left) // 2, left[-1], None, left[-1], How.BYE, ())
                matches[item.id].append(bye)
            standing[item.id] = tuple(m.winner for m in matches[item.id] if m.round == number)
        number += 1
    return [
        _bracket(item.id, orders[item.id], matches[item.id], standing[item.id][0], both_orders)
        for item in items
    ]


@lru_cache(maxsize=4096)
def shuffled(item: str, n: int, *, seed: int) -> tuple[int, ...]:
    """Order in which the n candidates of an item enter: a hash, so that nothing but seed and identity moves it."""
    return tuple(sorted(range(n), key=lambda i: (child_seed(seed, "tournament", item, i), i)))


def check_identities(items: Sequence[Item]) -> None:
    """Refuse items that share an identity: shuffle, coins and records are keyed by it."""
    counts = Counter(item.id for item in items)
    for identity, count in counts.items():
        if count > 1:
            raise UserError(
                f"{count} items have the identity {identity!r}: give each its own, "
                "for instance the hash of question and image together."
            )


def _duels(item: Item, number: int, standing: Sequence[int]) -> list[_Duel]:
    return [_Duel(item, number, i // 2, *standing[i : i + 2]) for i in range(0, len(standing) - 1, 2)]


def _judge_round(duels: Sequence[_Duel], judge: Judge, both_orders: bool) -> list[list[Judgement]]:
    """All judgements of each pair."""
    orders = ORDERS if both_orders else ORDERS[:1]
    told = iter(ask(judge, [duel.asked(order) for duel in duels for order in orders]))
    judged = [[next(told) for _ in orders] for _ in duels]
    if not both_orders:
        unread = [i for i, (judgement,) in enumerate(judged) if judgement.label is None]
        again = ask(judge, [duels[i].asked("swapped") for i in unread])
        for i, judgement in zip(unread, again, strict=True):
            judged[i].append(judgement)
    return judged


def ask(judge: Judge, asked: Sequence[Comparison]) -> list[Judgement]:
    """Ask a judge, unless there is nothing to ask, and check that it keeps to `Judge`."""
    if not asked:
        return []
    told = judge(asked)
    if len(told) != len(asked):
        raise ValueError(f"the judge gave {len(told)} answers to {len(asked)} comparisons")
    return [_judgement(c, answer) for c, answer in zip(asked, told, strict=True)]


def _judgement(asked: Comparison, told: int | Ruling | None) -> Judgement:
    ruling = told if isinstance(told, Ruling) else Ruling(told)
    label = ruling.label
    # A judge that says True for "the first" would be read as 1, and its False as nothing at all.
    if label is not None and (type(label) is not int or label not in (1, 2)):
        raise ValueError(f"the judge must answer 1, 2 or None, not {label!r}")
    winner = None if label is None else asked.places[label - 1]
    return Judgement(
        asked.item,
        asked.round,
        asked.pair,
        asked.order,
        *asked.places,
        label,
        winner,
        ruling.reply,
        ruling.tokens,
    )


def _decide(duel: _Duel, judged: Sequence[Judgement], seed: int, both_orders: bool) -> Match:
    said = [j.winner for j in judged if j.winner is not None]
    if not said:
        winner, how = duel.left, How.KEPT
    elif not both_orders:
        winner, how = said[0], How.LABEL if len(judged) == 1 else How.REASK
    elif len(said) == 2 and said[0] == said[1]:
        winner, how = said[0], How.AGREEMENT
    else:
        heads = child_seed(seed, "coin", duel.item.id, duel.round, duel.pair) % 2 == 0
        winner, how = duel.left if heads else duel.right, How.COIN
    return Match(duel.round, duel.pair, duel.left, duel.right, winner, how, tuple(judged))


def _bracket(
    item: str, order: tuple[int, ...], matches: Sequence[Match], winner: int, both_orders: bool
) -> Bracket:
    made = sum(len(m.judgements) for m in matches)
    calls = sum(m.right is not None for m in matches) * (2 if both_orders else 1)
    return Bracket(item, order, tuple(matches), winner, calls, made - calls)
