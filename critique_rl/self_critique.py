"""Test-time self-critique: the best of n candidates by pairwise judgement, and what it has to beat.

The model that wrote the candidates of an item also judges them, two at a time, in a knock-out (LLaVA-Critic-R1,
arXiv 2509.00676, its Best-of-128; any other judge is a baseline). Its authors say that candidates are compared in
pairs, recursively, and released no code for it: pairing, byes and what is done about a judgement that cannot be
read are our choices. The candidates of an item are shuffled by seed and neighbours meet; an odd one out, always
the last, goes on without a match. n candidates cost n - 1 judgements, and twice that where each pair is judged in
both orders.

One bracket measures every n: after r rounds each block of 2^r neighbours has one survivor, and as the order is
random, a block is a random sub-sample of the pool and its survivor is what a knock-out of that sub-sample alone
would find. Baselines choose from the same blocks. The value of an item is the mean over its floor(N / n) whole
blocks; a block whose choice could not be graded is left out. A candidate without an answer stays in, for it was
paid for.
"""

from __future__ import annotations

import hashlib
import json
import statistics
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from functools import cached_property, lru_cache, partial
from pathlib import Path
from typing import Any, Literal, get_args

from critique_rl.actors.base import Actor
from critique_rl.artifacts import read_records
from critique_rl.evaluation import Episode
from critique_rl.grading import extract_answer
from critique_rl.measures import powers_of_two
from critique_rl.pairwise_rewards import parse_preference
from critique_rl.scaling import ByProblem, chains, interval, majority_vote, outcome, pass_at_k, wilson
from critique_rl.types import Conversation, GradedKind, Sampling, UserError, child_seed

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
class Comparison:
    """What a judge is asked: which of two responses is better. It holds no grade and no gold answer.

    Attributes:
        item: Identity of the item.
        round: Round of the knock-out, from 0.
        pair: Place of the pair in its round.
        order: `forward`, or `swapped`: the other way round.
        places: Which candidates are shown first and second.
        question: Question of the item.
        first: Text that is shown first.
        second: Text that is shown second.
        payload: Payload of the item.
    """

    item: str
    round: int
    pair: int
    order: Order
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
class Judgement:
    """One call of a judge.

    Attributes:
        item: Identity of the item.
        round: Round of the knock-out, from 0.
        pair: Place of the pair in its round.
        order: `forward` or `swapped`.
        first: Candidate that was shown first.
        second: Candidate that was shown second.
        label: 1, 2 or None, as the judge said.
        winner: Candidate that this call speaks for; None without a label.
        reply: What the judge wrote.
        tokens: Prompt and completion tokens.
    """

    item: str
    round: int
    pair: int
    order: Order
    first: int
    second: int
    label: int | None
    winner: int | None
    reply: str
    tokens: int


@dataclass(frozen=True)
class Entry(Judgement):
    """A judgement on disk.

    Attributes:
        judge: Name of the judge.
        key: Hash of the judge, the seed, the orders, and identity, question and candidates of the item; a
            payload is not part of it.
    """

    judge: str
    key: str


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


# --- the knock-out ------------------------------------------------------------------------------------


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
    _check_identities(items)
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


def _check_identities(items: Sequence[Item]) -> None:
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
    told = iter(_ask(judge, [duel.asked(order) for duel in duels for order in orders]))
    judged = [[next(told) for _ in orders] for _ in duels]
    if not both_orders:
        unread = [i for i, (judgement,) in enumerate(judged) if judgement.label is None]
        again = _ask(judge, [duels[i].asked("swapped") for i in unread])
        for i, judgement in zip(unread, again, strict=True):
            judged[i].append(judgement)
    return judged


def _ask(judge: Judge, asked: Sequence[Comparison]) -> list[Judgement]:
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


# --- on disk ------------------------------------------------------------------------------------------


def self_critique(
    items: Sequence[Item],
    judge: Judge,
    *,
    name: str,
    seed: int,
    both_orders: bool,
    records: Path,
    chunk_size: int = 256,
    on_progress: Callable[[int, int], None] | None = None,
) -> list[Bracket]:
    """`tournaments`, with every judgement on disk as it is made.

    Args:
        items: As in `tournaments`. An item that is added later leaves the judgements of the others valid.
        judge: See `Judge`. What it is not asked again about must not depend on chance: ask greedily.
        name: Name of the judge, with all that shapes its answers; see `ActorJudge.name`.
        seed: Seed of shuffle and coins.
        both_orders: As in `tournament`.
        records: JSON-lines file to which judgements are appended and from which they are read back: what is in
            it is not asked again.
        chunk_size: Comparisons that are asked and written together. A killed run loses at most so many.
        on_progress: Called with the number of judgements made and of all, both without re-asks.

    Returns:
        One bracket per item, in their order.

    Raises:
        UserError: Two items share an identity, or `records` holds a line that is no judgement, or judgements
            of another judge, seed, pool or number of orders.
        ValueError: The judge did not answer 1, 2 or None to each comparison.
    """
    _check_identities(items)
    keys = {item.id: _key(item, name, seed, both_orders) for item in items}
    done = read_records(records, Entry) if records.exists() else []
    if any(keys.get(entry.item) != entry.key for entry in done):
        raise UserError(
            f"{records} holds judgements of another judge than {name}, of other items or candidates, or with "
            "another seed or number of orders: delete it, or write into another place."
        )
    records.parent.mkdir(parents=True, exist_ok=True)
    total = sum(len(item.candidates) - 1 for item in items) * (2 if both_orders else 1)
    recorder = _Recorder(judge, name, keys, done, records, chunk_size, both_orders, total, on_progress)
    return tournaments(items, recorder, seed=seed, both_orders=both_orders)


