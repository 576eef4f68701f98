"""Scored replies and the task that has them: the score's parser, scales, scorers, metrics, loaders, prompts."""

from __future__ import annotations

import json
import logging
import random
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import datasets
import pytest
import torch
from transformers import (
    AutoModelForSequenceClassification,
    GPT2Config,
    GPT2ForSequenceClassification,
    PreTrainedTokenizerBase,
    Qwen2Config,
    TrainerState,
)
from transformers.models.qwen2 import Qwen2ForSequenceClassification

from critique_rl import tasks
from critique_rl.actors.reward_model import RewardModelScorer
from critique_rl.cold_start.tiny import CONTEXT, build_tokenizer, save_untrained
from critique_rl.config.run import load_config
from critique_rl.display import Display
from critique_rl.evaluation.episodes import Episode, read_episodes
from critique_rl.evaluation.metrics import metrics
from critique_rl.evaluation.protocol import Protocol, evaluate
from critique_rl.evaluation.summary import summarise
from critique_rl.grading.scoring import KeywordScorer, Rater, ScoreRange, train_range
from critique_rl.pool import collect_pool, score_range
from critique_rl.prompts import SUMMARY, parse_rating, prompt_set
from critique_rl.reports.markdown import markdown_table
from critique_rl.reports.report import write_report
from critique_rl.reports.results import histories, result_rows
from critique_rl.runs.run import Run
from critique_rl.tasks.cnn_dailymail import TASK
from critique_rl.tasks.made_up_facts import TASK as FACTS
from critique_rl.tasks.made_up_facts_teacher import Annotator, Summariser
from critique_rl.training.critique_reward import CritiqueReward
from critique_rl.training.stage_config import CritiqueConfig, Stage1Config, Stage2Config
from critique_rl.types import Conversation, Generation, Problem, Sampling, UserError, problem_id

LABEL = "Quality score:"
FENCE = "```"

# -- the score that a critique states -----------------------------------------------------------------------

SCORES = [
    # input, expected, why
    (f"{LABEL} 7", 7.0, "the marker"),
    (f"Comments: fine\n{LABEL} 7\nSuggestions: none", 7.0, "between the other fields"),
    (f"{LABEL} 1", 1.0, "the lowest"),
    (f"{LABEL} 10", 10.0, "the highest"),
    (f"{LABEL} 7.5", 7.5, "a fraction"),
    (f"{LABEL} 7.", 7.0, "a full stop"),
    (f"{LABEL} 7/10", 7.0, "out of the highest"),
    (f"{LABEL} 7 out of 10, for it is short", 7.0, "out of the highest, with a reason"),
    (f"{LABEL} 10/10", 10.0, "out of the highest"),
    (f"**{LABEL}** **7**/10", 7.0, "bold"),
    (f"- {LABEL} [7]", 7.0, "a list item, brackets kept"),
    (f"{LABEL} 7 - it omits 2 dates", 7.0, "a dash and a reason"),
    (f"{LABEL} 7\r\nSuggestions: 9", 7.0, "a line may end in CR LF"),
    (f"{LABEL} 7\n{LABEL} 7", 7.0, "the same score twice"),
    ("", None, "empty"),
    ("7", None, "no label"),
    (f"{LABEL}", None, "a label without value, cut at the token limit"),
    (f"{LABEL}\n7", None, "a value of the next line belongs to that line"),
    (f"{LABEL} seven", None, "no number"),
    (f"{LABEL.lower()} 7", None, "the label is matched letter by letter"),
    (f"I would say {LABEL} 7", None, "within a line only"),
    (f"{LABEL} 0", None, "below the scale"),
    (f"{LABEL} 11", None, "above the scale"),
    (f"{LABEL} 70", None, "above the scale, and no 7"),
    (f"{LABEL} -7", None, "below the scale, and no 7"),
    (f"{LABEL} .7", None, "below the scale, and no 7"),
    (f"{LABEL} 7%", None, "another scale"),
    (f"{LABEL} 7/100", None, "another scale"),
    (f"{LABEL} 4 out of 5", None, "another scale"),
    (f"{LABEL} 7e1", None, "no plain number"),
    (f"{LABEL} 7,5", None, "a decimal comma, or two scores"),
    (f"{LABEL} 7.5.1", None, "no number"),
    (f"{LABEL} 7-8", None, "a range"),
    (f"{LABEL} 7 to 8", None, "a range"),
    (f"{LABEL} 7 or 8", None, "two scores"),
    (f"{LABEL} [1-10]", None, "the format echoed"),
    (f"{LABEL} 7\n{LABEL} 8", None, "two scores"),
    (f"{LABEL} 7\nAs said, {LABEL} 8.", None, "two scores, one of them within a line"),
    (f"{LABEL} 7\n{LABEL} 11", None, "two scores, one of them off the scale"),
    (f"{LABEL} 7\n{LABEL} 3-4", None, "a score and a range"),
    (f"{LABEL} 7\nAs said, {LABEL} 3-4.", None, "a score, and a range within a line"),
    (f"> {LABEL} 7", None, "a block quote"),
    (f"> {LABEL} 7\n\n{LABEL} 3", 3.0, "a block quote does not contradict"),
    (f"{FENCE}\n{LABEL} 7\n{FENCE}\n{LABEL} 3", 3.0, "a code fence does not contradict"),
    (f"`{LABEL} 7`", None, "back-ticks"),
    (f'The summary says "{LABEL} 10".\n\n{LABEL} 3', 3.0, "a quotation does not contradict"),
    (f"“\n{LABEL} 10”", None, "typographic quotation marks"),
]


