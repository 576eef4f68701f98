"""Pairs judged in both orders, with every judgement on disk as it is made."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from critique_rl.benchmarks.lenient import parse_lenient
from critique_rl.critic_data.pairs import PreferencePair, swap
from critique_rl.records import Journal
from critique_rl.self_critique import ORDERS, Comparison, Judge, Judgement, Order
from critique_rl.self_critique.knockout import ask
from critique_rl.types import UserError, child_seed
from critique_rl.vision.images import data_url, image_bytes


@dataclass(frozen=True)
class PairJudgement:
    """One call of a judge about one pair in one order.

    Attributes:
        pair: Identity of the pair.
        source: Source of the pair, or its group in a benchmark.
        order: `forward`, as the pair has it, or `swapped`.
        drawn: Whether the seed drew this order: one of the two judgements of a pair is the one that counts
            where a single order is measured.
        label: The better response as shown, 1 or 2.
        strict: What the judge's own parser read; None if it could not.
        lenient: What `parse_lenient` read; as `strict` where the judge gives no reply.
        reply: What the judge wrote.
        tokens: Prompt and completion tokens.
        judge: Name of the judge.
        key: Hash of all that the judgement hangs on: judge, seed, order, texts, label and content of the image.
    """

    pair: str
    source: str
    order: Order
    drawn: bool
    label: int
    strict: int | None
    lenient: int | None
    reply: str
    tokens: int
    judge: str
    key: str


def judge_pairs(
    pairs: Sequence[PreferencePair],
    judge: Judge,
    *,
    seed: int,
    records: Path,
    name: str | None = None,
    chunk_size: int = 256,
    on_progress: Callable[[int, int], None] | None = None,
) -> list[PairJudgement]:
    """Ask a judge about each pair in both orders.

    Args:
        pairs: Pairs without ties, whose images can be read.
        judge: See `self_critique.Judge`; `self_critique.ActorJudge` makes one from a model. It must not depend on
            chance: what is on disk is not asked again.
        seed: Draws the order that counts as the single one.
        records: JSON-lines file to which judgements are appended and from which they are read back.
        name: Name of the judge, with all that shapes its answers; its attribute `name` if it is not given.
        chunk_size: Judgements that are asked and written together. A killed run loses at most so many.
        on_progress: Called with the number of judgements made and of all.

    Returns:
        Two judgements per pair, forward and swapped, in the order of `pairs`.

    Raises:
        UserError: There are no pairs, a tie, two pairs of one identity, a judge without name, or `records` holds
            a line that is no judgement, or judgements of another judge, prompt, seed or of other pairs.
        ImageError: An image cannot be read.
        ValueError: The judge did not answer 1, 2 or None to each comparison.
    """
    name = name or getattr(judge, "name", None)
    if not name:
        raise UserError("the judge has no name: pass `name`, with all that shapes its answers.")
    _check_pairs(pairs)
    asked = {key: (pair, order) for pair in pairs for order, key in _keys(pair, name, seed)}
    journal = Journal(
        records,
        PairJudgement,
        lambda judgement: judgement.key,
        known=asked.__contains__,
        others=f"judgements of another judge or prompt than {name}, with another seed or of other pairs",
    )

    def ask_for(number: int, keys: Sequence[str]) -> list[PairJudgement]:
        answers = ask(judge, [_comparison(*asked[key]) for key in keys])
        return [
            _judgement(*asked[key], answer, seed=seed, name=name, key=key)
            for key, answer in zip(keys, answers, strict=True)
        ]

    keys = list(asked)
    journal.fill(journal.missing(keys, chunk_size), ask_for, on_progress, len(keys))
    return [journal.done[key] for key in keys]


def _judgement(
    pair: PreferencePair, order: Order, answer: Judgement, *, seed: int, name: str, key: str
) -> PairJudgement:
    return PairJudgement(
        pair=pair.id,
        source=pair.source,
        order=order,
        drawn=order == drawn_order(pair.id, seed),
        label=_in_order(pair, order).label,
        strict=answer.label,
        lenient=parse_lenient(answer.reply) if answer.reply else answer.label,
        reply=answer.reply,
        tokens=answer.tokens,
        judge=name,
        key=key,
    )


def drawn_order(pair_id: str, seed: int) -> Order:
    """The order that counts where a single one is measured: a hash, so that no other pair moves it."""
    return ORDERS[child_seed(seed, "single order", pair_id) % 2]


def _check_pairs(pairs: Sequence[PreferencePair]) -> None:
    if not pairs:
        raise UserError("there are no pairs to judge.")
    counts = Counter(pair.id for pair in pairs)
    for pair in pairs:
        if pair.tie:
            raise UserError(f"pair {pair.id!r} is a tie, of which neither answer is right: leave ties out.")
        if counts[pair.id] > 1:
            raise UserError(f"{counts[pair.id]} pairs have the identity {pair.id!r}: give each its own.")


def _in_order(pair: PreferencePair, order: Order) -> PreferencePair:
    return pair if order == "forward" else swap(pair)


def _keys(pair: PreferencePair, name: str, seed: int) -> Iterator[tuple[Order, str]]:
    # The content of the image and not its path: a folder may move, and another image is another question.
    image = hashlib.sha256(image_bytes(pair.image) if pair.image else b"").hexdigest()
    texts = (pair.id, pair.source, pair.question, pair.response_1, pair.response_2, pair.label)
    for order in ORDERS:
        content = repr((name, seed, order, *texts, image))
        yield order, hashlib.sha256(content.encode()).hexdigest()[:16]


def _comparison(pair: PreferencePair, order: Order) -> Comparison:
    shown = _in_order(pair, order)
    image = data_url(pair.image) if isinstance(pair.image, bytes) else pair.image
    places = (0, 1) if order == "forward" else (1, 0)
    return Comparison(pair.id, 0, 0, order, places, pair.question, shown.response_1, shown.response_2, image)
