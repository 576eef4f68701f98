"""The knock-out on judges of known strength, its accounting and records, and the baselines by hand."""

from __future__ import annotations

import dataclasses
import json
import math
import random
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from helpers import teach, write_response

from critique_rl.actors import TransformersActor
from critique_rl.actors.base import ActorError
from critique_rl.evaluation.episodes import Episode
from critique_rl.evaluation.intervals import wilson
from critique_rl.evaluation.protocol import Protocol, evaluate
from critique_rl.evaluation.scaling import majority_at, pass_by_problem
from critique_rl.evaluation.summary import summarise
from critique_rl.prompts import COMPACT
from critique_rl.records import read_records
from critique_rl.self_critique import (
    ActorJudge,
    Bracket,
    Comparison,
    Entry,
    Estimate,
    How,
    Item,
    Judgement,
    Ruling,
    blocks,
    by_item,
    curve,
    difference,
    items_of,
    judge_summary,
    metrics_by_item,
    self_critique,
    shuffled,
    tournament,
    tournaments,
)
from critique_rl.types import Conversation, Generation, Problem, Sampling, UserError


def strength(text: str) -> int:
    return int(text.split()[-1])


def better(asked: Comparison) -> int:
    return 1 if strength(asked.first) > strength(asked.second) else 2


def stronger(asked: Sequence[Comparison]) -> list[int | Ruling | None]:
    """A judge that is always right: candidates end in their strength."""
    return [better(c) for c in asked]


def always_first(asked: Sequence[Comparison]) -> list[int | Ruling | None]:
    return [1] * len(asked)


def mute(asked: Sequence[Comparison]) -> list[int | Ruling | None]:
    return [None] * len(asked)


class Watched:
    """Hands on to a judge and remembers each batch; is killed when more than `kill_at` comparisons are asked."""

    def __init__(self, judge: Callable[..., Any] = stronger, kill_at: int | None = None) -> None:
        self.judge, self.kill_at = judge, kill_at
        self.batches: list[list[Comparison]] = []

    @property
    def asked(self) -> list[Comparison]:
        return [c for batch in self.batches for c in batch]

    def __call__(self, asked: Sequence[Comparison]) -> Any:
        if self.kill_at is not None and len(self.asked) + len(asked) > self.kill_at:
            raise KeyboardInterrupt
        self.batches.append(list(asked))
        return self.judge(asked)


def strengths(n: int, seed: int = 0) -> list[str]:
    order = list(range(n))
    random.Random(seed).shuffle(order)
    return [f"candidate of strength {i}" for i in order]


def pool(identity: str, n: int, seed: int = 0, **fields: Any) -> Item:
    return Item(identity, f"question {identity}", tuple(strengths(n, seed)), **fields)


POOLS = [pool(f"i{n}", n, seed=n) for n in (7, 1, 4, 2, 16, 5)]


def all_judgements(brackets: Sequence[Bracket]) -> list[Judgement]:
    return [j for b in brackets for m in b.matches for j in m.judgements]


# --- the knock-out ------------------------------------------------------------------------------------


@pytest.mark.parametrize("both_orders", [False, True])
@pytest.mark.parametrize("n", range(1, 21))
def test_the_best_of_n_wins_at_n_minus_one_calls(n: int, both_orders: bool) -> None:
    candidates, judge = strengths(n, seed=n), Watched()
    bracket = tournament(candidates, judge, seed=3, both_orders=both_orders, question="Q?", item="x")
    assert strength(candidates[bracket.winner]) == n - 1
    expected = (n - 1) * (2 if both_orders else 1)
    assert (len(judge.asked), bracket.calls, bracket.reasks) == (expected, expected, 0)
    assert len(judge.batches) == math.ceil(math.log2(n))  # one call of the judge a round


@pytest.mark.parametrize("n", range(1, 21))
def test_byes(n: int) -> None:
    bracket = tournament(strengths(n), stronger, seed=1, both_orders=False)
    assert sorted(bracket.order) == list(range(n))
    standing, number = list(bracket.order), 0
    while len(standing) > 1:
        matches = [m for m in bracket.matches if m.round == number]
        assert [m.pair for m in matches] == list(range(math.ceil(len(standing) / 2)))
        met = [c for m in matches for c in (m.left, m.right) if c is not None]
        assert met == standing  # all who are left, in order, once
        byes = [m for m in matches if m.right is None]
        assert len(byes) == len(standing) % 2 and all(m.how is How.BYE and not m.judgements for m in byes)
        assert not byes or byes[0].winner == standing[-1]
        standing, number = [m.winner for m in matches], number + 1
    assert standing == [bracket.winner] and number == math.ceil(math.log2(n))
    assert len(bracket.matches) == n - 1 + sum(m.right is None for m in bracket.matches)