@pytest.mark.parametrize(("critique", "expected", "why"), SCORES, ids=[why for _, _, why in SCORES])
def test_parse_rating(critique: str, expected: float | None, why: str) -> None:
    assert parse_rating(critique) == expected, why


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


# -- reward models ------------------------------------------------------------------------------------------

REPLIES = ("Ana has 3 red cups.", "No.", "Bo has 7 blue pens and it rains.", "Ana has 3 red cups.", "", "Cy.")
ITEMS = [{"question": DOCUMENT if i % 2 else "Who?", "reply": reply} for i, reply in enumerate(REPLIES)]


def save_classifier(
    directory: Path, *, labels: int = 1, pad: bool = True, chat: bool = True, weight: float | None = None
) -> str:
    """Write a tiny sequence classifier with random weights, and its tokenizer."""
    tokenizer = build_tokenizer()
    if not chat:
        tokenizer.chat_template = None
    config = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=CONTEXT,
        num_labels=labels,
        pad_token_id=tokenizer.pad_token_id if pad else None,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Qwen2ForSequenceClassification(config)
        for parameter in model.parameters():  # the usual start is so small that all scores look alike
            torch.nn.init.normal_(parameter, std=0.3)
    if weight is not None:
        torch.nn.init.constant_(model.score.weight, weight)
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return str(directory)


@pytest.fixture(scope="module")
def reward_model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_classifier(tmp_path_factory.mktemp("models") / "reward")


def read_alone(directory: str, texts: Sequence[str], tokenizer: PreTrainedTokenizerBase) -> list[float]:
    """Score at the last token of each text, one at a time and unpadded, from the model's inside."""
    model = AutoModelForSequenceClassification.from_pretrained(directory)
    scores = []
    with torch.no_grad():
        for text in texts:
            ids = torch.tensor([tokenizer(text)["input_ids"]])
            scores.append(model.score(model.model(ids).last_hidden_state[0, -1]).item())
    return scores


def chats(items: Sequence[dict[str, str]]) -> list[str]:
    return [
        f"<|im_start|>user\n{i['question']}<|im_end|><|im_start|>assistant\n{i['reply']}<|im_end|>"
        for i in items
    ]