def _key(item: Item, name: str, seed: int, both_orders: bool) -> str:
    content = repr((name, seed, both_orders, item.id, item.question, item.candidates))
    return hashlib.sha256(content.encode()).hexdigest()[:16]


class _Recorder:
    """A judge that asks another one only what is not on disk, and writes what that says."""

    def __init__(
        self,
        judge: Judge,
        name: str,
        keys: Mapping[str, str],
        done: Iterable[Entry],
        records: Path,
        chunk_size: int,
        both_orders: bool,
        total: int,
        on_progress: Callable[[int, int], None] | None,
    ) -> None:
        self._judge, self._name, self._keys = judge, name, keys
        self._records, self._chunk_size, self._both_orders = records, chunk_size, both_orders
        self._total, self._on_progress = total, on_progress
        self._done = {(e.item, e.round, e.first, e.second): e for e in done}
        self._made = 0

    def __call__(self, asked: Sequence[Comparison]) -> list[Ruling]:
        for start in range(0, len(asked), self._chunk_size):
            chunk = asked[start : start + self._chunk_size]
            missing = [c for c in chunk if _place(c) not in self._done]
            entries = [
                Entry(**vars(j), judge=self._name, key=self._keys[j.item]) for j in _ask(self._judge, missing)
            ]
            with self._records.open("a", encoding="utf-8") as file:
                file.writelines(json.dumps(asdict(e), ensure_ascii=False) + "\n" for e in entries)
            self._done |= {_place(c): e for c, e in zip(missing, entries, strict=True)}
            self._made += sum(self._both_orders or c.order == "forward" for c in chunk)
            if self._on_progress is not None:
                self._on_progress(self._made, self._total)
        known = [self._done[_place(c)] for c in asked]
        return [Ruling(e.label, e.reply, e.tokens) for e in known]


def _place(asked: Comparison) -> tuple[str, int, int, int]:
    return asked.item, asked.round, *asked.places


# --- a model as judge ---------------------------------------------------------------------------------

_INSTRUCTION = """\
Below are a question and two answers to it. Decide which of the two is better: what counts most is whether its \
final result is right, then whether each of its steps holds. Which one comes first, and how long each is, says \
nothing.

Think it over inside <think> </think>. Then state your decision as \\boxed{1} or \\boxed{2}. You have to choose \
one of them."""

parse_choice = partial(parse_preference, thinking=False)
"""Reads 1 or 2 from the boxes of a judge, who need not think; None if they name none or both."""


def judge_prompt(asked: Comparison) -> Conversation:
    """Chat in which a text model is asked; the payload is not shown."""
    parts = {"question": asked.question, "answer 1": asked.first, "answer 2": asked.second}
    # Begin and end are marked, since a candidate may hold headings and boxes of its own.
    shown = [f"[begin {name}]\n{text.strip()}\n[end {name}]" for name, text in parts.items()]
    return [{"role": "user", "content": "\n\n".join([_INSTRUCTION, *shown])}]


class ActorJudge:
    """A judge made from a model, asked greedily; give the actor that wrote the candidates for self-critique.

    Args:
        actor: The model.
        prompt: Makes the chat of a comparison; it may place the payload.
        parse: Reads the label from a reply.
        max_tokens: Most tokens of a reply.

    Attributes:
        name: Name of the actor with a hash of prompt and limit, so that records of another prompt are refused.
    """

    def __init__(
        self,
        actor: Actor,
        *,
        prompt: Callable[[Comparison], Conversation] = judge_prompt,
        parse: Callable[[str], int | None] = parse_choice,
        max_tokens: int = 2048,
    ) -> None:
        self._actor, self._prompt, self._parse, self._max_tokens = actor, prompt, parse, max_tokens
        probe = Comparison("", 0, 0, "forward", (0, 1), "question", "first", "second", None)
        content = repr((prompt(probe), max_tokens))
        self.name = f"{actor.name}, prompt {hashlib.sha256(content.encode()).hexdigest()[:8]}"

    def __call__(self, asked: Sequence[Comparison]) -> list[Ruling]:
        """Judge all comparisons in one call of the actor."""
        replies = self._actor.generate([self._prompt(c) for c in asked], Sampling(self._max_tokens))
        return [Ruling(self._parse(g.text), g.text, g.prompt_tokens + g.completion_tokens) for g in replies]


# --- baselines on the same pool -----------------------------------------------------------------------


def items_of(episodes: Iterable[Episode], payloads: Mapping[str, Any] | None = None) -> list[Item]:
    """The pools of an evaluation with several samples: the last reply of each chain is a candidate.

    Args:
        episodes: Records of one evaluation.
        payloads: By identity of the problem.

    Raises:
        UserError: Two records have the same problem, sample and round.
    """
    items = []
    for identity, samples in chains(episodes).items():
        last = [chain[-1] for chain in samples]
        texts, grades = zip(*map(outcome, last), strict=True)
        payload = (payloads or {}).get(identity)
        items.append(Item(identity, last[0].question, texts, grades, last[0].kind, payload))
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


# --- results ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Estimate:
    """A mean with its 95 % interval; None where there is nothing to average."""

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
) -> dict[str, ByProblem]:
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
    values: dict[str, ByProblem] = {
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


def difference(values: Mapping[str, ByProblem], method: str, other: str, n: int, *, seed: int) -> Estimate:
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


def metrics_by_item(values: Mapping[str, ByProblem]) -> dict[str, dict[str, float | None]]:
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
    _check_identities(items)
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