def test_every_judgement_is_kept_with_what_was_asked() -> None:
    candidates = strengths(5)
    judge = Watched(lambda asked: [Ruling(better(c), f"{c.first} or {c.second}", 7) for c in asked])
    bracket = tournament(candidates, judge, seed=0, both_orders=True, item="x")
    made = all_judgements([bracket])
    assert [(j.item, j.round, j.pair, j.order, (j.first, j.second)) for j in made] == [
        (c.item, c.round, c.pair, c.order, c.places) for c in judge.asked
    ]
    assert [j.order for j in made] == ["forward", "swapped"] * 4
    for asked, j in zip(judge.asked, made, strict=True):
        assert (asked.first, asked.second) == (candidates[j.first], candidates[j.second])
        assert (j.reply, j.tokens) == (f"{asked.first} or {asked.second}", 7)
        assert j.winner == (j.first if j.label == 1 else j.second)
        assert strength(candidates[j.winner]) == max(strength(asked.first), strength(asked.second))
    for match in bracket.matches:
        forward, *swapped = [(j.first, j.second) for j in match.judgements] or [None]
        assert forward is None or (forward, swapped) == (
            (match.left, match.right),
            [(match.right, match.left)],
        )


def test_question_and_payload_reach_the_judge_untouched_and_grades_do_not() -> None:
    class Picture:
        __hash__ = None  # type: ignore[assignment]

        def __eq__(self, other: object) -> bool:
            raise AssertionError("a payload is not looked at")

    picture, judge = Picture(), Watched()
    tournament(strengths(4), judge, seed=0, both_orders=True, question="How many?", payload=picture)
    assert all(c.payload is picture and c.question == "How many?" for c in judge.asked)
    tournaments([pool("i", 3, correct=(True, False, None))], judge, seed=0, both_orders=False)
    assert {field.name for field in dataclasses.fields(judge.asked[-1])} == {
        *("item", "round", "pair", "order", "places", "question", "first", "second", "payload")
    }


@pytest.mark.parametrize("both_orders", [False, True])
def test_many_items_share_the_calls_of_each_round_and_nothing_else(both_orders: bool) -> None:
    def shaky(asked: Sequence[Comparison]) -> list[int | Ruling | None]:
        """Prefers a position, or says nothing, by the texts alone."""
        return [(1, 2, None)[(3 * strength(c.first) + 5 * strength(c.second)) % 3] for c in asked]

    judge = Watched(shaky)
    together = tournaments(POOLS, judge, seed=5, both_orders=both_orders)
    rounds = [{c.round for c in batch} for batch in judge.batches]
    assert all(len(r) == 1 for r in rounds)
    if both_orders:
        assert rounds == [{0}, {1}, {2}, {3}]
    alone = [
        tournament(p.candidates, shaky, seed=5, both_orders=both_orders, question=p.question, item=p.id)
        for p in POOLS
    ]
    assert together == alone
    assert tournaments(POOLS[::-1], shaky, seed=5, both_orders=both_orders) == alone[::-1]
    assert {m.how for b in alone for m in b.matches} == (
        {How.AGREEMENT, How.COIN, How.KEPT, How.BYE}
        if both_orders
        else {How.LABEL, How.REASK, How.KEPT, How.BYE}
    )


def test_the_same_seed_gives_the_same_bracket_and_another_one_another() -> None:
    def run(seed: int, item: str = "x") -> Bracket:
        return tournament(strengths(16), always_first, seed=seed, both_orders=True, item=item)

    assert run(0) == run(0)
    assert len({run(seed).order for seed in range(20)}) == 20
    assert run(0).order != run(0, "y").order  # each item has an order of its own

    def coins(bracket: Bracket) -> tuple[bool, ...]:
        return tuple(m.winner == m.left for m in bracket.matches)

    # 15 coins each: that two of 20 agree by chance has a probability of 0.006.
    assert len({coins(run(seed)) for seed in range(20)}) == 20
    assert len({coins(run(0, f"item {i}")) for i in range(20)}) == 20
    # The same on every machine and in every process: records of one are read by another.
    assert shuffled("x", 8, seed=0) == (3, 7, 1, 6, 0, 4, 5, 2)


def test_each_candidate_comes_to_each_place_equally_often() -> None:
    places = Counter((shuffled("x", 5, seed=seed).index(i), i) for seed in range(5000) for i in range(5))
    # 1,000 expected of each, one standard deviation is 28; 25 cells.
    assert all(abs(places[p, i] - 1000) < 4 * 28 for p in range(5) for i in range(5))


def test_a_pool_without_candidates_and_a_shared_identity_are_refused() -> None:
    with pytest.raises(UserError, match="item 'x' has no candidates"):
        tournament([], stronger, seed=0, both_orders=True, item="x")
    with pytest.raises(UserError, match="2 items have the identity 'a'"):
        tournaments([pool("a", 2), pool("b", 2), pool("a", 3)], stronger, seed=0, both_orders=True)
    with pytest.raises(UserError, match="'a' has 2 candidates and 1 grades"):
        pool("a", 2, correct=(True,))