def test_reward_model_reads_the_last_token_of_the_chat(reward_model: str) -> None:
    expected = read_alone(reward_model, chats(ITEMS), build_tokenizer())
    assert max(expected) - min(expected) > 0.1  # another token read would show
    assert RewardModelScorer(reward_model, device="cpu").score(ITEMS) == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("batch_size", [1, 2, 5])
def test_scores_do_not_depend_on_the_batch(reward_model: str, batch_size: int) -> None:
    together = RewardModelScorer(reward_model, device="cpu", batch_size=16).score(ITEMS)
    apart = RewardModelScorer(reward_model, device="cpu", batch_size=batch_size)
    assert apart.score(ITEMS) == pytest.approx(together, abs=1e-4)
    assert apart.score(ITEMS[::-1]) == pytest.approx(together[::-1], abs=1e-4)
    assert apart.score([]) == []


@pytest.mark.parametrize("pad_token", ["<|endoftext|>", "<|im_end|>"])
def test_a_model_without_padding_id_scores_the_same(tmp_path: Path, pad_token: str) -> None:
    directory = save_classifier(tmp_path, pad=False)
    settings = tmp_path / "tokenizer_config.json"
    settings.write_text(json.dumps(json.loads(settings.read_text()) | {"pad_token": pad_token}))
    expected = read_alone(directory, chats(ITEMS), build_tokenizer())
    # With the end of turn as padding the last token would be taken for padding, so nothing is padded.
    assert RewardModelScorer(directory, device="cpu").score(ITEMS) == pytest.approx(expected, abs=1e-4)


def test_positions_count_from_the_left(tmp_path: Path) -> None:
    tokenizer = build_tokenizer()  # pads on the left, which would move the absolute positions of GPT-2
    config = GPT2Config(
        vocab_size=len(tokenizer),
        n_embd=32,
        n_layer=1,
        n_head=4,
        n_positions=CONTEXT,
        num_labels=1,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = GPT2ForSequenceClassification(config).eval()
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    apart = RewardModelScorer(tmp_path, device="cpu", batch_size=1).score(ITEMS)
    assert RewardModelScorer(tmp_path, device="cpu").score(ITEMS) == pytest.approx(apart, abs=1e-4)


def test_without_chat_template_question_and_reply_are_a_pair(tmp_path: Path) -> None:
    directory = save_classifier(tmp_path, chat=False)
    items = [item for item in ITEMS if item["reply"]]
    expected = read_alone(directory, [i["question"] + i["reply"] for i in items], build_tokenizer())
    assert RewardModelScorer(directory, device="cpu").score(items) == pytest.approx(expected, abs=1e-4)


def test_what_is_too_long_is_counted_and_not_cut(reward_model: str, caplog: pytest.LogCaptureFixture) -> None:
    full = RewardModelScorer(reward_model, device="cpu").score(ITEMS)
    long = {"question": DOCUMENT, "reply": "x" * CONTEXT}
    scorer = RewardModelScorer(reward_model, device="cpu")
    with caplog.at_level(logging.WARNING):
        scores = scorer.score([long, *ITEMS, long])
    assert scores[0] is scores[-1] is None
    assert scores[1:-1] == pytest.approx(full, abs=1e-4)
    assert scorer.too_long == 2
    assert f"2 of {len(ITEMS) + 2} replies not scored, longer than {CONTEXT} tokens" in caplog.text


def test_the_limit_is_the_last_length_that_fits(reward_model: str) -> None:
    length = len(build_tokenizer()(chats(ITEMS[:1])[0])["input_ids"])
    fits = RewardModelScorer(reward_model, device="cpu", max_length=length)
    assert fits.score(ITEMS[:1]) != [None]
    assert RewardModelScorer(reward_model, device="cpu", max_length=length - 1).score(ITEMS[:1]) == [None]


def test_a_score_that_is_no_number_is_unknown(tmp_path: Path) -> None:
    directory = save_classifier(tmp_path, weight=float("nan"))
    assert RewardModelScorer(directory, device="cpu").score(ITEMS[:2]) == [None, None]


def test_what_is_no_reward_model_is_refused(tmp_path: Path) -> None:
    two = save_classifier(tmp_path / "two", labels=2)
    save_untrained(tmp_path / "causal", seed=0)
    with pytest.raises(UserError, match="it has 2 outputs, not one"):
        RewardModelScorer(two, device="cpu")
    with pytest.raises(UserError, match=r"causal is no reward model: its checkpoint lacks score\.weight"):
        RewardModelScorer(tmp_path / "causal", device="cpu")
    with pytest.raises(UserError, match="no model at"):
        RewardModelScorer(tmp_path / "nowhere" / "else", device="cpu")
    with pytest.raises(UserError, match="batch_size must be at least 1"):
        RewardModelScorer(two, batch_size=0)


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


# -- a run ------------------------------------------------------------------------------------------------------


class Writer:
    """An actor and critic that answers each conversation by a rule."""

    name = "writer"

    def __init__(self, rule: Callable[[str], str]) -> None:
        self.rule = rule

    def generate(self, prompts: Sequence[Conversation], sampling: Sampling) -> list[Generation]:
        return [Generation(self.rule(p[-1]["content"]), 5, 2, False) for p in prompts]


def test_protocol_with_scores(tmp_path: Path) -> None:
    problems = FACTS.load(source=None, split="test", seed=0, facts=1, remarks=1, size=100)[:5]
    answers = {p.question: p.solution for p in problems}
    # Answers with the whole text, which is too long, and after a critique with the facts alone.
    actor = Writer(lambda text: text.partition("Suggestions: ")[2] or text)
    critic = Writer(
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
    actor = Writer(lambda text: text if len(text) % 2 else text.partition(". ")[0] + ".")
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
    actor = Writer(lambda text: "Bo has 7 blue pens." if "7" in text else "It rains.")
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
        ({"oracle_noise": 0.1}, "oracle_noise=0.1 is for"),
        ({"tolerance": 0.0}, "tolerance=0.0 must be above 0"),
    ],
)
def test_what_scores_do_not_have_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=re.escape(message)):
        CritiqueConfig(**({"output_dir": "x", "bf16": False, "use_cpu": True, "tolerance": 2.0} | options))


