"""The tiny model works like any other model."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from critique_rl.cold_start.tiny import CONTEXT, PHRASES, build_model, build_tokenizer, save_untrained
from critique_rl.prompts import COMPACT, PAPER
from critique_rl.tasks import load_task
from critique_rl.tasks.modular_chain_teacher import Annotator


@pytest.mark.parametrize(
    "text", ["3+4*7, left to right mod 10", "é π 漢字 😀", "  two  spaces\n\n", PAPER.critique]
)
def test_any_text_survives_the_tokenizer(text: str) -> None:
    tokenizer = build_tokenizer()
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def test_phrases_are_one_token_and_a_critique_of_three_steps_is_short() -> None:
    tokenizer = build_tokenizer()
    assert all(len(tokenizer(phrase)["input_ids"]) == 1 for phrase in PHRASES["modular_chain"])
    problem = load_task("modular_chain", split="train", steps=3, size=200)[0]
    critique = Annotator().critique(problem, problem.solution, random.Random(0))
    assert len(tokenizer(critique + tokenizer.eos_token)["input_ids"]) == 27


def test_the_chat_template_writes_each_turn_and_no_system_turn() -> None:
    conversation = COMPACT.refinement_prompt("1+1", "2", "Bad.")
    written = build_tokenizer().apply_chat_template(conversation, add_generation_prompt=True, tokenize=False)
    assert written == (
        "<|im_start|>user\n1+1<|im_end|><|im_start|>assistant\n2<|im_end|>"
        "<|im_start|>user\nBad.<|im_end|><|im_start|>assistant\n"
    )


def test_what_is_saved_is_what_is_loaded(tmp_path: Path) -> None:
    save_untrained(tmp_path, seed=3)
    model, tokenizer = AutoModelForCausalLM.from_pretrained(tmp_path), AutoTokenizer.from_pretrained(tmp_path)
    made = build_model(build_tokenizer(), seed=3)
    assert made.state_dict().keys() == model.state_dict().keys()
    assert all(
        torch.equal(a, b)
        for a, b in zip(made.state_dict().values(), model.state_dict().values(), strict=True)
    )
    text = "Question: 3+4, left to right mod 10\nSolution: 3+4=7"
    assert tokenizer(text)["input_ids"] == build_tokenizer()(text)["input_ids"]
    assert tokenizer.chat_template == build_tokenizer().chat_template
    assert (tokenizer.eos_token, tokenizer.pad_token) == ("<|im_end|>", "<|endoftext|>")
    assert model.config.max_position_embeddings == CONTEXT
    assert 50_000 < sum(p.numel() for p in model.parameters()) < 150_000


def test_a_seed_fixes_the_weights_and_the_global_generator_is_left_alone() -> None:
    tokenizer = build_tokenizer()
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    a, b, c = (build_model(tokenizer, seed=seed).get_input_embeddings().weight for seed in (1, 1, 2))
    assert torch.equal(torch.rand(3), expected)
    assert torch.equal(a, b) and not torch.equal(a, c)
