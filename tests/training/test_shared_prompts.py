"""One pass of a prompt for its group: the same numbers as a pass for each row."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from helpers import history
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, Qwen2Config, Qwen2MoeConfig
from trl.trainer.utils import add_fused_lm_head

from critique_rl.training.config import CriticConfig
from critique_rl.training.shared_prompts import grouped, log_probabilities, refusal
from critique_rl.training.stages import Stage1Trainer

Make = Callable[..., Any]
WIDTH, LENGTH, GROUP = 9, 6, 3


def rows(words: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids and mask of two groups; the second prompt is padded on the left, two critiques on the right."""
    generator = torch.Generator().manual_seed(5)
    prompts = torch.randint(5, words, (2, WIDTH), generator=generator).repeat_interleave(GROUP, 0)
    critiques = torch.randint(5, words, (2 * GROUP, LENGTH), generator=generator)
    mask = torch.ones(2 * GROUP, WIDTH + LENGTH, dtype=torch.long)
    mask[GROUP:, :4] = 0
    mask[:, -1:] = mask[1, -2:] = mask[4, -3:] = 0
    return torch.cat([prompts, critiques], 1).masked_fill(mask == 0, 0), mask


@pytest.mark.parametrize("adapter", [False, True])
@pytest.mark.parametrize("order", [[0, 1, 2, 3, 4, 5], [4, 0, 3, 1, 5, 2], [0, 3]])
def test_log_probabilities_and_gradients_are_those_of_the_plain_pass(
    critic_dir: Path, adapter: bool, order: list[int]
) -> None:
    model: Any = AutoModelForCausalLM.from_pretrained(critic_dir, dtype=torch.float32)
    add_fused_lm_head(model, outputs=("log_probs", "entropy"))
    if adapter:
        torch.manual_seed(1)
        settings = LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False)
        model = get_peft_model(model, settings)
    ids, mask = (t[order] for t in rows(model.config.vocab_size))
    labels = ids.masked_fill(mask == 0, -100)
    labels[:, :-LENGTH] = -100

    def measured(logps: torch.Tensor, entropies: torch.Tensor) -> tuple[torch.Tensor, ...]:
        model.zero_grad()
        of_critiques = mask[:, -LENGTH:] * torch.linspace(0.1, 1, LENGTH)
        (logps * of_critiques).sum().backward()
        gradient = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
        return logps.detach() * mask[:, -LENGTH:], entropies.detach() * mask[:, -LENGTH:], gradient

    plain = model(input_ids=ids, attention_mask=mask, labels=labels, fused_lm_head=True)
    expected = measured(plain.log_probs[:, -LENGTH:], plain.entropy[:, -LENGTH:])
    logps, entropies, gradient = measured(*log_probabilities(model, ids, mask, LENGTH))
    torch.testing.assert_close(logps, expected[0], atol=1e-5, rtol=0)
    torch.testing.assert_close(entropies, expected[1], atol=1e-5, rtol=0)
    assert (gradient - expected[2]).norm() < 1e-5 * expected[2].norm()


def test_rows_of_an_optimizer_step_are_grouped_and_none_leaves_it() -> None:
    prompts = torch.tensor([7, 8, 7, 9, 8, 9, 9, 8]).unsqueeze(1)
    lengths = torch.tensor([1, 2, 2, 1, 1, 1, 3, 1])
    batches = [
        {
            "prompt_ids": prompts[i : i + 2],
            "prompt_mask": torch.ones(2, 1, dtype=torch.long),
            "completion_mask": (torch.arange(3) < lengths[i : i + 2].unsqueeze(1)).long(),
            "row": torch.arange(i, i + 2),
            "names": [str(i), str(i + 1)],
            "num_items_in_batch": torch.tensor(8),
            "absent": None,
        }
        for i in range(0, 8, 2)
    ]
    ordered = grouped(batches, 2)
    assert [b["row"].tolist() for b in ordered] == [[0, 2], [1, 3], [5, 6], [4, 7]]
    assert [b["names"] for b in ordered] == [["0", "2"], ["1", "3"], ["5", "6"], ["4", "7"]]
    assert all(b["num_items_in_batch"] == 8 and b["absent"] is None for b in ordered)


