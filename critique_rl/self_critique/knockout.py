"""The knock-out: candidates of an item meet in pairs, round by round, until one is left."""

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
        id: Identity, unique among items; it seeds shuffle and coins. If one question is asked about several
            payloads, such as images, the identity must depend on the payload as well.
        question: Text of the question.
        candidates: Full responses.
        correct: Grade of each candidate, None where it could not be graded; empty if only a winner is wanted.
        kind: How answers are graded, see `critique_rl.grading.grade`.
        payload: Further input of the judge, for instance an image; passed on unread.
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
                "one grade for each candidate, None for an ungraded one."
            )

    @cached_property
    def answers(self) -> tuple[str | None, ...]:
        """Answer of each candidate, in one spelling per value."""
        return tuple(extract_answer(candidate, self.kind) for candidate in self.candidates)


@dataclass(frozen=True)
class Call:
    """Place of one call of a judge in a knock-out.

    Attributes:
        item: Identity of the item.
        round: Round of the knock-out, from 0.
        pair: Place of the pair in its round.
        order: `forward` or `swapped`.
    """

    item: str
    round: int
    pair: int
    order: Order


@dataclass(frozen=True)
class Comparison(Call):
    """Question to a judge: which of two responses is better? It has no grade and no gold answer.

    Attributes:
        places: Indices of the candidates shown first and second.
        question: Question of the item.
        first: Text shown first.
        second: Text shown second.
        payload: Payload of the item.
    """

    places: tuple[int, int]
    question: str
    first: str
    second: str
    payload: Any


@dataclass(frozen=True)
class Ruling:
    """A judge's answer to a comparison.

    Attributes:
        label: 1 if the response shown first is better, 2 for the other; None if the reply could not be read.
        reply: Text of the judge; `""` if it gives none.
        tokens: Prompt and completion tokens; None if unknown. A ruling without text and tokens is a reply of a
            server that never came.
    """

    label: int | None
    reply: str = ""
    tokens: int | None = 0


Judge = Callable[[Sequence[Comparison]], Sequence[int | Ruling | None]]
"""Answers each comparison with 1, 2 or None, or with a `Ruling`; one call has comparisons of many items."""


@dataclass(frozen=True)
class Judgement(Call):
    """Result of a call. The texts of the candidates are in the item.

    Attributes:
        first: Index of the candidate shown first.
        second: Index of the candidate shown second.
        label: 1, 2 or None, as in `Ruling`.
        winner: Candidate that the judge prefers; None without a label.
        reply: Text of the judge.
        tokens: Prompt and completion tokens, as in `Ruling`.
    """

    first: int
    second: int
    label: int | None
    winner: int | None
    reply: str
    tokens: int | None


class How(StrEnum):
    """Reason why a candidate goes on into the next round."""

    LABEL = "label"  # one order: the first call names it
    REASK = "reask"  # one order: the second call, with the texts swapped, names it
    AGREEMENT = "agreement"  # both orders name it
    COIN = "coin"  # the orders disagree, or one of them could not be read
    KEPT = "kept"  # no call could be read: the left candidate stays
    BYE = "bye"  # no opponent