SCORED = Path(__file__).parents[2] / "experiments" / "configs" / "tiny-summarisation.yaml"
SMALL = (
    "cold_start.shipped=null",
    "cold_start.reasoning=64",
    "cold_start.refinements=64",
    "cold_start.critiques=64",
    "pool.problems=64",
    "evaluation.tasks=[{name: made_up_facts, split: test, limit: 8, options: {size: 2000}}]",
    "train=[{name: made_up_facts, split: train, options: {size: 2000}}]",
    *(f"stages.{stage}.trainer.rl_steps=1" for stage in ("stage1", "stage2")),
    *(f"stages.{stage}.trainer.generation_batch_size=64" for stage in ("stage1", "stage2")),
)


def small_run(tmp_path: Path, *overrides: str) -> Run:
    config = load_config(SCORED, [f"output={tmp_path}", *SMALL, *overrides])
    assert config.cold_start.base is not None
    few = replace(config.cold_start.base.passes[0], reasoning=64, critiques=64, refinements=64)
    base = replace(config.cold_start.base, passes=[few])
    return Run(replace(config, cold_start=replace(config.cold_start, base=base)), display=Display(quiet=True))


def test_a_scored_run_from_cold_start_to_table(tmp_path: Path) -> None:
    """All steps of Table 9 in small: untrained texts teach nothing, but every step hands on scores."""
    run = small_run(tmp_path)
    run.execute()
    rows, logs = result_rows(run.folder), histories(run.folder)
    table = {row["method"]: row["metrics"] for row in rows}
    assert set(table) == {"No critic", "SFT critic", "Stage I", "Critique-RL"}
    assert {"score", "score_refine", "graded_rate"} <= set(table["Critique-RL"])
    assert "acc" not in table["Critique-RL"]
    assert len(logs["Critique-RL"][0]) == 1
    assert "actor/rating_refine" in logs["Critique-RL"][0][0]
    path = write_report(run.folder)
    assert "MAE@Dis" in path.with_name("report.md").read_text(encoding="utf-8")
    # The scale comes from the pool: a measurement is not made anew unless that is.
    assert all("pool" in " ".join(s.inputs) for s in run.steps() if s.kind == "evaluate")
    assert all(step.finished() for step in run.steps())


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("scorer=null", "tolerance goes with `scorer`"),
        ("stages.stage1.trainer.tolerance=null", "stages.stage1.trainer.tolerance goes with `scorer`"),
        ("pool.balanced=true", "pool.balanced: scored replies"),
        ("stages.stage2.method=star", "'star' is not made for replies with scores"),
        ("scorer={kind: keyword}", "scorer.kind='keyword' is unknown. Did you mean 'keywords'"),
        ("scorer={kind: reward_model}", "a reward_model needs `model`"),
        ("evaluation.tasks=[{name: modular_chain, split: test, limit: 8}]", "its replies are right or wrong"),
    ],
)
def test_a_scored_run_is_checked_before_it_starts(tmp_path: Path, override: str, message: str) -> None:
    with pytest.raises(UserError, match=re.escape(message)):
        small_run(tmp_path, override).execute()
    assert not any(tmp_path.iterdir())