@pytest.mark.parametrize("answer", [0, 3, True, "1", 1.0, Ruling(0), Ruling(True)])
def test_a_judge_that_answers_something_else_is_refused(answer: Any) -> None:
    with pytest.raises(ValueError, match="the judge must answer 1, 2 or None, not"):
        tournament(strengths(2), lambda asked: [answer] * len(asked), seed=0, both_orders=False)


def test_a_judge_that_leaves_something_out_is_refused() -> None:
    with pytest.raises(ValueError, match="gave 3 answers to 4 comparisons"):
        tournament(strengths(4), lambda asked: [1] * (len(asked) - 1), seed=0, both_orders=True)


# --- position bias ------------------------------------------------------------------------------------


def test_a_liking_for_the_first_place_decides_everything_with_one_order() -> None:
    for seed in range(50):
        bracket = tournament(strengths(7), always_first, seed=seed, both_orders=False)
        assert bracket.winner == bracket.order[0]
        assert all(m.how in (How.LABEL, How.BYE) for m in bracket.matches)
    found = judge_summary([], [bracket])
    assert found["said_first"].mean == 1.0 and found["agreement"] == Estimate(None, None, None)


def test_a_liking_for_the_first_place_decides_nothing_with_both_orders() -> None:
    brackets = [tournament(strengths(8), always_first, seed=seed, both_orders=True) for seed in range(2000)]
    matches = [m for b in brackets for m in b.matches]
    assert {m.how for m in matches} == {How.COIN}
    # 14,000 coins: one standard error of the share is 0.0042.
    assert sum(m.winner == m.left for m in matches) / len(matches) == pytest.approx(0.5, abs=0.017)
    # 250 of the 2,000 survivors from each place, one standard deviation is 15.
    places = Counter(b.order.index(b.winner) for b in brackets)
    assert all(abs(places[place] - 250) < 4 * 15 for place in range(8))
    found = judge_summary([], brackets)
    assert (found["said_first"].mean, found["agreement"].mean, found["decided"]["coin"]) == (1.0, 0.0, 14_000)


def test_both_orders_find_no_better_candidates_than_one() -> None:
    def mostly_first(asked: Sequence[Comparison]) -> list[int | Ruling | None]:
        """Named when first: always; when second: if it is stronger by 3, so that p = 1 and q < 1."""
        return [2 if strength(c.second) - strength(c.first) >= 3 else 1 for c in asked]

    def reached(both_orders: bool) -> float:
        texts, runs = strengths(8), range(1500)
        winners = [tournament(texts, mostly_first, seed=s, both_orders=both_orders).winner for s in runs]
        return sum(strength(texts[w]) for w in winners) / len(runs)

    # Strengths of winners have a standard deviation of about 1.2: one standard error of a mean is 0.03.
    one, both = reached(False), reached(True)
    assert one == pytest.approx(both, abs=0.15) and one > 5


# --- judgements that cannot be read -------------------------------------------------------------------


def test_an_unread_judgement_is_asked_again_in_swapped_order() -> None:
    judge = Watched(lambda asked: [better(c) if c.order == "swapped" else None for c in asked])
    candidates = strengths(6)
    bracket = tournament(candidates, judge, seed=0, both_orders=False)
    assert strength(candidates[bracket.winner]) == 5
    assert (bracket.calls, bracket.reasks, len(judge.asked)) == (5, 5, 10)
    assert [{c.order for c in batch} for batch in judge.batches] == [{"forward"}, {"swapped"}] * 3
    for match in bracket.matches:
        if match.right is not None:
            first, again = match.judgements
            assert (again.first, again.second) == (first.second, first.first) == (match.right, match.left)
            assert match.how is How.REASK and match.winner == again.winner and first.winner is None


def test_only_what_was_not_read_is_asked_again() -> None:
    judge = Watched(lambda asked: [None if strength(c.first) == 0 else better(c) for c in asked])
    brackets = [tournament(strengths(8), judge, seed=seed, both_orders=False) for seed in range(10)]
    assert all(strength(strengths(8)[b.winner]) == 7 for b in brackets)
    shown_first = sum(strength(strengths(8)[b.order[i]]) == 0 for b in brackets for i in (0, 2, 4, 6))
    assert 0 < shown_first < 10
    assert sum(b.reasks for b in brackets) == shown_first and {b.calls for b in brackets} == {7}


def test_the_left_one_stays_where_nothing_can_be_read() -> None:
    one = tournament(strengths(9), mute, seed=2, both_orders=False)
    assert one.winner == one.order[0]
    assert (one.calls, one.reasks) == (8, 8)
    both = tournament(strengths(9), mute, seed=2, both_orders=True)
    assert both.winner == both.order[0]
    assert (both.calls, both.reasks) == (16, 0)  # each order is the re-ask of the other
    assert {m.how for b in (one, both) for m in b.matches} == {How.KEPT, How.BYE}
    assert judge_summary([], [one])["unparsed"].mean == 1.0