@dataclass(frozen=True)
class Match:
    """One pair of a round, or a bye.

    Attributes:
        round: Round of the knock-out, from 0.
        pair: Place of the pair in its round.
        left: Candidate shown first in the forward order.
        right: The other candidate; None for a bye.
        winner: Candidate that goes on.
        how: Reason why it goes on.
        judgements: All calls of the match, in order.
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
        order: Candidates in shuffled order.
        matches: Matches by round, then by place in the round.
        winner: Index of the last candidate left.
        calls: Number of judgements without re-asks: n - 1, or twice that with both orders.
        reasks: Number of judgements that repeat one that could not be read.
    """

    item: str
    order: tuple[int, ...]
    matches: tuple[Match, ...]
    winner: int
    calls: int
    reasks: int

    def survivors(self, rounds: int) -> tuple[int, ...]:
        """Candidates left after a number of rounds, in bracket order."""
        return tuple(m.winner for m in self.matches if m.round == rounds - 1) if rounds else self.order

    def choices(self, n: int) -> tuple[int, ...]:
        """Survivor of each whole block of n neighbours.

        Raises:
            ValueError: n is no power of two, or is above the number of candidates.
        """
        if n not in powers_of_two(len(self.order)):
            raise ValueError(f"a bracket of {len(self.order)} has no choices among n={n}")
        return self.survivors(n.bit_length() - 1)[: len(self.order) // n]

    def judgements(self, n: int) -> list[Judgement]:
        """Calls that decide `choices(n)`."""
        whole = len(self.order) // n * n  # candidates in whole blocks
        return [
            judgement
            for m in self.matches
            if 2 << m.round <= n and (m.pair + 1) * (2 << m.round) <= whole
            for judgement in m.judgements
        ]


@dataclass(frozen=True)
class _Duel:
    """Two candidates of an item that meet."""

    item: Item
    round: int
    pair: int
    left: int
    right: int

    def comparison(self, order: Order) -> Comparison:
        a, b = (self.left, self.right) if order == "forward" else (self.right, self.left)
        item, texts = self.item, self.item.candidates
        place = (item.id, self.round, self.pair, order)
        return Comparison(*place, (a, b), item.question, texts[a], texts[b], item.payload)


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

    With both orders a pair is decided by agreement, otherwise by a coin, so a preference for a position decides
    nothing; each order is the other's re-ask. With one order an unread judgement is repeated in swapped order; if
    that cannot be read either, the left candidate stays.

    Let p and q be the chances that the better candidate is named when it is shown first and second. If all replies
    can be read, it goes on with a chance of (p + q) / 2 with one order and with both, since the shuffle puts it on
    either side. Twice the calls find no better candidates; they measure the bias and exclude it.

    Args:
        candidates: Responses to one question.
        judge: See `Judge`; called once a round, and once more for replies that could not be read.
        seed: Seed of shuffle and coins, together with `item`.
        both_orders: Whether each pair is judged in both orders.
        payload: Passed on to the judge unread.
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
    """The knock-outs of many items, round by round, so that a judge gets a whole round in one call.

    There is one bracket per item, in their order. If the judge's answers on an item do not depend on the other
    items, its bracket does not either. Arguments and errors are those of `tournament`.
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
                matches[item.id].append(Match(number, len(left) // 2, left[-1], None, left[-1], How.BYE, ()))
            standing[item.id] = tuple(m.winner for m in matches[item.id] if m.round == number)
        number += 1
    brackets = []
    for item in items:
        played = tuple(matches[item.id])
        calls = sum(m.right is not None for m in played) * (2 if both_orders else 1)
        reasks = sum(len(m.judgements) for m in played) - calls
        brackets.append(Bracket(item.id, orders[item.id], played, standing[item.id][0], calls, reasks))
    return brackets


@lru_cache(maxsize=4096)
def shuffled(item: str, n: int, *, seed: int) -> tuple[int, ...]:
    """Order in which the n candidates of an item enter; a hash, so it depends on seed and identity alone."""
    return tuple(sorted(range(n), key=lambda i: (child_seed(seed, "tournament", item, i), i)))


def check_identities(items: Sequence[Item]) -> None:
    """Refuse items that share an identity, since shuffle, coins and records depend on it."""
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
    answers = iter(ask(judge, [duel.comparison(order) for duel in duels for order in orders]))
    judged = [[next(answers) for _ in orders] for _ in duels]
    if not both_orders:
        unread = [i for i, (judgement,) in enumerate(judged) if judgement.label is None]
        again = ask(judge, [duels[i].comparison("swapped") for i in unread])
        for i, judgement in zip(unread, again, strict=True):
            judged[i].append(judgement)
    return judged


def ask(judge: Judge, asked: Sequence[Comparison]) -> list[Judgement]:
    """Ask a judge, unless there is nothing to ask, and check its answers.

    Raises:
        ValueError: The judge did not answer 1, 2 or None to each comparison.
    """
    if not asked:
        return []
    answers = judge(asked)
    if len(answers) != len(asked):
        raise ValueError(f"the judge gave {len(answers)} answers to {len(asked)} comparisons")
    return [_judgement(c, answer) for c, answer in zip(asked, answers, strict=True)]


def _judgement(c: Comparison, answer: int | Ruling | None) -> Judgement:
    ruling = answer if isinstance(answer, Ruling) else Ruling(answer)
    label = ruling.label
    # True is refused as well: it equals 1, and the False of the same judge would not be a label.
    if label is not None and (type(label) is not int or label not in (1, 2)):
        raise ValueError(f"the judge must answer 1, 2 or None, not {label!r}")
    winner = None if label is None else c.places[label - 1]
    call = (c.item, c.round, c.pair, c.order)
    return Judgement(*call, *c.places, label, winner, ruling.reply, ruling.tokens)


def _decide(duel: _Duel, judged: Sequence[Judgement], seed: int, both_orders: bool) -> Match:
    named = [j.winner for j in judged if j.winner is not None]
    if not named:
        winner, how = duel.left, How.KEPT
    elif not both_orders:
        winner, how = named[0], How.LABEL if len(judged) == 1 else How.REASK
    elif len(named) == 2 and named[0] == named[1]:
        winner, how = named[0], How.AGREEMENT
    else:
        heads = child_seed(seed, "coin", duel.item.id, duel.round, duel.pair) % 2 == 0
        winner, how = duel.left if heads else duel.right, How.COIN
    return Match(duel.round, duel.pair, duel.left, duel.right, winner, how, tuple(judged))
