"""Decoding with shared beginnings: the tokens of `generate`, in fewer positions."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, GenerationConfig, MambaConfig, Qwen2Config

from critique_rl.actors.decoding import (
    _can_pack,
    decode,
    greedy,
    packed_weights,
    refusal,
    shared_beginnings,
)

STOPS, PAD, WORDS, NEW = [1, 7, 15, 23, 31, 38], 0, 40, 12


@pytest.fixture(scope="module")
def model() -> Any:
    """Six query heads on two key heads; weights so large that greedy replies vary and end."""
    torch.manual_seed(3)
    shape: dict[str, Any] = {"hidden_size": 48, "intermediate_size": 64, "num_hidden_layers": 3}
    heads: dict[str, Any] = {"num_attention_heads": 6, "num_key_value_heads": 2, "initializer_range": 0.6}
    config = Qwen2Config(vocab_size=WORDS, pad_token_id=PAD, **shape, **heads)
    return AutoModelForCausalLM.from_config(config).eval()


def prompts() -> list[list[int]]:
    """Three texts with 4, 3 and 1 continuations of other lengths, out of order; two are the same."""
    torch.manual_seed(11)

    def text(length: int) -> list[int]:
        return torch.randint(2, WORDS, (length,)).tolist()

    starts = [text(n) for n in (20, 13, 26)]
    rows = [starts[k] + text(n) for k, n in ((0, 3), (1, 5), (0, 7), (2, 2), (1, 1), (0, 4), (1, 6))]
    return [*rows, list(rows[2])]


def generated(model: Any, rows: list[list[int]]) -> list[list[int]]:
    """Greedy replies of `generate`, one row at a time, up to the token that ends them."""
    config = GenerationConfig(
        max_new_tokens=NEW, do_sample=False, eos_token_id=STOPS, pad_token_id=PAD, use_cache=True
    )
    replies = []
    for row in rows:
        ids = torch.tensor([row])
        reply = model.generate(ids, attention_mask=torch.ones_like(ids), generation_config=config)
        replies.append(reply[0, len(row) :].tolist())
    return replies


@pytest.mark.parametrize("adapter", [False, True])
def test_greedy_tokens_are_those_of_generate(model: Any, adapter: bool) -> None:
    if adapter:
        torch.manual_seed(1)
        settings = LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False)
        model = get_peft_model(AutoModelForCausalLM.from_config(model.config), settings).eval()
    rows = prompts()
    replies = decode(model, rows, greedy, max_tokens=NEW, stop_ids=STOPS, pad_id=PAD)
    assert replies == generated(model, rows)
    assert adapter or len({len(reply) for reply in replies}) > 1  # some end early


def test_a_shared_beginning_is_computed_once_and_finished_rows_are_not(model: Any) -> None:
    computed: list[tuple[int, int]] = []
    hook = model.register_forward_pre_hook(
        lambda _, __, given: computed.append(tuple(given["input_ids"].shape)), with_kwargs=True
    )
    rows = prompts()
    try:
        replies = decode(model, rows, greedy, max_tokens=NEW, stop_ids=STOPS, pad_id=PAD)
    finally:
        hook.remove()
    beginnings, rests, *steps = computed
    assert beginnings == (3, 20 + 1)  # the prompt on its own begins no later than the longest shared one
    assert rests[0] == len(rows)
    lengths = [len(reply) for reply in replies]
    assert [batch for batch, _ in steps] == [
        sum(n > step for n in lengths) for step in range(1, max(lengths))
    ]


def test_prompts_that_share_too_little_are_read_whole(model: Any) -> None:
    rows = [[5, *range(6 + i, 18 + i)] for i in range(0, 20, 5)]
    seen: list[int] = []
    hook = model.register_forward_pre_hook(
        lambda _, __, given: seen.append(given["input_ids"].shape[1]), with_kwargs=True
    )
    try:
        replies = decode(model, rows, greedy, max_tokens=NEW, stop_ids=STOPS, pad_id=PAD)
    finally:
        hook.remove()
    assert seen[0] == 13 + 1 and set(seen[1:]) <= {1}
    assert replies == generated(model, rows)


@pytest.mark.parametrize("rows", [[[7]], [[7], [7, 8, 9], [7, 8, 9]], [[7, 8], [7, 8], [7, 8, 9, 9, 9]]])
def test_the_shortest_prompts_are_decoded_too(model: Any, rows: list[list[int]]) -> None:
    replies = decode(model, rows, greedy, max_tokens=NEW, stop_ids=STOPS, pad_id=PAD)
    assert replies == generated(model, rows)


def test_groups_hold_each_prompt_once_and_what_they_share() -> None:
    rows = prompts()
    groups = shared_beginnings(rows)
    assert sorted(row for group in groups for row in group.rows) == list(range(len(rows)))
    assert sorted((len(group.rows), group.shared) for group in groups) == [(1, 27), (3, 13), (4, 20)]
    for group in groups:
        first, *others = (rows[row] for row in group.rows)
        assert all(other[: group.shared] == first[: group.shared] for other in others)


def test_the_output_layer_is_not_copied_for_each_row(model: Any) -> None:
    frozen = AutoModelForCausalLM.from_config(model.config).eval().requires_grad_(False)
    with torch.profiler.profile(record_shapes=True) as profile:
        decode(frozen, prompts(), greedy, max_tokens=2, stop_ids=STOPS, pad_id=PAD)
    of_rows = [e for e in profile.events() if e.name == "aten::bmm" and e.input_shapes[1][-1] == WORDS]
    assert of_rows == []


@pytest.mark.skipif(not _can_pack(), reason="packing pays where the processor multiplies bfloat16")
def test_packed_weights_give_the_same_logits_and_leave_the_model_as_it_was(model: Any) -> None:
    half = AutoModelForCausalLM.from_config(model.config).eval().to(torch.bfloat16)
    ids = torch.tensor(prompts()[:1])
    with torch.no_grad():
        plain = half(ids).logits
        with packed_weights(half, 100):
            assert "forward" in vars(half.lm_head)
            packed = half(ids).logits
        assert torch.equal(half(ids).logits, plain)
    assert not any("forward" in vars(layer) for layer in half.modules())
    exact = half.float()(ids).logits  # bfloat16 has 8 bits: both round alike
    assert (packed.float() - exact).norm() < 1.5 * (plain.float() - exact).norm() + 1e-3


def test_models_that_cannot_be_decoded_are_told_why(model: Any) -> None:
    small: dict[str, Any] = {"hidden_size": 8, "num_hidden_layers": 1, "vocab_size": 9}
    assert refusal(model) == ""
    state = AutoModelForCausalLM.from_config(MambaConfig(**small))
    assert "linear_attention" in refusal(state)
