"""Reward models as scorers: which token they read, and what they cannot score."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from transformers import (
    AutoModelForSequenceClassification,
    GPT2Config,
    GPT2ForSequenceClassification,
    PreTrainedTokenizerBase,
    Qwen2Config,
)
from transformers.models.qwen2 import Qwen2ForSequenceClassification

from critique_rl.actors.reward_model import RewardModelScorer
from critique_rl.cold_start.tiny import CONTEXT, build_tokenizer, save_untrained
from critique_rl.types import UserError

DOCUMENT = "It rains. Ana has 3 red cups. A dog barks. Bo has 7 blue pens."


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
