"""Critics on pairs and reward benchmarks: published rows, prompt, scorers, records, and each number by hand."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
from helpers import png, write_jsonl

from critique_rl.benchmarks import (
    HUB,
    MM_RLHF_REWARDBENCH,
    SCORERS,
    VL_REWARDBENCH,
    PairJudgement,
    drawn_order,
    evaluate_benchmark,
    grouped_by_item,
    judge_pairs,
    load_reward_benchmark,
    markdown_table,
    mean_of,
    metrics_by_item,
    pair_accuracy,
    parse_lenient,
    visual_rewardbench,
)
from critique_rl.critic_data import PreferencePair, swap
from critique_rl.evaluation.intervals import wilson
from critique_rl.evaluation.summary import summarise
from critique_rl.pairwise_rewards import parse_preference
from critique_rl.prompts import THINK_SUFFIX, THINKING
from critique_rl.self_critique import ActorJudge, Comparison, Ruling
from critique_rl.tasks.base import DataError
from critique_rl.types import Conversation, Generation, Sampling, UserError
from critique_rl.vision.images import data_url


def picture(grey: int) -> bytes:
    return png((grey, 0, 255 - grey), (12, 8))


def pair(i: int, label: int = 1, source: str = "toy", **fields: Any) -> PreferencePair:
    better, worse = f"right {i}", f"wrong {i}"
    texts = (better, worse) if label == 1 else (worse, better)
    made = PreferencePair(f"p{i}", source, picture(i), f"Question {i}?", *texts, label)
    return dataclasses.replace(made, **fields)


PAIRS = [pair(i, 1 + i % 2, "odd" if i % 4 == 1 else "even") for i in range(24)]

Rule = Callable[[Comparison], int | Ruling | None]


class Judge:
    """Judges by a rule, remembers what it was asked, and is killed before it is asked too much."""

    def __init__(self, rule: Rule, name: str = "toy", kill_after: float = math.inf) -> None:
        self.rule, self.name, self.kill_after = rule, name, kill_after
        self.asked: list[Comparison] = []

    def __call__(self, asked: Sequence[Comparison]) -> list[int | Ruling | None]:
        if len(self.asked) + len(asked) > self.kill_after:
            raise KeyboardInterrupt
        self.asked += asked
        return [self.rule(c) for c in asked]


def oracle(asked: Comparison) -> int:
    return 1 if asked.first.startswith("right") else 2


def always_first(asked: Comparison) -> int:
    return 1


def means(result: Any, scorer: str = "strict", part: str = "overall") -> dict[str, float | None]:
    return {name: share["mean"] for name, share in result.summary[scorer][part].items()}


def critic(actor: Any, thinking: bool = True, max_tokens: int = 2048) -> ActorJudge:
    return ActorJudge(actor, prompts=THINKING, thinking=thinking, max_tokens=max_tokens)


# --- prompt and parsers -------------------------------------------------------------------------------


def test_the_prompt_shows_everything_once_and_ends_with_the_suffix() -> None:
    (message,) = THINKING.pairwise_prompt("What is it?", "A {cat}.", r"A dog: \boxed{1}", image="a.png")
    text = message["content"]
    assert message["role"] == "user" and message["image"] == "a.png"
    assert text.endswith(THINK_SUFFIX)
    for shown in (
        "What is it?",
        "A {cat}.",
        r"A dog: \boxed{1}",
        "accuracy",
        "completeness",
        "clarity",
        "relevance",
    ):
        assert text.count(shown) == 1
    assert text.index("A {cat}.") < text.index("A dog")
    assert "image" not in THINKING.pairwise_prompt("q", "a", "b")[0]


@pytest.mark.parametrize(
    ("reply", "strict", "lenient"),
    [
        (r"<think>Dog.</think> \boxed{2}", 2, 2),
        (r"<think>Dog.</think> \boxed{\text{Answer 2}}", 2, 2),
        (r"<think>Dog.</think> \boxed{first}", 1, None),  # lenient reads digits alone
        (r"\boxed{2}", None, 2),  # not thought
        (r"<think>So \boxed{2}</think> The second.", None, 2),  # boxed in the thought alone
        (r"<think>\boxed{1}</think> \boxed{2}", 2, 2),  # the last box
        (r"<think>x</think> \boxed{1} or \boxed{2}", None, 2),  # contradiction
        (r"<think>x</think> \boxed{3}", None, None),
        (r"<think>x</think> \boxed{12}", None, None),
        ("<think>x</think> Overall Judgment: Answer 1 is better.", None, 1),
        ("**Overall Judgment:** All in all,\n\n**Answer 2** is slightly better.", None, 2),
        ("Overall Judgment: Answer 1 is better. No: Overall Judgment: Answer 2 is better.", None, 2),
        ("Overall Judgment: Answer X is better.", None, None),
        ("Overall Judgment: Answer 1 is not better.", None, None),
        ("Therefore, answer 1 is the better one.", None, 1),
        (
            r"<think>x</think> \boxed{1} Overall Judgment: Answer 2 is better.",
            1,
            2,
        ),  # both: the sentence counts
        ("Answer 1 is better in accuracy.", None, None),
        ("I prefer the first.", None, None),
        ("", None, None),
    ],
)
def test_what_each_scorer_reads(reply: str, strict: int | None, lenient: int | None) -> None:
    assert (parse_preference(reply), parse_lenient(reply)) == (strict, lenient)


class ToyActor:
    """Replies by the colour-blind rule that the text with `right` in it is better, in the trained form."""

    name = "toy-actor"

    def __init__(self, reply: str = r"<think>.</think> \boxed{%d}") -> None:
        self.reply = reply
        self.prompts: list[Conversation] = []
        self.samplings: list[Sampling] = []

    def generate(self, prompts: Sequence[Conversation], sampling: Sampling) -> list[Generation]:
        self.prompts += prompts
        self.samplings.append(sampling)
        said = [1 if p[0]["content"].index("right") < p[0]["content"].index("wrong") else 2 for p in prompts]
        return [Generation(self.reply.replace("%d", str(s)), 20, 5, False) for s in said]


def test_a_model_judges_with_the_image_greedily(tmp_path: Path) -> None:
    actor = ToyActor()
    result = pair_accuracy(PAIRS[:3], critic(actor, max_tokens=99), seed=0, records=tmp_path / "r.jsonl")
    assert means(result)["acc_both"] == 1.0 and result.summary["tokens"] == 6 * 25
    assert [p[0]["image"] for p in actor.prompts[::2]] == [data_url(p.image) for p in PAIRS[:3]]  # type: ignore[arg-type]
    assert actor.samplings == [Sampling(99)]
    # A reply without a thought is read by the lenient scorer alone, unless the critic need not think.
    for thinking, expected in ((True, 0.0), (False, 1.0)):
        judge = critic(ToyActor(r"\boxed{%d}"), thinking=thinking)
        result = pair_accuracy(PAIRS[:3], judge, seed=0, records=tmp_path / f"{thinking}.jsonl")
        assert (means(result)["acc"], means(result, "lenient")["acc"]) == (expected, 1.0)
        assert means(result)["parse_rate"] == expected


# --- judges of known bias ------------------------------------------------------------------------------


def test_an_oracle_is_right_in_every_way(tmp_path: Path) -> None:
    result = pair_accuracy(PAIRS, Judge(oracle), seed=0, records=tmp_path / "r.jsonl")
    expected = {"acc": 1, "acc_both": 1, "acc_mean": 1, "agreement": 1, "said_first": 0.5, "parse_rate": 1}
    for scorer in SCORERS:  # no replies: both scorers have the label
        assert means(result, scorer) == expected
    low, high = wilson(24, 24)  # type: ignore[misc]
    found = result.summary["strict"]["overall"]["acc"]
    assert found["n"] == 24 and found["low"] == pytest.approx(low) and found["high"] == pytest.approx(high)


def test_a_judge_that_always_says_first_is_found_out(tmp_path: Path) -> None:
    result = pair_accuracy(PAIRS, Judge(always_first), seed=3, records=tmp_path / "r.jsonl")
    drawn_right = [(drawn_order(p.id, 3) == "forward") == (p.label == 1) for p in PAIRS]
    assert 0 < sum(drawn_right) < 24
    assert means(result) == {
        "acc": sum(drawn_right) / 24,
        "acc_both": 0.0,
        "acc_mean": 0.5,
        "agreement": 0.0,
        "said_first": 1.0,
        "parse_rate": 1.0,
    }
    low, high = wilson(12, 24)  # type: ignore[misc]
    mean = result.summary["strict"]["overall"]["acc_mean"]
    assert (mean["low"], mean["high"]) == (pytest.approx(low), pytest.approx(high))


def test_a_judge_that_knows_nothing_gets_a_quarter_right_in_both_orders(tmp_path: Path) -> None:
    def even_odds(asked: Comparison) -> int:  # each of the four outcomes of a pair equally often
        right = int(asked.item[1:]) & (1 if asked.order == "forward" else 2)
        return oracle(asked) if right else 3 - oracle(asked)

    pairs = [pair(i) for i in range(24)]
    result = pair_accuracy(pairs, Judge(even_odds), seed=0, records=tmp_path / "r.jsonl")
    found = means(result)
    drawn = [i & (1 if drawn_order(p.id, 0) == "forward" else 2) > 0 for i, p in enumerate(pairs)]
    assert found.pop("acc") == sum(drawn) / 24
    halves = {"acc_mean": 0.5, "agreement": 0.5, "said_first": 0.5}
    assert found == {"acc_both": 0.25, "parse_rate": 1.0} | halves


def test_either_order_is_drawn_as_often(tmp_path: Path) -> None:
    drawn = [drawn_order(f"p{i}", 0) for i in range(4000)]
    assert drawn.count("forward") / 4000 == pytest.approx(0.5, abs=0.03)
    assert drawn != [drawn_order(f"p{i}", 1) for i in range(4000)]


def test_what_is_unparsed_is_wrong_and_has_no_position(tmp_path: Path) -> None:
    def half_mute(asked: Comparison) -> Ruling:  # silent in the swapped order
        read = oracle(asked) if asked.order == "forward" else None
        return Ruling(
            read, reply=f"Overall Judgment: Answer {oracle(asked)} is better." if read is None else "?"
        )

    pairs = [pair(i, 1) for i in range(8)]
    result = pair_accuracy(pairs, Judge(half_mute), seed=0, records=tmp_path / "r.jsonl")
    drawn = sum(drawn_order(p.id, 0) == "forward" for p in pairs) / 8
    expected = {"acc": drawn, "acc_both": 0.0, "acc_mean": 0.5, "agreement": None, "said_first": 1.0}
    assert means(result) == expected | {"parse_rate": 0.5}
    # The lenient scorer reads the swapped order, where the better one is second, and not the other.
    assert means(result, "lenient") == expected | {"acc": 1 - drawn, "said_first": 0.0, "parse_rate": 0.5}
    mute = pair_accuracy(pairs, Judge(lambda c: None), seed=0, records=tmp_path / "mute.jsonl")
    assert means(mute)["acc"] == 0.0 and means(mute)["said_first"] is None


def test_a_judgement_that_never_came_is_neither_right_nor_wrong(tmp_path: Path) -> None:
    def silent_once(asked: Comparison) -> Ruling:
        lost = asked.item == "p3" and asked.order == "swapped"
        return Ruling(None, tokens=None) if lost else Ruling(oracle(asked), "yes", None)

    pairs = [pair(i) for i in range(4)]
    found = pair_accuracy(pairs, Judge(silent_once), seed=0, records=tmp_path / "pairs.jsonl")
    assert found.summary["missing"] == 1 and found.summary["pairs"] == 4 and found.summary["tokens"] == 0
    assert means(found)["acc_both"] == 1.0 and found.summary["strict"]["overall"]["acc"]["n"] == 3
    assert set(found.by_item["critic_acc"].values()) == {1.0, None}


def test_groups_and_their_mean(tmp_path: Path) -> None:
    def knows_odd(asked: Comparison) -> int:
        return oracle(asked) if int(asked.item[1:]) % 4 == 1 else 3 - oracle(asked)

    result = pair_accuracy(PAIRS, Judge(knows_odd), seed=0, records=tmp_path / "r.jsonl")
    strict = result.summary["strict"]
    assert {g: (s["acc"]["mean"], s["acc"]["n"]) for g, s in strict["groups"].items()} == {
        "even": (0.0, 18),
        "odd": (1.0, 6),
    }
    assert strict["overall"]["acc"]["mean"] == 6 / 24
    macro = strict["macro"]["acc"]
    even, odd = wilson(0, 18), wilson(6, 6)
    assert even is not None and odd is not None
    assert macro["mean"] == 0.5 and macro["n"] == 24
    assert macro["low"] == pytest.approx(0.5 - math.sqrt(0.0**2 + (1 - odd[0]) ** 2) / 2)
    assert macro["high"] == pytest.approx(0.5 + math.sqrt(even[1] ** 2 + 0.0**2) / 2)
    rows = markdown_table(result.summary).splitlines()
    assert rows[0].startswith("| Scorer | Group | Pairs | Acc |") and len(rows) == 2 + 2 * 4
    assert rows[2].startswith("| strict | even | 18 | 0.0% (0.0% to ")


def test_values_by_item_make_intervals_over_seeds(tmp_path: Path) -> None:
    results = [
        pair_accuracy(PAIRS, Judge(always_first), seed=seed, records=tmp_path / f"{seed}.jsonl")
        for seed in (0, 1)
    ]
    summary = summarise([[], []], [r.by_item for r in results])
    values = [means(r)["acc"] for r in results]
    assert summary["critic_acc"]["values"] == pytest.approx(values)
    assert summary["critic_acc_both_lenient"]["mean"] == 0.0
    assert set(results[0].by_item["critic_acc"]) == {p.id for p in PAIRS}


def test_mean_of_an_unknown_share_is_unknown() -> None:
    known = {"mean": 0.5, "low": 0.4, "high": 0.6, "n": 10}
    unknown = {"mean": None, "low": None, "high": None, "n": 0}
    assert mean_of([known, unknown]) == {"mean": None, "low": None, "high": None, "n": 10}
    assert mean_of([])["mean"] is None


def test_a_pair_with_one_judgement_is_refused(tmp_path: Path) -> None:
    judgements = judge_pairs(PAIRS[:1], Judge(oracle), seed=0, records=tmp_path / "r.jsonl")
    with pytest.raises(ValueError, match="each order"):
        metrics_by_item(judgements[:1])


# --- records --------------------------------------------------------------------------------------------


def test_a_killed_run_goes_on_and_repeats_nothing(tmp_path: Path) -> None:
    whole = Judge(oracle)
    expected = judge_pairs(PAIRS, whole, seed=0, records=tmp_path / "whole.jsonl")
    assert [(j.pair, j.order) for j in expected] == [(p.id, o) for p in PAIRS for o in ("forward", "swapped")]
    assert sum(j.drawn for j in expected) == len(PAIRS)

    records = tmp_path / "deep" / "killed.jsonl"
    killed = Judge(oracle, kill_after=20)
    with pytest.raises(KeyboardInterrupt):
        judge_pairs(PAIRS, killed, seed=0, records=records, chunk_size=5)
    assert len(killed.asked) == 20
    with records.open("a", encoding="utf-8") as file:
        file.write('{"pair": "p9", "sou')  # cut off in the middle of a line
    progress: list[tuple[int, int]] = []
    again = Judge(oracle)
    found = judge_pairs(
        PAIRS, again, seed=0, records=records, chunk_size=5, on_progress=lambda *at: progress.append(at)
    )
    assert found == expected
    assert len(again.asked) == 48 - 20 and progress[0] == (25, 48) and progress[-1] == (48, 48)
    seen = [(c.item, c.order) for c in killed.asked + again.asked]
    assert len(set(seen)) == len(seen) == 48
    third = Judge(oracle)
    assert judge_pairs(PAIRS, third, seed=0, records=records) == expected and third.asked == []


@pytest.mark.parametrize(
    "changed",
    [
        {"judge": Judge(oracle, "another")},
        {"seed": 1},
        {"pairs": PAIRS[1:]},
        {"pairs": [swap(p) for p in PAIRS]},
        {"pairs": [dataclasses.replace(PAIRS[0], image=picture(200)), *PAIRS[1:]]},
        {"pairs": [dataclasses.replace(PAIRS[0], question="Another?"), *PAIRS[1:]]},
    ],
)
def test_other_records_are_refused(tmp_path: Path, changed: dict[str, Any]) -> None:
    settings: dict[str, Any] = {"pairs": PAIRS, "judge": Judge(oracle), "seed": 0}
    records = tmp_path / "r.jsonl"
    judge_pairs(**settings, records=records)
    content = records.read_bytes()
    with pytest.raises(UserError, match=r"r\.jsonl holds judgements of another judge or prompt"):
        judge_pairs(**(settings | changed), records=records)
    assert records.read_bytes() == content


def test_more_pairs_and_a_moved_image_leave_records_valid(tmp_path: Path) -> None:
    records = tmp_path / "r.jsonl"
    for name in ("a", "b"):
        (tmp_path / f"{name}.png").write_bytes(picture(7))
    judge_pairs([pair(7, image=str(tmp_path / "a.png"))], Judge(oracle), seed=0, records=records)
    judge = Judge(oracle)
    judge_pairs([pair(7, image=str(tmp_path / "b.png")), pair(8)], judge, seed=0, records=records)
    assert {c.item for c in judge.asked} == {"p8"}


def test_another_prompt_is_another_judge(tmp_path: Path) -> None:
    pairs, records = PAIRS[:2], tmp_path / "r.jsonl"
    judge_pairs(pairs, critic(ToyActor()), seed=0, records=records)
    for other in (critic(ToyActor(), max_tokens=9), critic(ToyActor(), thinking=False)):
        with pytest.raises(UserError, match="another judge"):
            judge_pairs(pairs, other, seed=0, records=records)


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        ([], "no pairs"),
        ([PAIRS[0], PAIRS[0]], "2 pairs have the identity 'p0'"),
        ([dataclasses.replace(PAIRS[0], label=0, tie=True)], "'p0' is a tie"),
    ],
)
def test_pairs_that_cannot_be_measured(tmp_path: Path, pairs: list[PreferencePair], message: str) -> None:
    with pytest.raises(UserError, match=message):
        judge_pairs(pairs, Judge(oracle), seed=0, records=tmp_path / "r.jsonl")


def test_a_judge_needs_a_name_and_keeps_to_its_labels(tmp_path: Path) -> None:
    def nameless(asked: Sequence[Comparison]) -> list[int]:
        return [oracle(c) for c in asked]

    with pytest.raises(UserError, match="no name"):
        judge_pairs(PAIRS, nameless, seed=0, records=tmp_path / "r.jsonl")
    found = judge_pairs(PAIRS, nameless, seed=0, records=tmp_path / "r.jsonl", name="mine")
    assert {j.judge for j in found} == {"mine"} and isinstance(found[0], PairJudgement)
    with pytest.raises(ValueError, match="must answer"):
        judge_pairs(PAIRS, Judge(lambda c: 3), seed=0, records=tmp_path / "s.jsonl")


# --- published rows -------------------------------------------------------------------------------------


def vl_row(row_id: str, ranking: list[int], image: Any, **fields: Any) -> dict[str, Any]:
    better, worse = f"right {row_id}", f"wrong {row_id}"
    answers = [better, worse] if ranking == [0, 1] else [worse, better]
    return {
        "id": row_id,
        "query": "<image>\nWhat is shown?",
        "response": answers,
        "image": image,
        "human_ranking": ranking,
        "models": ["m1", "m2"],
        "judge": "gpt-4o",
        "rationale": "The first is true.",
        "query_source": None,
        "ground_truth": None,
    } | fields


def write_parquet(path: Path, rows: list[dict[str, Any]]) -> Path:
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    return path


def test_vl_rewardbench_in_its_published_layout(tmp_path: Path) -> None:
    ids = {
        "wildvision-battle-1": "general",
        "VLFeedback_7": "general",
        "LRVInstruction-000012": "general",  # no known prefix: VLFeedback's own ids
        "hallucination_pair-3": "hallucination",
        "RLHF-V-9": "hallucination",
        "RLAIF-V-2": "hallucination",
        "mathverse_11": "reasoning",
        "mmmu_pro_4": "reasoning",
    }
    rows = [
        vl_row(row_id, [0, 1] if i % 2 else [1, 0], {"bytes": picture(i), "path": None})
        for i, row_id in enumerate(ids)
    ]
    rows.append(vl_row("xyz", [0, 1], {"bytes": picture(99), "path": None}, query_source="POVID"))
    bench = load_reward_benchmark(VL_REWARDBENCH, write_parquet(tmp_path / "test.parquet", rows))
    assert [p.source for p in bench.pairs] == [*ids.values(), "hallucination"]
    assert [p.label for p in bench.pairs] == [2, 1] * 4 + [1]
    assert bench.pairs[0].question == "What is shown?" and bench.pairs[3].image == picture(3)
    assert bench.samples == {} and bench.not_judged == []

    result = evaluate_benchmark(bench, Judge(oracle), seed=0, records=tmp_path / "r.jsonl")
    assert result.summary["benchmark"] == VL_REWARDBENCH and result.summary["rows"] == 9
    assert means(result)["acc_both"] == 1.0 and means(result, part="macro")["acc"] == 1.0
    counts = {g: s["acc"]["n"] for g, s in result.summary["strict"]["groups"].items()}
    assert counts == {"general": 3, "hallucination": 4, "reasoning": 2}
    assert "acc_plus" not in result.summary["strict"]["overall"]


def mm_rows() -> list[dict[str, Any]]:
    def row(row_id: str, n: int, **where: Any) -> dict[str, Any]:
        texts = {
            "prompt": f"About {row_id}?",
            "chosen": f"right {row_id} {n}",
            "rejected": f"wrong {row_id} {n}",
        }
        return {"id": row_id, "image": None, "video": None} | texts | where

    return [
        row("a", 0, image="data/mcq/a.png"),
        row("a", 1, image="data/mcq/a.png"),
        row("a", 2, image="data/mcq/a.png"),
        row("b", 0, image="long/b.png"),
        row("c", 0, image="safety/c.png"),
        row("c", 1, image="safety/c.png"),
        row("d", 0, video="video/d.mp4"),
        row("e", 0, image="short/gone.png"),
        row("f", 0, image="short/broken.png"),
    ]


def mm_bench(tmp_path: Path) -> Any:
    folder = tmp_path / "images"
    folder.mkdir()
    for i, name in enumerate("abc"):
        (folder / f"{name}.png").write_bytes(picture(i))
    (tmp_path / "short").mkdir()
    (tmp_path / "short" / "broken.png").write_bytes(b"no picture")
    return load_reward_benchmark(
        MM_RLHF_REWARDBENCH, write_jsonl(tmp_path / "mm_reward_bench.jsonl", mm_rows())
    )


def test_mm_rlhf_rewardbench_in_its_published_layout(tmp_path: Path) -> None:
    bench = mm_bench(tmp_path)
    assert [p.source for p in bench.pairs] == ["mcq"] * 3 + ["long"] + ["safety"] * 2
    assert len({p.id for p in bench.pairs}) == 6 and list(bench.samples.values()) == list("aaabcc")
    assert [(d.id[0], d.source, d.reason) for d in bench.not_judged] == [
        ("d", "video", "video"),
        ("e", "short", "missing image"),
        ("f", "short", "corrupt image"),
    ]

    def misses_one(asked: Comparison) -> int:  # wrong about the second pair of sample a, in both orders
        return 3 - oracle(asked) if "a 1" in asked.first else oracle(asked)

    result = evaluate_benchmark(bench, Judge(misses_one), seed=0, records=tmp_path / "r.jsonl")
    overall, groups = (result.summary["strict"][part] for part in ("overall", "groups"))
    assert overall["acc"]["mean"] == 5 / 6 and overall["acc_plus"]["mean"] == pytest.approx(2 / 3)
    assert overall["acc_plus"]["n"] == 3 and overall["acc_plus_both"]["mean"] == pytest.approx(2 / 3)
    assert groups["mcq"]["acc_plus"] == {**groups["mcq"]["acc_plus"], "mean": 0.0, "n": 1}
    assert result.summary["not_judged"] == {"corrupt image": 1, "missing image": 1, "video": 1}
    assert result.summary["rows"] == 9 and result.summary["pairs"] == 6
    assert "ACC+" in markdown_table(result.summary)


def test_acc_plus_is_not_both_orders(tmp_path: Path) -> None:
    bench = mm_bench(tmp_path)
    result = evaluate_benchmark(bench, Judge(always_first), seed=0, records=tmp_path / "r.jsonl")
    drawn = {p.id: drawn_order(p.id, 0) == "forward" for p in bench.pairs}
    whole = [all(ok for i, ok in drawn.items() if bench.samples[i] == s) for s in "abc"]
    assert means(result)["acc_plus"] == pytest.approx(sum(whole) / 3)
    assert means(result)["acc_plus_both"] == 0.0


def test_the_same_row_twice_counts_twice(tmp_path: Path) -> None:
    rows = [vl_row("mmmu_1", [0, 1], {"bytes": picture(1), "path": None})] * 2
    bench = load_reward_benchmark(VL_REWARDBENCH, write_parquet(tmp_path / "t.parquet", rows))
    assert len({p.id for p in bench.pairs}) == 2
    again = load_reward_benchmark(VL_REWARDBENCH, write_parquet(tmp_path / "u.parquet", rows))
    assert [p.id for p in again.pairs] == [p.id for p in bench.pairs]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"human_ranking": [0, 0]}, r"line 1, field 'human_ranking': found \[0, 0\], expected \[0, 1\] if"),
        ({"human_ranking": [True, False]}, "human_ranking"),
        ({"response": ["one"]}, "line 1, field 'response': .* a list of two texts"),
        ({"image": 5}, "field 'image'"),
        ({"id": ""}, "field 'id'"),
        ({"query": None}, "field 'query'"),
    ],
)
def test_bad_rows_are_named(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    (tmp_path / "x.png").write_bytes(picture(1))
    path = write_jsonl(tmp_path / "vl.jsonl", [vl_row("mmmu_1", [0, 1], "x.png") | change])
    with pytest.raises(DataError, match=message):
        load_reward_benchmark(VL_REWARDBENCH, path)


def test_other_files_and_names_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="Did you mean 'VL-RewardBench'"):
        load_reward_benchmark("VL-RewardBensh", tmp_path / "x.jsonl")
    path = write_jsonl(tmp_path / "mm.jsonl", [mm_rows()[6]])
    with pytest.raises(DataError, match="none of its 1 rows has an image"):
        load_reward_benchmark(MM_RLHF_REWARDBENCH, path)
    with pytest.raises(DataError, match="missing field"):
        load_reward_benchmark(VL_REWARDBENCH, path)
    with pytest.raises(UserError, match="Hugging Face hub"):  # the tests have no network
        load_reward_benchmark(MM_RLHF_REWARDBENCH)
    assert HUB[VL_REWARDBENCH].repo == "MMInstruction/VL-RewardBench"


def test_the_mean_of_both_benchmarks(tmp_path: Path) -> None:
    rows = [
        vl_row(name, [0, 1], {"bytes": picture(i), "path": None})
        for i, name in enumerate(("mmmu_1", "mmmu_2", "mmmu_3", "RLHF-V-1"))
    ]
    vl = load_reward_benchmark(VL_REWARDBENCH, write_parquet(tmp_path / "t.parquet", rows))

    def misses(asked: Comparison) -> int:
        return 3 - oracle(asked) if "RLHF" in asked.first else oracle(asked)

    one = evaluate_benchmark(vl, Judge(misses), seed=0, records=tmp_path / "vl.jsonl").summary
    other = evaluate_benchmark(
        mm_bench(tmp_path), Judge(oracle), seed=0, records=tmp_path / "mm.jsonl"
    ).summary
    both = visual_rewardbench(one, other)
    assert both["strict"]["overall"]["acc"]["mean"] == (3 / 4 + 1) / 2
    assert both["lenient"]["macro"]["acc_both"]["mean"] == (1 / 2 + 1) / 2


def test_groups_have_the_figures_of_their_own_pairs(tmp_path: Path) -> None:
    judge = Judge(lambda asked: 1)
    values = grouped_by_item(judge_pairs(PAIRS, judge, seed=0, records=tmp_path / "r.jsonl"))
    for group in ("odd", "even"):
        own = {p.id for p in PAIRS if p.source == group}
        for name in ("critic_acc_mean", "critic_acc_both"):
            assert values[f"{name}_{group}"] == {p: v for p, v in values[name].items() if p in own}
            assert len(values[f"{name}_{group}"]) == len(own) > 0
