"""Pairs judged in both orders, with every judgement written to disk at once."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from critique_rl.actors.identity import check_models
from critique_rl.benchmarks.lenient import parse_lenient
from critique_rl.critic_data.pairs import PreferencePair, swap
from critique_rl.records import Journal
from critique_rl.self_critique.knockout import ORDERS, Comparison, Judge, Judgement, Order, ask
from critique_rl.types import UserError, child_seed
from critique_rl.vision.images import data_url, image_bytes


@dataclass(frozen=True)
class PairJudgement:
    """One judgement of one pair in one order.

    Attributes:
        pair: Identity of the pair.
        source: Source of the pair, or its group in a benchmark.
        order: `forward`, the order of the pair, or `swapped`.
        drawn: Whether the seed drew this order; the judgement in the drawn order counts where a single order is
            measured.
        label: The better response in this order, 1 or 2.
        strict: Answer that the judge's own parser read, 1 or 2; None if the reply could not be read.
        lenient: Answer that `parse_lenient` read; equal to `strict` if the judge gives no reply.
        reply: Text of the judge.
        tokens: Prompt and completion tokens; None if unknown.
        judge: Name of the judge.
        key: Hash of judge, seed, order, texts, label and content of the image.
    """

    pair: str
    source: str
    order: Order
    drawn: bool
    label: int
    strict: int | None
    lenient: int | None
    reply: str
    tokens: int | None
    judge: str
    key: str

    @property
    def missing(self) -> bool:
        """Whether no reply came that can be read: the answer is unknown, which is not the same as unread."""
        return self.reply == "" and self.tokens is None


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
        judge: See `self_critique.Judge`; `self_critique.ActorJudge` makes one from a model. Its answers must not
            depend on chance, since pairs on disk are not judged again.
        seed: Seed that draws the order that counts where a single order is measured.
        records: JSON-lines file; judgements are appended to it and read back from it.
        name: Name of the judge, with all settings that change its answers; by default its attribute `name`.
        chunk_size: Judgements that are asked and written together. A killed run loses at most one chunk.
        on_progress: Called with the number of finished judgements and of all.

    Returns:
        Two judgements per pair, forward and swapped, in the order of `pairs`.

    Raises:
        UserError: There are no pairs, a tie, two pairs with one identity, or a judge without a name; or `records`
            has a line that is no judgement, or judgements of another judge, prompt or seed or of other pairs;
            beside it `*.models.json` names the judge's model.
        ImageError: An image cannot be read.
        ValueError: The judge did not answer 1, 2 or None to each comparison.
    """
    name = name or getattr(judge, "name", None)
    if not name:
        raise UserError("the judge has no name: pass `name`, with all settings that change its answers.")
    _check_pairs(pairs)
    asked = {key: (shown, order) for pair in pairs for key, shown, order in _keys(pair, name, seed)}
    journal = Journal(
        records,
        PairJudgement,
        lambda judgement: judgement.key,
        known=asked.__contains__,
        others=f"judgements of another judge or prompt than {name}, with another seed or of other pairs",
    )
    check_models(records.with_suffix(".models.json"), {"judge": judge}, begun=bool(journal.done))

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
    shown: PreferencePair, order: Order, answer: Judgement, *, seed: int, name: str, key: str
) -> PairJudgement:
    return PairJudgement(
        pair=shown.id,
        source=shown.source,
        order=order,
        drawn=order == drawn_order(shown.id, seed),
        label=shown.label,
        strict=answer.label,
        lenient=parse_lenient(answer.reply) if answer.reply else answer.label,
        reply=answer.reply,
        tokens=answer.tokens,
        judge=name,
        key=key,
    )


def drawn_order(pair_id: str, seed: int) -> Order:
    """The order that counts where a single order is measured; a hash, so it does not depend on other pairs."""
    return ORDERS[child_seed(seed, "single order", pair_id) % 2]


def _check_pairs(pairs: Sequence[PreferencePair]) -> None:
    if not pairs:
        raise UserError("there are no pairs to judge.")
    counts = Counter(pair.id for pair in pairs)
    for pair in pairs:
        if pair.tie:
            raise UserError(f"pair {pair.id!r} is a tie, so neither answer is right: leave ties out.")
        if counts[pair.id] > 1:
            raise UserError(f"{counts[pair.id]} pairs have the identity {pair.id!r}: give each its own.")


def _keys(pair: PreferencePair, name: str, seed: int) -> Iterator[tuple[str, PreferencePair, Order]]:
    """Key of each judgement of a pair, the pair as the judge is shown it, and the order."""
    # Content of the image instead of its path: a folder may move, and another image is another question.
    image = hashlib.sha256(image_bytes(pair.image) if pair.image else b"").hexdigest()
    texts = (pair.id, pair.source, pair.question, pair.response_1, pair.response_2, pair.label)
    for shown, order in zip((pair, swap(pair)), ORDERS, strict=True):
        content = repr((name, seed, order, *texts, image))
        yield hashlib.sha256(content.encode()).hexdigest()[:16], shown, order


def _comparison(shown: PreferencePair, order: Order) -> Comparison:
    image = data_url(shown.image) if isinstance(shown.image, bytes) else shown.image
    places = (0, 1) if order == "forward" else (1, 0)
    return Comparison(
        shown.id, 0, 0, order, places, shown.question, shown.response_1, shown.response_2, image
    )