def test_a_graded_run_refuses_a_scored_task(tmp_path: Path) -> None:
    tiny = SCORED.with_name("tiny.yaml")
    task = "evaluation.tasks=[{name: made_up_facts, split: test, limit: 8}]"
    with pytest.raises(UserError, match="its replies are scored, set `scorer`"):
        Run(load_config(tiny, [f"output={tmp_path}", task]), display=Display(quiet=True)).execute()


def test_the_reviewer_says_what_is_so() -> None:
    question = "It rains. Ana has 3 red cups. Bo has 7 blue pens."
    text = Problem(problem_id(question), "made_up_facts", question, "", "", "score")
    rng = random.Random(0)
    critique = Annotator().critique(text, "It rains. Ana has 3 red cups.", rng)
    assert critique == (
        "Comments: It rains. Surplus. Ana has 3 red cups. Stated. Bo has 7 blue pens. Missing.\n"
        "Quality score: 4\nSuggestions: Ana has 3 red cups. Bo has 7 blue pens."
    )
    assert Summariser(conviction=0.0).refine(text, critique, rng) == "Ana has 3 red cups. Bo has 7 blue pens."
    assert Summariser().solve(text, rng) == "Ana has 3 red cups. Bo has 7 blue pens."
    assert Summariser(overlooked=1.0, mistaken=1.0).solve(text, rng) == "It rains."
    silent = Annotator(stop=1.0).critique(text, "It rains.", rng)
    assert silent.endswith("Suggestions: ")
    assert Summariser(overlooked=1.0, mistaken=1.0).refine(text, silent, rng) == "It rains."


# -- the task -----------------------------------------------------------------------------------------------

NEWS = {
    "article": "The bridge closed on Monday. Repairs take a year.",
    "highlights": "Bridge closed .\nRepairs take a year .",
    "id": "0a1b",
}


def write_rows(path: Path, rows: list[Any]) -> str:
    if path.suffix == ".parquet":
        datasets.Dataset.from_list(rows).to_parquet(str(path))
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


