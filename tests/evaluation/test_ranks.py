"""Several ranks evaluate their shares; the joined records are those of one process, byte for byte."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from threading import Thread

import pytest

from critique_rl.evaluation.protocol import Protocol, evaluate
from critique_rl.prompts import COMPACT, VERDICT_LABEL
from critique_rl.types import Conversation, Generation, Problem, Sampling, UserError, child_seed

PROBLEMS = [Problem(f"id{i}", "toy", f"What is {i} + 1?", "", str(i + 1), "number") for i in range(23)]
SAMPLED = Protocol(
    COMPACT, *(Sampling(n, 1.0) for n in (8, 16, 8)), seed=7, samples=2, rounds=2, critiques="shuffled"
)


class Drawing:
    """Draws each text from the seed of its batch and its place in it, as an actor does that samples."""

    name = "drawing"

    def __init__(self) -> None:
        self.written = 0

    def generate(self, prompts: Sequence[Conversation], sampling: Sampling) -> list[Generation]:
        self.written += len(prompts)
        draws = [child_seed(sampling.seed, i) % 30 for i in range(len(prompts))]
        verdicts = ("Correct", "Wrong")
        return [
            Generation(f"The answer is {d}\n{VERDICT_LABEL} {verdicts[d % 2]}", 9, 3, False) for d in draws
        ]


def measure(records: Path, rank: int = 0, ranks: int = 1, actor: Drawing | None = None) -> list[str]:
    """Evaluate the share of a rank; identities of the episodes that it returns."""
    actor = actor or Drawing()
    options = {"records": records, "chunk_size": 4, "rank": rank, "ranks": ranks}
    return [e.id for e in evaluate(PROBLEMS, actor, actor, SAMPLED, **options)]  # type: ignore[arg-type]


@pytest.fixture
def alone(tmp_path: Path) -> bytes:
    """Records of one process."""
    measure(tmp_path / "alone" / "records.jsonl")
    return (tmp_path / "alone" / "records.jsonl").read_bytes()


@pytest.mark.parametrize("ranks", [2, 3, 40])
def test_the_joined_records_are_those_of_one_process(tmp_path: Path, alone: bytes, ranks: int) -> None:
    records = tmp_path / "records.jsonl"
    first = Thread(target=measure, args=(records, 0, ranks))
    first.start()  # waits for the others
    for rank in range(1, ranks):
        measure(records, rank, ranks)
    first.join(timeout=30)
    assert not first.is_alive() and records.read_bytes() == alone
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["records.jsonl"]


def test_each_rank_writes_its_share_once(tmp_path: Path) -> None:
    records, actors = tmp_path / "records.jsonl", [Drawing() for _ in range(3)]
    for rank in (2, 1, 0):
        measure(records, rank, 3, actors[rank])
    alone = Drawing()
    measure(tmp_path / "alone.jsonl", actor=alone)
    assert sum(actor.written for actor in actors) == alone.written
    assert all(0 < actor.written < alone.written / 2 for actor in actors)


def test_an_interrupted_evaluation_goes_on_with_another_number_of_ranks(tmp_path: Path, alone: bytes) -> None:
    records, part = tmp_path / "records.jsonl", tmp_path / "records.rank1.jsonl"
    measure(records, 1, 2)
    part.write_bytes(part.read_bytes()[:-5])  # a kill cut the last line
    actor, whole = Drawing(), Drawing()
    measure(records, 2, 3, actor)  # reads what rank 1 has written then
    measure(tmp_path / "other" / "records.jsonl", 2, 3, whole)
    assert 0 < actor.written < whole.written
    measure(records)
    assert records.read_bytes() == alone and not part.exists()


def test_a_rank_that_comes_late_writes_nothing(tmp_path: Path, alone: bytes) -> None:
    records, late = tmp_path / "records.jsonl", Drawing()
    measure(records)
    assert len(measure(records, 1, 2, late)) == len(measure(records))
    assert late.written == 0 and records.read_bytes() == alone
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_file()) == ["records.jsonl"]


def test_records_of_other_problems_are_refused(tmp_path: Path) -> None:
    measure(tmp_path / "records.jsonl", 1, 2)
    part = tmp_path / "records.rank1.jsonl"
    part.write_text(part.read_text().replace('"id5"', '"id99"'))
    with pytest.raises(UserError, match="records of other problems"):
        measure(tmp_path / "records.jsonl")