def test_one_order_alone_is_no_agreement() -> None:
    def half(asked: Sequence[Comparison]) -> list[int | Ruling | None]:
        return [1 if c.order == "forward" else None for c in asked]

    brackets = [tournament(strengths(4), half, seed=s, both_orders=True) for s in range(2000)]
    matches = [m for b in brackets for m in b.matches]
    assert {m.how for m in matches} == {How.COIN} and {b.reasks for b in brackets} == {0}
    # 6,000 coins: one standard error is 0.0065.
    assert sum(m.winner == m.left for m in matches) / 6000 == pytest.approx(0.5, abs=0.026)
    found = judge_summary([], brackets)
    assert found["agreement"] == Estimate(None, None, None)  # no pair was read twice
    assert (found["unparsed"].mean, found["said_first"].mean) == (0.5, 1.0)


# --- going on -----------------------------------------------------------------------------------------


def shy(asked: Sequence[Comparison]) -> list[int | Ruling | None]:
    """Right, but cannot be read where the first text is of even strength and shown forward."""
    return [
        Ruling(
            None if strength(c.first) % 2 == 0 and c.order == "forward" else better(c), f"π {better(c)}", 9
        )
        for c in asked
    ]


def on_disk(judge: Any, records: Path, items: Sequence[Item] = POOLS, **settings: Any) -> list[Bracket]:
    defaults: dict[str, Any] = {"name": "toy", "seed": 0, "both_orders": False, "chunk_size": 4}
    return self_critique(items, judge, records=records, **(defaults | settings))


@pytest.mark.parametrize("both_orders", [False, True])
@pytest.mark.parametrize("kill_at", [0, 3, 4, 17, 30])
def test_a_killed_run_asks_nothing_twice(tmp_path: Path, kill_at: int, both_orders: bool) -> None:
    whole = Watched(shy)
    expected = on_disk(whole, tmp_path / "deep" / "whole.jsonl", both_orders=both_orders)
    assert expected == tournaments(POOLS, shy, seed=0, both_orders=both_orders)
    assert len(whole.asked) == sum(b.calls + b.reasks for b in expected)
    assert both_orders or sum(b.reasks for b in expected) > 0
    records = tmp_path / "broken.jsonl"
    killed, second = Watched(shy, kill_at), Watched(shy)
    with pytest.raises(KeyboardInterrupt):
        on_disk(killed, records, both_orders=both_orders)
    assert kill_at - 4 < len(killed.asked) <= kill_at
    assert on_disk(second, records, both_orders=both_orders) == expected
    assert killed.asked + second.asked == whole.asked
    assert records.read_bytes() == (tmp_path / "deep" / "whole.jsonl").read_bytes()
    third = Watched(shy)
    assert on_disk(third, records, both_orders=both_orders) == expected
    assert third.asked == []


def test_a_run_on_disk_can_be_audited_from_its_records(tmp_path: Path) -> None:
    brackets = on_disk(Watched(shy), tmp_path / "j.jsonl")
    entries = read_records(tmp_path / "j.jsonl", Entry)
    made = {(j.item, j.round, j.pair, j.order): j for j in all_judgements(brackets)}
    assert len(entries) == len(made) == sum(b.calls + b.reasks for b in brackets)
    for entry in entries:
        fields = {f.name: getattr(entry, f.name) for f in dataclasses.fields(Judgement)}
        assert Judgement(**fields) == made[entry.item, entry.round, entry.pair, entry.order]
        assert entry.judge == "toy" and entry.reply.startswith("π ") and entry.tokens == 9
    assert len({entry.key for entry in entries}) == len({entry.item for entry in entries}) == 5


def test_items_that_are_added_later_leave_the_others_as_they_are(tmp_path: Path) -> None:
    first, second = Watched(shy), Watched(shy)
    some = on_disk(first, tmp_path / "j.jsonl", POOLS[:3])
    assert on_disk(second, tmp_path / "j.jsonl")[:3] == some
    assert {c.item for c in second.asked} == {p.id for p in POOLS[3:]}


def test_foreign_records_are_refused(tmp_path: Path) -> None:
    records = tmp_path / "j.jsonl"
    on_disk(Watched(shy), records)
    rewritten = dataclasses.replace(POOLS[0], candidates=("x 1", *POOLS[0].candidates[1:]))
    other: list[dict[str, Any]] = [
        {"name": "another"},
        {"seed": 1},
        {"both_orders": True},
        {"items": POOLS[1:]},
        {"items": [rewritten, *POOLS[1:]]},
        {"items": [dataclasses.replace(POOLS[0], question="another"), *POOLS[1:]]},
    ]
    for settings in other:
        judge = Watched(shy)
        with pytest.raises(UserError, match=r"j.jsonl holds judgements of another judge"):
            on_disk(judge, records, **settings)
        assert judge.asked == []