def test_models_that_cannot_share_prompts_are_told_why() -> None:
    def why(checkpointing: bool = False, processes: int = 1, **settings: Any) -> str:
        return refusal(model(Qwen2Config, **settings), checkpointing=checkpointing, processes=processes)

    def model(config: Any, **settings: Any) -> Any:
        small = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 2, "vocab_size": 9}
        heads = {"num_attention_heads": 2, "num_key_value_heads": 1}
        return AutoModelForCausalLM.from_config(config(**small, **heads, **settings))

    assert why() == ""
    assert "sliding" in why(use_sliding_window=True, sliding_window=8, max_window_layers=1)
    assert "gradient_checkpointing" in why(checkpointing=True)
    assert "processes" in why(processes=2)
    assert "experts" in refusal(model(Qwen2MoeConfig), checkpointing=False, processes=1)


@pytest.mark.slow
def test_training_takes_the_same_steps(critic_dir: Path, pool: Dataset, config: Make) -> None:
    runs = []
    for shares in (False, True):
        args: CriticConfig = config(
            share_prompts=True,
            per_device_train_batch_size=4,
            gradient_accumulation_steps=4,
            rl_steps=3,
            optim="sgd",
            learning_rate=0.1,
            weight_decay=0.0,
        )
        trainer = Stage1Trainer(critic_dir, args=args, train_dataset=pool)
        assert trainer.shares_prompts and trainer.shares_sampling
        trainer.shares_prompts = shares
        trainer.train()
        runs.append(trainer)
    # Not the entropy: trl logs the mean of means over micro-batches, which knows their rows.
    names = ("loss", "grad_norm", "reward", "kl", "completions/mean_length")
    plain, shared = (torch.tensor(history(run, *names)) for run in runs)
    torch.testing.assert_close(plain, shared, atol=1e-5, rtol=1e-4)
    for ours, theirs in zip(*(run.model.parameters() for run in runs), strict=True):
        assert (ours - theirs).abs().max() < 1e-5


def test_log_probabilities_of_the_sampler_are_those_of_a_pass(
    critic_dir: Path, pool: Dataset, config: Make
) -> None:
    seen: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = []

    class Compared(Stage1Trainer):
        def _reward_kl(self, output: dict[str, Any]) -> Any:
            drawn = self._old_logps(output)
            seen.append((drawn, self._scored_logps(dict(output)), output["completion_mask"]))
            return super()._reward_kl(output)

    args: CriticConfig = config(share_prompts=True, rl_steps=3, num_iterations=1, temperature=0.6)
    trainer = Compared(critic_dir, args=args, train_dataset=pool)
    trainer.train()
    assert len(seen) == 3
    for drawn, scored, mask in seen[1:]:  # the first are the pass's own: they check the reference
        assert not torch.equal(drawn, scored)
        torch.testing.assert_close(drawn * mask, scored * mask, atol=1e-5, rtol=0)


def test_critiques_are_drawn_by_their_own_seeds(critic_dir: Path, pool: Dataset, config: Make) -> None:
    def texts(**options: Any) -> list[str]:
        args: CriticConfig = config(share_prompts=True, rl_steps=1, **options)
        trainer = Stage1Trainer(critic_dir, args=args, train_dataset=pool)
        trainer.train()
        return [c[0]["content"] for c in trainer._logs["completion"]]

    torch.manual_seed(1)
    first = texts()
    torch.manual_seed(2)
    assert texts() == first != texts(seed=9)


def test_other_samplers_draw_as_before(critic_dir: Path, pool: Dataset, config: Make) -> None:
    args: CriticConfig = config(share_prompts=True, rl_steps=1, top_k=3)
    trainer = Stage1Trainer(critic_dir, args=args, train_dataset=pool)
    assert trainer.shares_prompts and not trainer.shares_sampling
    trainer.train()
    assert trainer.sampled_logps is None
