"""Tests of what `CritiqueTrainer` relies on in trl, private methods above all, and of the objective itself.

The gradient of the trainer is compared with one derived here in plain torch: rewards, baseline, KL in the
reward, whitening, clipping and averaging are written out again, from the text of the paper's section 3 and
the released code's description, on the tensors of the trainer's own rollout.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from helpers import plain_logps, push
from torch import Tensor
from transformers import AutoModelForCausalLM
from trl import GRPOTrainer, RLOOConfig, RLOOTrainer

from critique_rl.prompts import VERDICT_LABEL
from critique_rl.training.stages import Stage1Trainer
from critique_rl.training.trainer import CriticTrainer

GROUP = 4
Make = Callable[..., Any]


def build(critic: Path, pool: Dataset, config: Make, **settings: Any) -> Stage1Trainer:
    """A trainer that is ready for a rollout and one loss outside of `train`."""
    trainer = Stage1Trainer(critic, args=config(**settings), train_dataset=pool)
    trainer.model.train()
    trainer.current_gradient_accumulation_steps = 1
    return trainer


def gradients(trainer: GRPOTrainer | RLOOTrainer, output: dict[str, Tensor]) -> dict[str, Tensor]:
    trainer.model.zero_grad()
    trainer._compute_loss(trainer.model, output).backward()
    return {name: p.grad.clone() for name, p in trainer.model.named_parameters()}


def plain_rewards(
    trainer: Stage1Trainer, output: dict[str, Tensor], rows: list[dict[str, Any]]
) -> list[float]:
    texts = trainer.processing_class.batch_decode(output["completion_ids"], skip_special_tokens=True)
    said = [text.rpartition(f"\n{VERDICT_LABEL} ")[2] for text in texts]
    return [
        float(v == ("Correct" if row["response_correct"] else "Wrong"))
        for v, row in zip(said, rows, strict=True)
    ]


def plain_loss(
    settings: dict[str, Any],
    rewards: list[float],
    logps_NT: Tensor,
    old_NT: Tensor,
    ref_NT: Tensor,
    mask_NT: Tensor,
) -> Tensor:
    """The released objective, sequence by sequence and token by token."""
    beta, in_reward = settings["beta"], settings["kl_placement"] == "reward"
    advantage_of: dict[tuple[int, int], float] = {}
    for i, reward in enumerate(rewards):
        group = rewards[i - i % GROUP : i - i % GROUP + GROUP]
        if settings["advantage"] == "rloo":
            base = reward - (sum(group) - reward) / (GROUP - 1)
        else:
            base = (reward - sum(group) / GROUP) / (torch.tensor(group).std().item() + 1e-4)
        to_go = base
        for t in reversed(range(int(mask_NT[i].sum()))):  # R at the last token, minus the KL from t on
            k1 = (old_NT[i, t] - ref_NT[i, t]).item()
            less_1 = torch.tensor(-k1).expm1().item()  # pi_ref / pi - 1
            kl, own = {"k1": (k1, k1), "k3": (less_1 + k1, k1), "forward": (-(less_1 + 1) * k1, -less_1)}[
                settings["kl_estimator"]
            ]
            advantage_of[i, t] = to_go - beta * own * in_reward
            to_go -= beta * kl * in_reward
    if settings["whiten"]:
        values = torch.tensor(list(advantage_of.values()), dtype=torch.float64)
        mean, std = values.mean().item(), values.std(unbiased=False).item()
        advantage_of = {key: (value - mean) / std for key, value in advantage_of.items()}
    per_sequence = []
    for i in range(len(rewards)):
        terms = []
        for t in range(int(mask_NT[i].sum())):
            ratio = (logps_NT[i, t] - old_NT[i, t]).exp()
            clipped = ratio.clamp(0.8, 1.2)
            term = -torch.minimum(ratio * advantage_of[i, t], clipped * advantage_of[i, t])
            if not in_reward:
                d = ref_NT[i, t] - logps_NT[i, t]
                term = term + beta * (d.exp() - d - 1)
            terms.append(term)
        per_sequence.append(torch.stack(terms).mean())
    return torch.stack(per_sequence).mean()


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"whiten": False},
        {"kl_estimator": "k3"},
        {"kl_estimator": "forward", "whiten": False},
        {"kl_placement": "loss", "kl_estimator": "k3", "whiten": False},
        {"kl_placement": "loss", "kl_estimator": "k3", "advantage": "grpo", "whiten": False},
        {"advantage": "grpo"},
    ],
    ids=lambda changes: "-".join(f"{k}={v}" for k, v in changes.items()) or "released",
)
def test_gradient_parity(critic_dir: Path, pool: Dataset, config: Make, changes: dict[str, Any]) -> None:
    settings = {
        "beta": 0.1,
        "whiten": True,
        "kl_placement": "reward",
        "kl_estimator": "k1",
        "advantage": "rloo",
    }
    settings |= changes
    trainer = build(critic_dir, pool, config, temperature=0.9, **settings)
    trainer.state.global_step = 1  # the policy is meant to be away from its reference here
    push(trainer.model, 0.3, seed=1)
    rows = next(iter(trainer.get_train_dataloader()))
    output = trainer._generate_and_score_completions(rows)

    reference = AutoModelForCausalLM.from_pretrained(critic_dir)
    policy = AutoModelForCausalLM.from_pretrained(critic_dir)
    policy.load_state_dict(trainer.model.state_dict())
    with torch.no_grad():
        old_NT, ref_NT = (plain_logps(m, output, 0.9) for m in (policy, reference))
    rewards = plain_rewards(trainer, output, rows)
    mask_NT = output["completion_mask"]
    distance = (old_NT - ref_NT)[mask_NT.bool()].abs().mean()
    assert 0 < sum(rewards) < len(rewards) and distance > 0.02, "otherwise this would prove nothing"

    push(trainer.model, 0.2, seed=2)  # as after some optimizer steps: ratios differ from 1, some are clipped
    policy.load_state_dict(trainer.model.state_dict())
    ours = gradients(trainer, output)
    logps_NT = plain_logps(policy, output, 0.9)
    loss = plain_loss(settings, rewards, logps_NT, old_NT, ref_NT, mask_NT)
    loss.backward()
    ratio_NT = (logps_NT - old_NT).exp()[mask_NT.bool()]
    assert ((ratio_NT - 1).abs() > 0.2).any() and ((ratio_NT - 1).abs() < 0.2).any()

    by_hand = dict(policy.named_parameters())
    assert ours.keys() == by_hand.keys()
    norm = torch.stack([grad.norm() for grad in ours.values()]).norm()
    difference = max((grad - by_hand[name].grad).abs().max() for name, grad in ours.items())
    assert norm > 1e-2
    assert difference / norm < 1e-6


def test_on_policy_gradient_is_that_of_rloo(
    critic_dir: Path, pool: Dataset, config: Make, tmp_path: Path
) -> None:
    """Without KL and whitening, and summed over tokens, one pass is trl's own REINFORCE leave-one-out."""
    trainer = build(
        critic_dir,
        pool,
        config,
        beta=0.0,
        whiten=False,
        loss_type="luspo",
        num_iterations=1,
        gradient_accumulation_steps=1,
        share_prompts=False,  # trl's sampler draws for both
    )
    rloo = RLOOTrainer(
        str(critic_dir),
        reward_funcs=trainer.reward_funcs[0],
        args=RLOOConfig(
            output_dir=str(tmp_path / "rloo"),
            use_cpu=True,
            bf16=False,
            gradient_checkpointing=False,
            report_to="none",
            beta=0.0,
            num_generations=GROUP,
            per_device_train_batch_size=16,
            max_completion_length=20,
            max_steps=1,
        ),
        train_dataset=trainer.train_dataset,
    )
    rloo.model.train()
    rloo.current_gradient_accumulation_steps = 1
    rows = next(iter(trainer.get_train_dataloader()))
    outputs, grads = [], []
    for each in (trainer, rloo):
        torch.manual_seed(0)
        outputs.append(each._generate_and_score_completions(rows))
        grads.append(gradients(each, outputs[-1]))
    assert outputs[0]["completion_ids"].equal(outputs[1]["completion_ids"]), "not the same rollout"
    assert "old_per_token_logps" not in outputs[0]
    norm = torch.stack([grad.norm() for grad in grads[1].values()]).norm()
    assert norm > 1e-2
    assert max((grads[0][name] - grad).abs().max() for name, grad in grads[1].items()) / norm < 1e-6