@pytest.mark.parametrize("both_orders", [False, True])
def test_progress_counts_calls_and_no_reasks(tmp_path: Path, both_orders: bool) -> None:
    seen: list[tuple[int, int]] = []
    brackets = on_disk(
        Watched(shy),
        tmp_path / "j.jsonl",
        both_orders=both_orders,
        on_progress=lambda done, total: seen.append((done, total)),
    )
    total = sum(b.calls for b in brackets)
    assert seen[-1] == (total, total) and {t for _, t in seen} == {total}
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)


# --- a model as judge ---------------------------------------------------------------------------------


class Toy:
    """An actor that judges by strength and names what it prefers in a box; cannot be reached after a while."""

    def __init__(self, name: str = "toy", healthy: int = 10**6) -> None:
        self.name, self.healthy = name, healthy
        self.calls: list[tuple[int, Sampling]] = []

    def generate(self, prompts: Sequence[Conversation], sampling: Sampling) -> list[Generation]:
        if sum(n for n, _ in self.calls) >= self.healthy:
            raise ActorError("no credit left")
        self.calls.append((len(prompts), sampling))
        return [Generation(self.judge(p[0]["content"]), 20, 5, False) for p in prompts]

    def judge(self, text: str) -> str:
        first, second = (strength(text.split(f"\n[end answer {i}]")[0]) for i in (1, 2))
        return f"<think>{first} or {second}</think>\\boxed{{{1 if first > second else 2}}}"


def test_an_actor_judges_a_whole_round_in_one_greedy_call() -> None:
    actor = Toy()
    brackets = tournaments(POOLS, ActorJudge(actor, max_tokens=64), seed=0, both_orders=True)
    assert actor.calls == [(2 * n, Sampling(64)) for n in (3 + 2 + 1 + 8 + 2, 2 + 1 + 4 + 1, 1 + 2 + 1, 1)]
    for item, bracket in zip(POOLS, brackets, strict=True):
        assert strength(item.candidates[bracket.winner]) == len(item.candidates) - 1
    made = all_judgements(brackets)
    assert {j.tokens for j in made} == {25} and all("</think>" in j.reply for j in made)


def test_a_judge_that_fails_leaves_what_it_said(tmp_path: Path) -> None:
    def run(actor: Toy) -> list[Bracket]:
        judge = ActorJudge(actor)
        return on_disk(judge, tmp_path / "j.jsonl", name=judge.name)

    with pytest.raises(ActorError, match="no credit left"):
        run(Toy(healthy=9))
    second = Toy()
    brackets = run(second)
    assert sum(n for n, _ in second.calls) + 12 == sum(b.calls for b in brackets)


def test_the_name_of_a_judge_tells_actors_prompts_and_limits_apart() -> None:
    judges = [
        ActorJudge(Toy()),
        ActorJudge(Toy("b")),
        ActorJudge(Toy(), max_tokens=9),
        ActorJudge(Toy(), prompts=COMPACT),
        ActorJudge(Toy(), thinking=True),
    ]
    assert len({judge.name for judge in judges}) == 5 and judges[0].name == ActorJudge(Toy()).name


@pytest.fixture(scope="module")
def judging_dir(tmp_path_factory: pytest.TempPathFactory, problems: list[Problem]) -> Path:
    """A tiny model that has been taught to name the solution without an open step, but not too well."""
    rng = random.Random(0)
    chats = []
    for problem in problems * 4:
        texts = [write_response(problem, int(problem.answer)), write_response(problem, 0)]
        better = rng.randrange(2)
        prompt = COMPACT.pairwise_prompt(problem.question, texts[better], texts[1 - better])
        chats.append((prompt, f"\\boxed{{{better + 1}}}"))
    directory = tmp_path_factory.mktemp("models") / "judge"
    teach(directory, chats, seed=3, steps=250)
    return directory


def test_a_real_model_judges_candidates(judging_dir: Path, problems: list[Problem], tmp_path: Path) -> None:
    rng = random.Random(1)
    items = []
    for problem in problems[:24]:
        right = [rng.random() < 0.4 for _ in range(8)]
        texts = tuple(write_response(problem, int(problem.answer) if r else 0) for r in right)
        items.append(Item(problem.id, problem.question, texts, tuple(right), problem.kind))
    judge = ActorJudge(TransformersActor(str(judging_dir)), prompts=COMPACT, max_tokens=12)
    brackets = self_critique(
        items, judge, name=judge.name, seed=0, both_orders=True, records=tmp_path / "j.jsonl"
    )
    found = judge_summary(items, brackets)
    assert found["calls"] == 2 * 7 * 24 and found["accuracy"].low > 0.8
    values = by_item(items, {"self": brackets}, seed=0)
    gain = difference(values, "self", "single", 8, seed=0)
    assert gain.low is not None and gain.low > 0.2  # 0.4 a sample; some candidate of 8 is right in 98 %


