"""Knock-outs with every judgement written to disk, so that a killed run goes on where it stopped."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from critique_rl.actors.identity import check_models
from critique_rl.records import Journal
from critique_rl.self_critique.knockout import (
    Bracket,
    Comparison,
    Item,
    Judge,
    Judgement,
    Ruling,
    ask,
    check_identities,
    tournaments,
)

_Place = tuple[str, int, int, int]
"""Key of the item, round, and the candidates that are shown first and second."""


@dataclass(frozen=True)
class Entry(Judgement):
    """A judgement on disk.

    Attributes:
        judge: Name of the judge.
        key: Hash of judge, seed, number of orders, and identity, question and candidates of the item, without
            its payload.
    """

    judge: str
    key: str


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
    """`tournaments`, with every judgement written to disk; `both_orders` as there.

    Args:
        items: As in `tournaments`. Items that are added later leave the judgements of the others valid.
        judge: See `Judge`. Its answers must not depend on chance, since judgements on disk are not repeated.
        name: Name of the judge, with all settings that change its answers; see `ActorJudge.name`.
        seed: Seed of shuffle and coins.
        records: JSON-lines file; judgements are appended to it and read back from it.
        chunk_size: Comparisons that are judged and written together. A killed run loses at most one chunk.
        on_progress: Called with the number of finished judgements and of all, both without re-asks.

    Raises:
        UserError: Two items share an identity, or `records` has a line that is no judgement, or judgements of
            another judge, seed, pool or number of orders.
        ValueError: The judge did not answer 1, 2 or None to each comparison.
    """
    check_identities(items)
    keys = {item.id: _key(item, name, seed, both_orders) for item in items}
    known_keys = set(keys.values())
    journal = Journal(
        records,
        Entry,
        lambda entry: (entry.key, entry.round, entry.first, entry.second),
        known=lambda place: place[0] in known_keys,
        others=f"judgements of another judge than {name}, of other items or candidates, or with another seed or "
        "number of orders",
    )
    check_models(records.with_suffix(".models.json"), {"judge": judge}, begun=bool(journal.done))
    total = sum(len(item.candidates) - 1 for item in items) * (2 if both_orders else 1)
    counted = 0  # comparisons so far, without re-asks

    def recorded(asked: Sequence[Comparison]) -> list[Ruling]:
        """Ask the judge only for what is not on disk, and write its answers."""
        nonlocal counted
        comparisons = {(keys[c.item], c.round, *c.places): c for c in asked}
        places, chunks = list(comparisons), []
        for chunk in (places[i : i + chunk_size] for i in range(0, len(places), chunk_size)):
            counted += sum(both_orders or comparisons[p].order == "forward" for p in chunk)
            chunks.append((chunk, counted))

        def ask_for(number: int, missing: Sequence[_Place]) -> list[Entry]:
            judgements = ask(judge, [comparisons[place] for place in missing])
            return [Entry(**vars(j), judge=name, key=keys[j.item]) for j in judgements]

        journal.fill(chunks, ask_for, on_progress, total)
        entries = [journal.done[place] for place in places]
        return [Ruling(e.label, e.reply, e.tokens) for e in entries]

    return tournaments(items, recorded, seed=seed, both_orders=both_orders)


def _key(item: Item, name: str, seed: int, both_orders: bool) -> str:
    content = repr((name, seed, both_orders, item.id, item.question, item.candidates))
    return hashlib.sha256(content.encode()).hexdigest()[:16]
