"""A knock-out whose judgements are on disk as they are made, so that a killed one goes on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from critique_rl.records import read_records
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
from critique_rl.types import UserError


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
    check_identities(items)
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
                Entry(**vars(j), judge=self._name, key=self._keys[j.item]) for j in ask(self._judge, missing)
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