@pytest.mark.parametrize("name", ["test.jsonl", "test.parquet"])
def test_news_from_a_file(tmp_path: Path, name: str) -> None:
    (problem,) = TASK.load(source=write_rows(tmp_path / name, [NEWS]), split="test", seed=0)
    assert (problem.id, problem.dataset) == (problem_id(NEWS["article"]), "cnn_dailymail")
    assert (problem.question, problem.answer) == (NEWS["article"], NEWS["highlights"])
    assert (problem.solution, problem.kind) == (NEWS["highlights"], "score")


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_news_from_the_hub(monkeypatch: pytest.MonkeyPatch, split: str) -> None:
    seen = []

    def load_dataset(repo: str, config: str, *, split: str) -> Any:
        seen.append((repo, config, split))
        return datasets.Dataset.from_list([NEWS])

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    assert [p.question for p in tasks.load_task("cnn_dailymail", split=split)] == [NEWS["article"]]
    assert seen == [("abisee/cnn_dailymail", "3.0.0", split)]  # validation is published, not cut from train


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"article": "a", "id": "1"}, r"test\.jsonl, line 2: missing field 'highlights'"),
        ({**NEWS, "article": " "}, r"test\.jsonl, line 2, field 'article': found ' ', expected text that is"),
        ({**NEWS, "highlights": None}, r"test\.jsonl, line 2, field 'highlights': found None, expected text"),
        ([1], r"test\.jsonl, line 2: found \[1\], expected an object"),
    ],
)
def test_a_bad_row_is_named(tmp_path: Path, row: Any, message: str) -> None:
    source = write_rows(tmp_path / "test.jsonl", [NEWS, row])
    with pytest.raises(UserError, match=message):
        TASK.load(source=source, split="test", seed=0)


def test_embedded_texts_hold_their_facts() -> None:
    problems = FACTS.load(source=None, split="train", seed=0, facts=3, remarks=1, size=200)
    for problem in problems:
        # Found again in the text by their form alone.
        facts = re.findall(r"[A-Z][a-z]+ has [2-9] [a-z]+ [a-z]+\.", problem.question)
        assert problem.answer.split("\n") == facts
        assert problem.solution == " ".join(facts)
        assert len({fact.split()[0] for fact in facts}) == 3
        assert len(re.findall(r"\.", problem.question)) == 4
        assert problem.id == problem_id(problem.question)
        assert problem.kind == "score"


def test_embedded_splits_are_disjoint_whatever_the_seed() -> None:
    def ids(split: str, seed: int) -> set[str]:
        return {p.id for p in FACTS.load(source=None, split=split, seed=seed, facts=1, remarks=0, size=1500)}

    parts = [ids(split, 0) for split in ("train", "validation", "test")]
    assert len(set().union(*parts)) == sum(map(len, parts)) == 1500
    assert [len(part) / 1500 for part in parts] == pytest.approx([0.7, 0.1, 0.2], abs=0.05)
    assert ids("train", 0) == parts[0] != ids("train", 1)
    assert ids("train", 1) & parts[0]  # of 3,840 texts both seeds draw some
    assert not ids("train", 1) & parts[2]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"source": "x"}, "remove `source`"),
        ({"split": "tset"}, "no split 'tset'. Did you mean 'test'"),
        ({"facts": 0}, "facts=0, expected 1 to 10"),
        ({"remarks": 9}, "remarks=9, expected 0 to 8"),
        ({"facts": 1, "size": 2000}, "size=2000, expected 1 to 1920 with 1 facts"),
    ],
)
def test_embedded_task_errors(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=re.escape(message)):
        FACTS.load(**({"source": None, "split": "train", "seed": 0} | options))


def test_prompts_of_the_task_do_not_state_a_score() -> None:
    problem = replace(FACTS.load(source=None, split="train", seed=0, size=10)[0], answer="not to be seen")
    prompt = SUMMARY.critique_prompt(problem.question, "Ana has 3 red cups.")
    assert problem.question in prompt[0]["content"]
    assert "Ana has 3 red cups." in prompt[0]["content"]
    assert problem.answer not in prompt[0]["content"]
    assert LABEL in prompt[0]["content"]
    # A critic that begins by repeating its instructions has not said two things.
    assert parse_rating(f"{prompt[0]['content']}\n\n{LABEL} 4") == 4.0
