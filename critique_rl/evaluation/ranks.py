"""Records of several processes that evaluate together: each writes its own file, and rank 0 joins them.

No process waits in a collective: a long evaluation would run into its time-out.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from critique_rl.records import Journal, wait_for


def own_records(records: Path, rank: int) -> Path:
    """File that a rank writes: for rank 0 that of the evaluation itself.

    >>> own_records(Path("records.jsonl"), 1).name
    'records.rank1.jsonl'
    """
    return records if rank == 0 else records.with_suffix(f".rank{rank}.jsonl")


def adopt_others(journal: Journal[Any, Any], records: Path, rank: int) -> None:
    """Take over all finished records of the other ranks, and of an attempt with another number of them."""
    parts = records.parent.glob(f"{records.stem}.rank*.jsonl")
    others = [part for part in sorted(parts) if not part.name.endswith(".partial.jsonl")]
    if rank > 0:
        others.append(records)  # last: rank 0 joins the parts in it before it deletes them
    journal.adopt(path for path in others if path != own_records(records, rank))


def join(journal: Journal[Any, Any], records: Path, keys: Sequence[Any]) -> None:
    """Wait for the records of all ranks, write them in the order of the keys, and delete the ranks' files."""

    def complete() -> bool:
        adopt_others(journal, records, 0)
        return all(key in journal.done for key in keys)

    wait_for(complete)
    journal.put_in_order(keys)
    for left in records.parent.glob(f"{records.stem}.rank*"):
        left.unlink(missing_ok=True)