# --- baselines ----------------------------------------------------------------------------------------


def answered(identity: str, answers: str, right: str = "1", ungraded: Sequence[int] = ()) -> Item:
    """Candidates with one answer each, `.` for none; an answer equal to `right` is right."""
    texts = tuple("I do not know." if a == "." else f"The answer is {a}" for a in answers)
    correct = tuple(None if i in ungraded else a == right for i, a in enumerate(answers))
    return Item(identity, "?", texts, correct, "number")


def knows(items: Sequence[Item]) -> Callable[..., list[int | Ruling | None]]:
    """A judge that prefers the right one of two, and of equals the first."""
    grades = {item.id: item.correct for item in items}
    return lambda asked: [
        2 if grades[c.item][c.places[1]] and not grades[c.item][c.places[0]] else 1 for c in asked
    ]


def test_baselines_by_hand() -> None:
    items = [answered("a", "12122222"), answered("b", "1112.222")]
    seed = 4
    values = by_item(items, {}, seed=seed)
    assert list(values) == ["single", "majority", "random", "pass"]
    assert {name: list(ns) for name, ns in values.items()} == {name: [1, 2, 4, 8] for name in values}
    for n in (1, 2, 4, 8):
        assert values["single"][n] == {"a": 2 / 8, "b": 3 / 8}
    # With 2 and 3 right ones C(6, k) and C(5, k) of C(8, k) draws are all wrong.
    wrong = {1: (6 / 8, 5 / 8), 2: (15 / 28, 10 / 28), 4: (15 / 70, 5 / 70), 8: (0, 0)}
    for n, (a, b) in wrong.items():
        assert values["pass"][n] == pytest.approx({"a": 1 - a, "b": 1 - b})
    assert values["random"][1] == values["majority"][1] == values["single"][1]
    # b: three votes for 1, four for 2, no answer once: 2 wins.
    assert values["majority"][8] == {"a": 0.0, "b": 0.0}
    for item in items:
        voted = []
        for block in blocks(shuffled(item.id, 8, seed=seed), 4):
            answers = [
                item.candidates[i].split()[-1] for i in block if item.correct[i] or "2" in item.candidates[i]
            ]
            voted.append(Counter(answers).most_common(1)[0][0] == "1")
        assert (values["majority"][4] or {})[item.id] == sum(voted) / 2


def test_what_could_not_be_graded_is_left_out_and_never_wrong() -> None:
    item = answered("a", "1111", ungraded=[0, 1])
    bracket = tournament(item.candidates, always_first, seed=0, both_orders=False, item="a")
    values = by_item([item], {"judge": [bracket]}, seed=0)
    kept = [item.correct[i] for i in shuffled("a", 4, seed=0)]
    assert values["judge"][1] == values["single"][1] == values["random"][1] == {"a": 1.0}
    assert values["judge"][4] == {"a": None if kept[0] is None else 1.0}
    assert values["pass"] == {1: {"a": 1.0}, 2: {"a": 1.0}, 4: {"a": None}}  # two graded ones alone
    assert values["majority"][4] == {"a": 1.0}  # the answer was graded in another candidate
    none = answered("b", "11", ungraded=[0, 1])
    chosen = tournament(none.candidates, always_first, seed=0, both_orders=False, item="b")
    points = curve([none], {"judge": [chosen]}, seed=0)
    assert {(p.accuracy, p.items) for p in points} == {(Estimate(None, None, None), 0)}


def random_items(count: int, n: int, share: float, seed: int = 0) -> list[Item]:
    rng = random.Random(seed)
    return [
        answered(f"p{i}", "".join("1" if rng.random() < share else rng.choice("23") for _ in range(n)))
        for i in range(count)
    ]


def test_a_perfect_judge_reaches_the_oracle_and_a_blind_one_a_single_sample() -> None:
    items = random_items(400, 8, 0.3)
    perfect = tournaments(items, knows(items), seed=0, both_orders=False)
    blind = tournaments(items, always_first, seed=0, both_orders=True)
    points = {(p.method, p.n): p for p in curve(items, {"perfect": perfect, "blind": blind}, seed=0)}
    for n in (1, 2, 4, 8):
        truth = 1 - 0.7**n
        # 400 x 8 / n blocks; the standard error of the largest is 0.023.
        assert points["perfect", n].accuracy.mean == pytest.approx(truth, abs=0.06)
        assert points["pass", n].accuracy.mean == pytest.approx(truth, abs=0.06)
        for method in ("blind", "random", "single"):
            assert points[method, n].accuracy.mean == pytest.approx(0.3, abs=0.07)
        assert points["perfect", n].items == 400
    assert points["perfect", 8].accuracy == points["pass", 8].accuracy
    low, mean, high = (getattr(points["perfect", 8].accuracy, f) for f in ("low", "mean", "high"))
    assert low < mean < high
    assert (low, high) == pytest.approx(wilson(round(400 * mean), 400), abs=0.01)