class TestWhatWeRelyOn:
    def test_the_overridden_methods_exist_with_their_signatures(self) -> None:
        for name, arguments in {
            "_generate": ["self", "prompts"],
            "_calculate_rewards": ["self", "inputs", "prompts", "completions", "completion_ids_list"],
            "_generate_and_score_completions": ["self", "inputs"],
            "_compute_loss": ["self", "model", "inputs"],
        }.items():
            assert list(inspect.signature(getattr(GRPOTrainer, name)).parameters) == arguments, name
            assert name in vars(CriticTrainer), f"{name} is no longer overridden: drop it here"
        logps = inspect.signature(GRPOTrainer._get_per_token_logps_and_entropies).parameters
        assert list(logps)[:6] == [
            "self",
            "model",
            "input_ids",
            "attention_mask",
            "logits_to_keep",
            "batch_size",
        ]

    def test_shapes_and_keys(self, critic_dir: Path, pool: Dataset, config: Make) -> None:
        trainer = build(critic_dir, pool, config)
        rows = next(iter(trainer.get_train_dataloader()))
        questions = [row["question"] for row in rows]
        assert len(rows) == 16 and all(len(set(questions[i : i + GROUP])) == 1 for i in range(0, 16, GROUP))
        assert len(trainer._generate([row["prompt"] for row in rows])) == 8
        output = trainer._generate_and_score_completions(rows)
        assert set(output) == {
            "prompt_ids",
            "prompt_mask",
            "completion_ids",
            "completion_mask",
            "advantages",
            "num_items_in_batch",
            "old_per_token_logps",
            "ref_per_token_logps",
        }
        shape = output["completion_ids"].shape
        assert trainer._gathered_rewards.shape == (16, 1)  # (ranks * B, reward functions)
        assert output["advantages"].shape == output["old_per_token_logps"].shape == shape
        assert output["num_items_in_batch"] == output["completion_mask"].sum()
        loss = trainer._compute_loss(trainer.model, output)  # (B, T) advantages are accepted
        # On the first pass all ratios are 1: minus the mean over critiques of the mean over tokens
        per_critique = output["advantages"].sum(1) / output["completion_mask"].sum(1)
        torch.testing.assert_close(loss.detach(), -per_critique.mean(), atol=1e-6, rtol=0.0)

    @pytest.mark.parametrize(("iterations", "computed"), [(1, False), (2, True)])
    def test_old_logps_are_skipped_on_policy_only(
        self, critic_dir: Path, pool: Dataset, config: Make, iterations: int, computed: bool
    ) -> None:
        trainer = build(critic_dir, pool, config, num_iterations=iterations)
        rows = next(iter(trainer.get_train_dataloader()))
        output = GRPOTrainer._generate_and_score_completions(trainer, rows)
        assert ("old_per_token_logps" in output) is computed

    def test_rollouts_are_shuffled_after_the_advantages_row_by_row(
        self, critic_dir: Path, pool: Dataset, config: Make, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Advantages need groups in order; what `CriticTrainer` adds to a rollout goes along with its rows."""
        settings = {"advantage": "gae", "per_device_train_batch_size": 4, "generation_batch_size": 16}
        trainer = build(critic_dir, pool, config, **settings)
        rollouts: list[dict[str, Tensor]] = []
        roll_out = trainer._generate_and_score_completions

        def watched(rows: list[dict[str, Any]]) -> dict[str, Tensor]:
            rollouts.append(roll_out(rows))
            return rollouts[-1]

        monkeypatch.setattr(trainer, "_generate_and_score_completions", watched)
        rows = next(iter(trainer.get_train_dataloader()))
        parts = []
        for trainer._step in range(4):
            parts.append(trainer._prepare_inputs(rows))
        (rollout,) = rollouts
        names = ("completion_ids", "advantages", "returns", "old_values", "old_per_token_logps")
        before, after = (
            [tuple(tuple(part[name][i].tolist()) for name in names) for part in batch for i in range(size)]
            for batch, size in (([rollout], 16), (parts, 4))
        )
        assert before != after and sorted(before) == sorted(after)
