"""Scored replies: scales, the stand-in scorer, metrics, and what protocol, pool and reward make of scores."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from helpers import ToyActor
from transformers import TrainerState

from critique_rl.evaluation.episodes import Episode, read_episodes
from critique_rl.evaluation.metrics import metrics
from critique_rl.evaluation.protocol import Protocol, evaluate
from critique_rl.evaluation.summary import summarise
from critique_rl.grading.scoring import KeywordScorer, Rater, ScoreRange, train_range
from critique_rl.pool import collect_pool, score_range
from critique_rl.prompts import SUMMARY, prompt_set
from critique_rl.reports.markdown import markdown_table
from critique_rl.tasks.made_up_facts import TASK as FACTS
from critique_rl.training.critique_reward import CritiqueReward
from critique_rl.training.stage_config import CritiqueConfig, Stage1Config, Stage2Config
from critique_rl.types import Sampling, UserError

LABEL = "Quality score:"

# -- scales -------------------------------------------------------------------------------------------------


def test_scale_is_linear_and_clipped() -> None:
    # 1 + 9 * (value - 10) / 30: a third of the way is 4, half of it 5.5; beyond the ends it stops.
    scale = ScoreRange(10, 40)
    assert [scale.rating(s) for s in (10, 20, 25, 40, 9, 100)] == pytest.approx([1, 4, 5.5, 10, 1, 10])
    assert scale.rating(None) is None


@pytest.mark.parametrize(("low", "high"), [(1.0, 1.0), (2.0, 1.0), (float("nan"), 1.0), (0.0, float("inf"))])
def test_a_scale_needs_two_ends(low: float, high: float) -> None:
    with pytest.raises(UserError, match="span no scale"):
        ScoreRange(low, high)


def test_range_of_train_scores_leaves_out_tails() -> None:
    # Of 0, 1, ..., 100 one percent lies below 1 and above 99; an odd reply at -1000 moves the end by one.
    assert train_range([float(i) for i in range(101)]) == ScoreRange(1.0, 99.0)
    assert train_range([-1000.0, *(float(i) for i in range(1, 101)), None]) == ScoreRange(1.0, 99.0)
    assert train_range([3.0, None, -2.0, 1.0], tail=0.0) == ScoreRange(-2.0, 3.0)


@pytest.mark.parametrize(
    ("scores", "message"), [([], "no train response"), ([None], "no train"), ([4.0, 4.0], "span no scale")]
)
def test_scores_that_give_no_range(scores: list[float | None], message: str) -> None:
    with pytest.raises(UserError, match=message):
        train_range(scores)


# -- the stand-in scorer ------------------------------------------------------------------------------------

DOCUMENT = "It rains. Ana has 3 red cups. A dog barks. Bo has 7 blue pens."
KEY_FACTS = "Ana has 3 red cups.\nBo has 7 blue pens."  # 10 words

SUMMARIES = [
    # reply, score, why
    ("Ana has 3 red cups. Bo has 7 blue pens.", 1.0, "both facts"),
    ("- bo has  7 blue pens\n- ANA has 3 red cups", 1 - 0.2, "any order, case, bullets; 12 words for 10"),
    ("Ana has 3 red cups.", 0.5, "one of two"),
    ("", 0.0, "nothing said"),
    ("It rains.", 0.0, "true and beside the point"),
    ("Ana has 4 red cups. Bo has 7 blue pens.", 0.5 - 0.5, "one right, one wrong"),
    ("Ana has 4 red cups. Bo has 8 blue pens.", -1.0, "both wrong"),
    ("Ana has 3 red cups. Ana has 4 red cups.", 0.5 - 0.5, "a guess both ways earns nothing"),
    ("Cy sings. Cy naps. Cy eats. Cy hops.", -1.0, "more inventions than facts deduct no more"),
    (DOCUMENT, 1 - 0.5, "a copy: 15 words for 10"),
    (f"{DOCUMENT} {DOCUMENT}", 1 - 1.0, "no more than 1 is deducted for length"),
    ("Ana has 3 red cups. Ana has 3 red cups.", 0.5, "said twice counts once; 10 words for 10"),
]


@pytest.mark.parametrize(("reply", "expected", "why"), SUMMARIES, ids=[why for _, _, why in SUMMARIES])
def test_keyword_scorer(reply: str, expected: float, why: str) -> None:
    item = {"question": DOCUMENT, "reply": reply, "gold": KEY_FACTS}
    assert KeywordScorer().score([item]) == pytest.approx([expected]), why


def test_keyword_scorer_without_facts_does_not_know() -> None:
    item = {"question": DOCUMENT, "reply": "Ana has 3 red cups."}
    assert KeywordScorer().score([item, {**item, "gold": " \n"}]) == [None, None]


def test_keyword_scorer_orders_summaries_of_the_embedded_task() -> None:
    problems = FACTS.load(source=None, split="test", seed=3, size=300)
    assert len(problems) > 30

    def score(replies: Sequence[str]) -> list[float | None]:
        # The document stands in a prompt here, as a reward model reads it.
        return KeywordScorer().score(
            [
                {"question": SUMMARY.reasoning_prompt(p.question)[0]["content"], "reply": y, "gold": p.answer}
                for p, y in zip(problems, replies, strict=True)
            ]
        )

    right = score([p.solution for p in problems])
    copied = score([p.question for p in problems])
    empty = score(["" for p in problems])
    wrong = score([re.sub(r"\d", lambda m: str(int(m[0]) + 1), p.solution) for p in problems])
    assert set(right) == {1.0}
    assert set(empty) == {0.0}
    assert set(wrong) == {-1.0}
    assert all(c is not None and 0.0 < c < 1.0 for c in copied)


# -- metrics ------------------------------------------------------------------------------------------------


def episode(
    score: float | None,
    critic: float | None,
    refined: float | None,
    *,
    critique: str | None = "c",
    number: int = 0,
) -> Episode:
    """On a scale of 10 to 40 the scores 20 and 40 are ratings of 4 and 10."""
    rating = ScoreRange(10.0, 40.0).rating(score)
    texts = ("x", "a", "score", "y", None, critique, None, "z", None)
    return Episode(
        f"p{number}",
        "made_up_facts",
        *texts,
        tokens=10,
        response_score=score,
        response_rating=rating,
        critic_rating=critic,
        refinement_score=refined,
    )


def test_metrics_of_scores_by_hand() -> None:
    episodes = [
        episode(20.0, 7.0, 26.0),  # 3 above its rating of 4
        episode(40.0, 9.0, 39.0),  # 1 below
        episode(30.0, None, 13.0),  # unparsed: no distance
        episode(None, 1.0, 39.0),  # not scored: counts nowhere
        episode(39.0, 1.0, None),
    ]
    assert metrics(episodes) == pytest.approx(
        {
            "score": (20 + 40 + 30) / 3,
            "score_refine": (26 + 39 + 13) / 3,
            "delta": -4.0,
            "mse_dis": (9 + 1) / 2,
            "mae_dis": (3 + 1) / 2,
            "parse_rate": 2 / 3,
            "graded_rate": 3 / 5,
            "tokens": 10.0,
        }
    )


def test_metrics_of_scores_where_there_is_nothing() -> None:
    alone = metrics([episode(40.0, None, None, critique=None), episode(None, None, None, critique=None)])
    assert alone == {"score": 40.0, "graded_rate": 0.5, "tokens": 10.0}
    unparsed = metrics([episode(20.0, None, 30.0)])
    assert (unparsed["parse_rate"], unparsed["mse_dis"], unparsed["delta"]) == (0.0, None, 10.0)


def test_intervals_of_scores_contain_the_mean() -> None:
    episodes = [episode(10.0 + i, 1.0, 20.0 + 2 * i, number=i) for i in range(30)]
    summary = summarise([episodes])
    assert summary["delta"]["mean"] == pytest.approx(10 + 14.5)
    # A bootstrap over 30 values 10, 11, ..., 39: the mean's standard error is 8.66 / sqrt(30) = 1.58.
    assert summary["delta"]["high"] - summary["delta"]["low"] == pytest.approx(2 * 1.96 * 1.58, rel=0.1)
    assert markdown_table([{"method": "m", "dataset": "d", "metrics": summary}]).endswith("| 100.0 |")


# -- protocol, pool and reward ------------------------------------------------------------------------------


def writer(rule: Callable[[str], str]) -> ToyActor:
    """An actor or critic that answers the last message of each conversation by a rule."""
    return ToyActor(lambda prompt: rule(prompt[-1]["content"]))


def test_protocol_with_scores(tmp_path: Path) -> None:
    problems = FACTS.load(source=None, split="test", seed=0, facts=1, remarks=1, size=100)[:5]
    answers = {p.question: p.solution for p in problems}
    # Answers with the whole text, which is too long, and after a critique with the facts alone.
    actor = writer(lambda text: text.partition("Suggestions: ")[2] or text)
    critic = writer(
        lambda text: f"{LABEL} 4\nSuggestions: {answers[text.splitlines()[0][len('Question: ') :]]}"
    )
    greedy = Sampling(20)
    protocol = Protocol(prompt_set("compact"), greedy, greedy, greedy, rounds=2)
    rater = Rater(KeywordScorer(), ScoreRange(0.0, 1.0))
    episodes = evaluate(problems, actor, critic, protocol, records=tmp_path / "r.jsonl", rater=rater)
    first, second = episodes[0::2], episodes[1::2]
    assert all(e.refinement_score == 1.0 and e.response_score < 1.0 for e in first)
    assert all(e.response_rating == pytest.approx(1 + 9 * e.response_score) for e in first)
    assert [e.response_score for e in second] == [1.0] * 5
    assert {e.critic_rating for e in episodes} == {4.0}
    assert {e.response_rating for e in second} == {10.0}
    assert all(e.verdict is None and e.response_correct is None for e in episodes)
    measured = metrics(first)
    assert measured["score_refine"] == 1.0
    assert measured["delta"] == pytest.approx(1 - sum(e.response_score for e in first) / 5)
    assert read_episodes(tmp_path / "r.jsonl") == episodes
    with pytest.raises(UserError, match="cannot be graded without one"):
        evaluate(problems, actor, critic, protocol, records=tmp_path / "other.jsonl")
    for wrong in (replace(protocol, spare_correct=True), replace(protocol, critiques="oracle")):
        with pytest.raises(UserError, match="neither right nor wrong"):
            evaluate(problems, actor, critic, wrong, records=tmp_path / "other.jsonl", rater=rater)


def test_pool_with_scores() -> None:
    problems = FACTS.load(source=None, split="train", seed=0, size=40)
    actor = writer(lambda text: text if len(text) % 2 else text.partition(". ")[0] + ".")
    collect = partial(collect_pool, problems, actor, prompt_set("compact"), samples=2, balanced=False)
    pool = collect(sampling=Sampling(20), scorer=KeywordScorer())
    assert len(pool) == len(problems)  # both samples are equal
    scale = score_range(pool)
    by_question = {p.question: p for p in problems}
    for row in pool:
        gold = by_question[row["question"]].answer
        item = {"question": row["question"], "reply": row["response"], "gold": gold}
        assert [row["response_score"]] == KeywordScorer().score([item])
        assert row["response_rating"] == scale.rating(row["response_score"])
    assert {1.0, 10.0} <= set(pool["response_rating"])
    assert "response_correct" not in pool.column_names


def test_reward_of_scored_critiques() -> None:
    """Both stages by hand: a rating of 7 where 6 is true, a refinement that is worth 10, an unparsed critique."""
    logged: dict[str, list[float]] = {}
    critiques = [f"{LABEL} 7", "no rating", f"{LABEL} 6"]
    question = ["Bo has 7 blue pens. It rains."] * 3
    columns = {
        "completions": [[{"role": "assistant", "content": c}] for c in critiques],
        "question": question,
        "response": ["It rains."] * 3,
        "answer": ["Bo has 7 blue pens."] * 3,
        "kind": ["score"] * 3,
        "response_rating": [6.0, 6.0, None],
        "trainer_state": TrainerState(),
        "log_extra": lambda name, values: None,
        "log_metric": lambda name, value: logged.setdefault(name, []).append(value),
    }
    machine = {"output_dir": "unused", "bf16": False, "use_cpu": True, "prompts": "compact"}
    actor = writer(lambda text: "Bo has 7 blue pens." if "7" in text else "It rains.")
    rater = Rater(KeywordScorer(), ScoreRange(-1.0, 1.0))
    first = CritiqueReward(Stage1Config(tolerance=2.0, **machine), actor, rater)
    assert first(**columns) == [0.5, 0.0, None]
    second = CritiqueReward(Stage2Config(tolerance=2.0, beta_1=0.2, **machine), actor, rater)
    # "It rains." earns 0, in the middle of -1 to 1: 5.5.
    assert second(**columns) == [pytest.approx(10.0 + 0.2 * 0.5), pytest.approx(5.5), None]
    assert logged["critic/mae_dis"] == [1.0] * 2
    assert logged["critic/parse_rate"] == [1.0, 0.0, 1.0] * 2
    assert logged["actor/delta_rating"] == pytest.approx([4.0, -0.5])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"refinement_reward": "r_delta"},
            "refinement_reward='r_delta' is for replies that are right or wrong",
        ),
        ({"refinement_reward": "r_refine", "combination": "gated"}, "combination='gated' is for"),
        ({"signed_dis": True}, "signed_dis=True is for"),
        ({"balanced_rollouts": True}, "balanced_rollouts=True is for"),
        ({"oracle_noise": 0.1}, "oracle_noise=0.1 is for"),
        ({"tolerance": 0.0}, "tolerance=0.0 must be above 0"),
    ],
)
def test_what_scores_do_not_have_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=re.escape(message)):
        CritiqueConfig(**({"output_dir": "x", "bf16": False, "use_cpu": True, "tolerance": 2.0} | options))