def test_a_bracket_holds_the_knock_outs_of_its_blocks() -> None:
    item = dataclasses.replace(random_items(1, 20, 0.3)[0], candidates=tuple(strengths(20)))
    (bracket,) = tournaments([item], stronger, seed=0, both_orders=False)
    for n in (1, 2, 4, 8, 16):
        cut = blocks(bracket.order, n)
        assert len(cut) == 20 // n
        best = [max(block, key=lambda i: strength(item.candidates[i])) for block in cut]
        assert list(bracket.choices(n)) == best
        judged = bracket.judgements(n)
        assert len(judged) == (20 // n) * (n - 1)
        assert all(any({j.first, j.second} <= set(block) for block in cut) for j in judged)
    assert bracket.survivors(5) == (bracket.winner,)
    for n in (0, 3, 32):
        with pytest.raises(ValueError, match=f"a bracket of 20 has no choices among n={n}"):
            bracket.choices(n)


def test_the_cost_of_a_choice_is_n_minus_one_calls_and_the_reasks() -> None:
    items = [answered(f"p{i}", "1" * size) for i, size in enumerate((8, 11, 9))]

    def told(asked: Sequence[Comparison]) -> list[int | Ruling | None]:
        return [Ruling(1, "", 10) for _ in asked]

    def unread(asked: Sequence[Comparison]) -> list[int | Ruling | None]:
        return [Ruling(None, "", 10) for _ in asked]

    brackets = {
        "one": tournaments(items, told, seed=0, both_orders=False),
        "both": tournaments(items, told, seed=0, both_orders=True),
        "unread": tournaments(items, unread, seed=0, both_orders=False),
    }
    costs = {(p.method, p.n): (p.calls, p.tokens) for p in curve(items, brackets, seed=0)}
    for n in (1, 2, 4, 8):
        assert costs["one", n] == (n - 1, 10 * (n - 1))
        assert costs["both", n] == costs["unread", n] == (2 * (n - 1), 20 * (n - 1))
        assert costs["majority", n] == (0.0, 0.0)


def test_a_paired_difference_is_narrower_than_two_intervals() -> None:
    items = random_items(200, 4, 0.5)
    perfect = tournaments(items, knows(items), seed=0, both_orders=False)
    values = by_item(items, {"perfect": perfect}, seed=0)
    gain = difference(values, "perfect", "single", 4, seed=0)
    a, b = values["perfect"][4] or {}, values["single"][4] or {}
    assert gain.mean == pytest.approx(sum((a[i] or 0) - (b[i] or 0) for i in a) / 200)
    assert gain.low is not None and gain.high is not None and 0 < gain.low < gain.high
    same = difference(values, "perfect", "perfect", 4, seed=0)
    assert same == Estimate(0.0, 0.0, 0.0)
    values["single"][4] = b | {"p0": None}
    without = difference(values, "perfect", "single", 4, seed=0)
    assert without.mean == pytest.approx(sum((a[i] or 0) - (b[i] or 0) for i in a if i != "p0") / 199)


def test_measures_follow_their_seed() -> None:
    items = random_items(40, 8, 0.4)

    def measured(seed: int) -> list[Any]:
        return curve(items, {"j": tournaments(items, always_first, seed=seed, both_orders=True)}, seed=seed)

    assert measured(0) == measured(0)
    of = [{(p.method, p.n): p.accuracy.mean for p in measured(seed)} for seed in (0, 1)]
    assert all(of[0]["pass", n] == of[1]["pass", n] for n in (1, 2, 4, 8))
    assert all(of[0][method, 4] != of[1][method, 4] for method in ("majority", "random", "j"))


def test_values_go_into_a_report_as_further_metrics() -> None:
    items = random_items(30, 4, 0.4)
    found = []
    for seed in (0, 1):
        brackets = tournaments(items, knows(items), seed=seed, both_orders=True)
        found.append(metrics_by_item(by_item(items, {"self_critique": brackets}, seed=seed)))
    assert list(found[0])[:4] == ["single_at_1", "single_at_2", "single_at_4", "majority_at_1"]
    measured = summarise([[], []], found)
    assert measured["self_critique_at_4"]["mean"] == measured["pass_at_4"]["mean"]
    assert len(measured["random_at_2"]["values"]) == 2
    json.dumps([asdict(p) for p in curve(items, {}, seed=0)])


def test_the_judge_is_measured_on_pairs_of_right_and_wrong() -> None:
    items = random_items(60, 8, 0.5)
    grades = {item.id: item.correct for item in items}
    brackets = tournaments(items, knows(items), seed=0, both_orders=True)
    found = judge_summary(items, brackets)
    mixed = [j for j in all_judgements(brackets) if grades[j.item][j.first] != grades[j.item][j.second]]
    assert found["accuracy"].mean == 1.0 and found["accuracy"].low == wilson(len(mixed), len(mixed))[0]  # type: ignore[index]
    assert found["calls"] == 60 * 14 and found["reasks"] == 0
    # Of equals the judge says the first in both orders, of others the same one twice.
    pairs = [(grades[b.item][m.left], grades[b.item][m.right or 0]) for b in brackets for m in b.matches]
    alike = sum(left == right for left, right in pairs)
    assert (found["decided"]["coin"], found["agreement"].mean) == (alike, (420 - alike) / 420)
    one = judge_summary(items, tournaments(items, always_first, seed=0, both_orders=False))
    assert one["accuracy"].mean == pytest.approx(0.5, abs=0.15) and one["said_first"].mean == 1.0
    assert judge_summary([], brackets)["accuracy"] == Estimate(None, None, None)


def test_what_cannot_be_measured_is_refused() -> None:
    items = random_items(2, 4, 0.5)
    brackets = tournaments(items, stronger, seed=0, both_orders=False)
    refused: list[tuple[str, dict[str, Any]]] = [
        ("no items", {"items": []}),
        ("identity 'p0'", {"items": [items[0], items[0]]}),
        ("'p1' has no grades", {"items": [items[0], dataclasses.replace(items[1], correct=())]}),
        ("kind 'score'", {"items": [items[0], dataclasses.replace(items[1], kind="score")]}),
        ("n=3 cannot be measured", {"ns": [1, 3]}),
        ("n=8 cannot be measured", {"ns": [8]}),
        ("name of the baseline 'majority'", {"brackets": {"majority": brackets}}),
        ("'j' have none of item 'p0' with seed 1", {"seed": 1}),
        ("'j' have none of item 'p1'", {"brackets": {"j": brackets[:1]}}),
    ]
    for message, changed in refused:
        settings: dict[str, Any] = {"items": items, "brackets": {"j": brackets}, "seed": 0} | changed
        with pytest.raises(UserError, match=message):
            by_item(settings.pop("items"), settings.pop("brackets"), **settings)


# --- pools from the protocol --------------------------------------------------------------------------


class Sampled:
    """Answers 1 with a probability of 0.4, in several spellings."""

    name = "sampled"

    def generate(self, prompts: Sequence[Conversation], sampling: Sampling) -> list[Generation]:
        rng = random.Random(sampling.seed)
        drawn = [rng.choice(("1", "1.0")) if rng.random() < 0.4 else rng.choice("234") for _ in prompts]
        return [Generation(f"The answer is {answer}", 10, 3, False) for answer in drawn]


def sampled(tmp_path: Path, samples: int = 8) -> list[Episode]:
    asked = [Problem(f"p{i}", "toy", f"Say 1, {i}.", "", "1", "number") for i in range(50)]
    greedy = Sampling(8)
    protocol = Protocol(COMPACT, greedy, greedy, greedy, seed=1, samples=samples)
    return evaluate(asked, Sampled(), None, protocol, records=tmp_path / "records.jsonl")


def test_the_pool_is_what_an_evaluation_sampled(tmp_path: Path) -> None:
    picture = "data:image/png;base64,AAAA"
    episodes = [dataclasses.replace(e, image=picture if e.id == "p7" else None) for e in sampled(tmp_path)]
    items = items_of(episodes)
    assert [item.id for item in items] == [f"p{i}" for i in range(50)]
    assert items[7].payload == picture and items[8].payload is None
    first = [e for e in episodes if e.id == "p7"]
    assert items[7].candidates == tuple(e.response for e in sorted(first, key=lambda e: e.sample))
    assert items[7].correct == tuple(e.response_correct for e in sorted(first, key=lambda e: e.sample))
    assert items[7].question == "Say 1, 7." and items[7].kind == "number"
    values = by_item(items, {}, seed=0)
    assert values["pass"] == pass_by_problem(episodes, [1, 2, 4, 8])
    votes = majority_at(episodes, [8])[8]
    # The vote over the whole pool differs in its ties alone, which are broken in another order.
    ours = values["majority"][8] or {}
    assert votes is not None and sum(v or 0 for v in ours.values()) / 50 == pytest.approx(votes, abs=0.1)


def test_refinements_are_candidates_where_there_are_some() -> None:
    replies = ("The answer is 2", False, "c", "wrong", "The answer is 1", True)
    first = Episode("p", "toy", "?", "1", "number", *replies, tokens=5)
    (item,) = items_of([first, dataclasses.replace(first, sample=1, refinement=None, critique=None)])
    assert item.candidates == ("The answer is 1", "The answer is 2") and item.correct == (True, False)


def test_a_benchmark_at_128_candidates_takes_seconds() -> None:
    items = random_items(30, 128, 0.3)
    started = time.process_time()
    brackets = tournaments(items, knows(items), seed=0, both_orders=True)
    curve(items, {"j": brackets}, seed=0)
    assert time.process_time() - started < 8
