"""The response pool: what is kept, in which proportion, with which provenance."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from threading import Thread

import pytest

from critique_rl.pool import PoolCounts, collect_pool, select_balanced
from critique_rl.prompts import COMPACT, PAPER
from critique_rl.tasks import load_task
from critique_rl.training.stage_config import COLUMNS
from critique_rl.types import Conversation, Generation, Problem, Sampling, UserError, child_seed

SAMPLING = Sampling(20, 0.7)


class ToyActor:
    """Right on the first `right` prompts, elsewhere wrong with one of `spread` values drawn by the seed."""

    name = "toy"

    def __init__(self, problems: Sequence[Problem], right: int, spread: int = 50) -> None:
        self.answers = {p.question: p.answer for p in problems}
        self.right, self.spread = right, spread
        self.samplings: list[Sampling] = []

    def generate(self, prompts: Sequence[Conversation], sampling: Sampling) -> list[Generation]:
        self.samplings.append(sampling)
        replies = []
        for i, prompt in enumerate(prompts):
            question = prompt[0]["content"].split("\n")[0]
            wrong = 100 + child_seed(sampling.seed, i) % self.spread
            replies.append(f"The answer is {self.answers[question] if i < self.right else wrong}")
        return [Generation(reply, 5, 5, False) for reply in replies]


@pytest.fixture(scope="module")
def asked() -> list[Problem]:
    return load_task("modular_chain", split="train", steps=2, size=60)[:20]


def test_the_pool_is_balanced_deduplicated_and_knows_where_it_comes_from(asked: list[Problem]) -> None:
    actor = ToyActor(asked, right=8)
    progress: list[tuple[int, int]] = []
    pool = collect_pool(
        asked, actor, COMPACT, samples=3, sampling=SAMPLING, seed=5, on_progress=lambda *p: progress.append(p)
    )
    rows = pool.to_list()
    # 8 questions are always answered alike, so 8 right responses; of up to 36 wrong ones as many are kept.
    assert Counter(row["response_correct"] for row in rows) == {True: 8, False: 8}
    assert len({(row["id"], row["response"]) for row in rows}) == len(rows)
    assert set(COLUMNS) <= set(pool.column_names)  # what the trainer needs
    by_id = {p.id: p for p in asked}
    for row in rows:
        problem = by_id[row["id"]]
        assert (row["question"], row["answer"], row["kind"]) == (problem.question, problem.answer, "number")
        assert row["response_correct"] == row["response"].endswith(f" {problem.answer}")
        assert (row["dataset"], row["actor"], row["temperature"], row["pool_seed"]) == (
            "modular_chain",
            "toy",
            0.7,
            5,
        )
    assert {row["sample"] for row in rows if row["response_correct"]} == {0}  # the first of equal ones
    assert len({s.seed for s in actor.samplings}) == 3  # each round is another draw
    assert progress == [(1, 3), (2, 3), (3, 3)]
    order = [row["response_correct"] for row in rows]
    assert order not in (sorted(order), sorted(order, reverse=True))  # shuffled


def test_unbalanced_keeps_every_distinct_response(asked: list[Problem]) -> None:
    pool = collect_pool(
        asked, ToyActor(asked, right=8, spread=1), COMPACT, samples=3, sampling=SAMPLING, balanced=False
    )
    assert Counter(pool["response_correct"]) == {True: 8, False: 12}  # three equal draws of each question


def test_equal_seeds_give_equal_pools_and_others_do_not(asked: list[Problem]) -> None:
    def pool(seed: int) -> list[dict]:
        return collect_pool(
            asked, ToyActor(asked, right=8), COMPACT, samples=2, sampling=SAMPLING, seed=seed
        ).to_list()

    assert pool(1) == pool(1)
    first, second = ({(r["id"], r["response"]) for r in pool(seed)} for seed in (1, 2))
    assert first != second


@pytest.mark.parametrize(("right", "counts"), [(20, "20 right and 0 wrong"), (0, "0 right and 60 wrong")])
def test_one_class_alone_is_refused(asked: list[Problem], right: int, counts: str) -> None:
    actor = ToyActor(asked, right=right, spread=10**6)
    with pytest.raises(
        UserError, match=rf"^pool: {counts} responses for modular_chain .*`pool.balanced: false`"
    ):
        collect_pool(asked, actor, COMPACT, samples=3, sampling=SAMPLING)


def test_what_cannot_be_graded_is_left_out_and_nothing_is_refused(asked: list[Problem]) -> None:
    ungradable = [Problem(p.id, p.dataset, p.question, "", "no number", p.kind) for p in asked[:4]]
    mixed = [*ungradable, *asked[4:]]
    pool = collect_pool(mixed, ToyActor(asked, right=10), COMPACT, samples=1, sampling=SAMPLING)
    assert Counter(pool["response_correct"]) == {True: 6, False: 6}
    assert not {p.id for p in ungradable} & set(pool["id"])
    with pytest.raises(UserError, match="the response pool is empty"):
        collect_pool(ungradable, ToyActor(asked, right=10), COMPACT, samples=1, sampling=SAMPLING)


def test_what_became_of_every_response_is_counted(asked: list[Problem]) -> None:
    ungradable = [Problem(p.id, p.dataset, p.question, "", "no number", p.kind) for p in asked[:4]]
    said: list[PoolCounts] = []
    actor = ToyActor(asked, right=8, spread=1)
    pool = collect_pool(
        [*ungradable, *asked[4:]], actor, COMPACT, samples=3, sampling=SAMPLING, on_counts=said.append
    )
    # 16 questions that can be graded, each with three equal responses: 4 right, 12 wrong.
    assert said == [PoolCounts(drawn=60, ungraded=12, duplicates=32, right=4, wrong=12, kept=8)]
    assert len(pool) == 8
    assert said[0].drawn == said[0].ungraded + said[0].duplicates + 4 + 12


def test_a_stored_response_begins_with_its_prefill(asked: list[Problem]) -> None:
    pool = collect_pool(asked, ToyActor(asked, right=8), PAPER, samples=1, sampling=SAMPLING)
    assert all(response.startswith(PAPER.reasoning_prefill) for response in pool["response"])


def test_each_data_set_is_balanced_by_itself() -> None:
    rows = [
        {"dataset": d, "response_correct": o, "n": i}
        for d, o, n in (("a", True, 9), ("a", False, 2), ("b", True, 3), ("b", False, 5))
        for i in range(n)
    ]
    kept = Counter((row["dataset"], row["response_correct"]) for row in select_balanced(rows, seed=0))
    assert kept == {("a", True): 2, ("a", False): 2, ("b", True): 3, ("b", False): 3}
    drawn = {
        tuple(r["n"] for r in select_balanced(rows, seed=s) if r["dataset"] == "a" and r["response_correct"])
        for s in range(9)
    }
    assert len(drawn) > 1  # at random, not the first ones


def test_of_several_processes_each_draws_its_share_and_returns_the_pool_of_one(
    asked: list[Problem], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def pool(actor: ToyActor, rounds: Path) -> list[dict]:
        return collect_pool(
            asked, actor, COMPACT, samples=4, sampling=SAMPLING, seed=5, rounds=rounds
        ).to_list()

    alone, second, pools = ToyActor(asked, right=8), ToyActor(asked, right=8), list[list[dict]]()
    whole = pool(alone, tmp_path / "alone")
    (tmp_path / "two").mkdir()
    for sample in (0, 2):  # of the first process
        shutil.copy(tmp_path / "alone" / f"{sample}.jsonl", tmp_path / "two")
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    at_work = Thread(target=lambda: pools.append(pool(second, tmp_path / "two")), daemon=True)
    at_work.start()
    at_work.join(timeout=30)
    assert pools == [whole]
    assert second.samplings == [alone.samplings[1], alone.samplings[3]]


def test_an_interrupted_collection_asks_for_what_is_missing_alone(
    asked: list[Problem], tmp_path: Path
) -> None:
    class Failing(ToyActor):
        def generate(self, prompts: Sequence[Conversation], sampling: Sampling) -> list[Generation]:
            if len(self.samplings) == 2:
                raise KeyboardInterrupt
            return super().generate(prompts, sampling)

    failing, actor = Failing(asked, right=8), ToyActor(asked, right=8)
    with pytest.raises(KeyboardInterrupt):
        collect_pool(asked, failing, COMPACT, samples=3, sampling=SAMPLING, rounds=tmp_path)
    resumed = collect_pool(asked, actor, COMPACT, samples=3, sampling=SAMPLING, rounds=tmp_path)
    assert len(actor.samplings) == 1
    unbroken = collect_pool(asked, ToyActor(asked, right=8), COMPACT, samples=3, sampling=SAMPLING)
    assert resumed.to_list() == unbroken.to_list()
