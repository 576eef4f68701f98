"""Tests of PPO with a value model: what it predicts and learns, and that runs repeat, resume and split alike."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from accelerate.utils import DistributedType
from datasets import Dataset
from helpers import LORA, ToyActor, history, run_in_two_processes, same, weights
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor
from transformers import AutoModel, AutoModelForCausalLM

from critique_rl.training.stage_config import CritiqueConfig, Stage2Config
from critique_rl.training.stages import Stage1Trainer, Stage2Trainer
from critique_rl.training.trainer import CriticTrainer
from critique_rl.training.value_model import FILE, ValueModel
from critique_rl.types import Conversation, UserError

Make = Callable[..., Any]
VALUE = ("value/loss", "value/explained_variance")


def echo(prompt: Conversation) -> str:
    """The response again, so that the refinement is right where the response is."""
    return next(message["content"] for message in prompt if message["role"] == "assistant")


def ungraded(*rows: int) -> Callable[[Sequence[Mapping[str, str]]], list[bool | None]]:
    """A grader that cannot grade these rows."""

    def grade(items: Sequence[Mapping[str, str]]) -> list[bool | None]:
        return [None if i in rows else i % 3 == 0 for i in range(len(items))]

    return grade


def build(critic: Any, pool: Dataset, args: CritiqueConfig, **extra: Any) -> CriticTrainer:
    """A trainer that is ready for a rollout, with a value model that has an opinion already."""
    kind = Stage2Trainer if isinstance(args, Stage2Config) else Stage1Trainer
    trainer = kind(critic, args=args, train_dataset=pool, **extra)
    trainer.model.train()
    trainer.current_gradient_accumulation_steps = 1
    head = trainer.value_model.network.head
    head.weight.data = 0.3 * torch.randn(head.weight.shape, generator=torch.Generator().manual_seed(0))
    return trainer


def roll_out(trainer: CriticTrainer) -> dict[str, Any]:
    return trainer._generate_and_score_completions(next(iter(trainer.get_train_dataloader())))


def plain_values(network: torch.nn.Module, output: dict[str, Any], i: int) -> Tensor:
    """Values of one critique without padding and batch; its last token is not even shown, it is only chosen."""
    prompt = output["prompt_ids"][i][output["prompt_mask"][i].bool()]
    completion = output["completion_ids"][i][output["completion_mask"][i].bool()]
    states = network.trunk(torch.cat([prompt, completion[:-1]])[None]).last_hidden_state[0]
    return torch.stack([network.head(states[len(prompt) - 1 + t])[0] for t in range(len(completion))])


@pytest.mark.parametrize("whiten", [False, True])
def test_advantages_are_those_worked_out_token_by_token(
    critic_dir: Path, pool: Dataset, config: Make, whiten: bool
) -> None:
    args = config(advantage="gae", gae_lambda=0.8, beta=0.1, whiten=whiten)
    trainer = build(critic_dir, pool, args)
    trainer.state.global_step = 1  # the critic is meant to be away from its reference
    for parameter in trainer.model.parameters():
        parameter.data.mul_(1.05)
    output = roll_out(trainer)
    rewards_N = trainer._gathered_rewards[:, 0]
    assert 0 < rewards_N.sum() < 16
    kl_NT = output["old_per_token_logps"] - output["ref_per_token_logps"]
    expected: list[list[float]] = []
    for i in range(16):
        with torch.no_grad():
            values = [*plain_values(trainer.value_model.network, output, i).tolist(), 0.0]
        last = len(values) - 2
        advantages = [0.0] * len(values)
        for t in range(last, -1, -1):
            reward = -0.1 * kl_NT[i, t].item() + (rewards_N[i].item() if t == last else 0.0)
            advantages[t] = reward + values[t + 1] - values[t] + 0.8 * advantages[t + 1]
        expected.append(advantages[:-1])
    kept = torch.tensor([a for row in expected for a in row])
    if whiten:
        kept = (kept - kept.mean()) / kept.std(unbiased=False)
    mask_NT = output["completion_mask"].bool()
    assert kl_NT[mask_NT].abs().mean() > 1e-3
    torch.testing.assert_close(output["advantages"][mask_NT], kept, atol=2e-5, rtol=0.0)
    assert output["advantages"][~mask_NT].abs().sum() == 0.0


def test_without_values_at_lambda_1_it_is_the_reward_to_go(
    critic_dir: Path, pool: Dataset, config: Make
) -> None:
    """The untouched head predicts 0, and so explains nothing; the loss's KL is left to trl."""
    settings = {"kl_placement": "loss", "kl_estimator": "k3", "whiten": False}
    trainer = Stage1Trainer(
        critic_dir, args=config(advantage="gae", gae_lambda=1.0, **settings), train_dataset=pool
    )
    trainer.model.train()
    output = roll_out(trainer)
    expected_NT = trainer._gathered_rewards * output["completion_mask"]
    assert output["advantages"].equal(expected_NT) and output["returns"].equal(expected_NT)
    assert trainer._metrics["train"]["value/explained_variance"] == [0.0]


class TestLearning:
    @pytest.mark.slow
    def test_it_comes_to_know_what_the_response_tells(
        self, critic_dir: Path, pool: Dataset, config: Make
    ) -> None:
        # Reward 1 for each critique of a right response, 0 for each of a wrong one: the prompt decides.
        args = config(
            Stage2Config,
            advantage="gae",
            beta_1=0.0,
            rl_steps=6,
            num_iterations=4,
            per_device_train_batch_size=32,
            learning_rate=1e-5,
            value_learning_rate=5e-3,
            value_clip=1.0,  # the default would let a value move by 0.2 in an RL step
        )
        trainer = Stage2Trainer(critic_dir, ToyActor(echo), args, train_dataset=pool)
        trainer.train()
        explained = [value for (value,) in history(trainer, "value/explained_variance")]
        losses = [value for (value,) in history(trainer, "value/loss")]
        assert explained[0] == pytest.approx(0.0, abs=1e-5)
        assert sum(explained[-2:]) / 2 > 0.5, explained
        assert max(losses[-2:]) < 0.5 * losses[0], losses

    @pytest.mark.parametrize("checkpointing", [False, True])
    def test_a_critique_without_reward_teaches_neither(
        self, critic_dir: Path, pool: Dataset, config: Make, checkpointing: bool
    ) -> None:
        args = config(Stage2Config, advantage="gae", gradient_checkpointing=checkpointing)
        trainer = build(critic_dir, pool, args, actor=ToyActor(echo), grader=ungraded(1, 6))
        assert trainer.value_model.network.trunk.is_activation_checkpointing is checkpointing
        output = roll_out(trainer)
        assert trainer._gathered_rewards[:, 0].isnan().nonzero().flatten().tolist() == [1, 6]
        assert output["advantages"][[1, 6]].abs().sum() == 0.0 and not output["advantages"].isnan().any()
        trainer._compute_loss(trainer.model, output)
        network = trainer.value_model.network
        ours = {name: p.grad.clone() for name, p in network.named_parameters()}
        network.zero_grad()
        # The same from the graded critiques alone, one by one; no value has moved yet, so none is clipped.
        for i in set(range(16)) - {1, 6}:
            values = plain_values(network, output, i)
            (0.5 * (values - output["returns"][i][: len(values)]) ** 2).mean().div(16).backward()
        norm = torch.stack([grad.norm() for grad in ours.values()]).norm()
        assert norm > 1e-2
        for name, parameter in network.named_parameters():
            assert (ours[name] - parameter.grad).abs().max() / norm < 1e-5, name

    @pytest.mark.slow
    def test_nothing_graded_leaves_both_as_they_are(
        self, critic_dir: Path, pool: Dataset, config: Make
    ) -> None:
        args = config(Stage2Config, advantage="gae", value_learning_rate=1e-2)
        trainer = build(critic_dir, pool, args, actor=ToyActor(echo), grader=ungraded(*range(16)))
        models = (trainer.model, trainer.value_model.network)
        before = [weights(model) for model in models]
        trainer.train()
        assert all(same(weights(model), old) for model, old in zip(models, before, strict=True))
        assert not any("value/explained_variance" in log for log in trainer.state.log_history)

    def test_values_are_clipped_in_the_second_pass(
        self, critic_dir: Path, pool: Dataset, config: Make
    ) -> None:
        trainer = build(critic_dir, pool, config(advantage="gae", value_clip=0.1))
        output = roll_out(trainer)
        network = trainer.value_model.network
        network.head.bias.data += 2.0  # every value far above its return, by more than the clip
        trainer._compute_loss(trainer.model, output)
        assert (
            max(p.grad.abs().max() for p in network.parameters()) > 1e-3
        )  # the larger error is the plain one
        network.zero_grad()
        output["returns"] = output["old_values"] + 5.0  # moved towards it, by more than the clip
        trainer._compute_loss(trainer.model, output)
        assert max(p.grad.abs().max() for p in network.parameters()) == 0.0


class TestInvariance:
    def run(self, critic: Path, pool: Dataset, args: CritiqueConfig, **extra: Any) -> CriticTrainer:
        trainer = build(critic, pool, args)
        trainer.train(**extra)
        return trainer

    @pytest.mark.slow
    def test_accumulation_does_not_move_the_gradient(
        self, critic_dir: Path, pool: Dataset, config: Make
    ) -> None:
        # Plain SGD, and an epsilon above the gradients: Adam would turn rounding into whole steps.
        start = weights(build(critic_dir, pool, config(advantage="gae")).value_model.network)
        runs = [
            self.run(
                critic_dir,
                pool,
                config(
                    advantage="gae",
                    per_device_train_batch_size=16 // parts,
                    gradient_accumulation_steps=parts,
                    rl_steps=2,
                    optim="sgd",
                    learning_rate=0.1,
                    value_learning_rate=0.05,
                    adam_epsilon=1.0,
                    max_grad_norm=1e3,  # clipping would hide the size of the gradient
                    weight_decay=0.0,
                ),
            )
            for parts in (1, 8)
        ]
        whole, parts = (torch.tensor(history(run, "loss", "grad_norm", "reward", *VALUE)) for run in runs)
        torch.testing.assert_close(whole, parts, atol=1e-5, rtol=1e-5)
        after = [weights(run.value_model.network) for run in runs]
        assert max((after[0][name] - p).abs().max() for name, p in start.items()) > 1e-2
        assert max((after[0][name] - p).abs().max() for name, p in after[1].items()) < 1e-5

    @pytest.mark.slow
    def test_resumed_is_uninterrupted(
        self, critic_dir: Path, pool: Dataset, config: Make, tmp_path: Path
    ) -> None:
        args = config(
            advantage="gae", rl_steps=2, save_strategy="steps", save_steps=2, value_learning_rate=1e-3
        )
        whole = self.run(critic_dir, pool, args)
        checkpoint = tmp_path / "run" / "checkpoint-2"
        resumed = self.run(critic_dir, pool, args, resume_from_checkpoint=str(checkpoint))
        assert resumed.state.global_step == whole.state.global_step == 4
        names = ("loss", "grad_norm", "reward", "kl", *VALUE)
        assert history(resumed, *names) == history(whole, *names)
        assert same(weights(resumed.model), weights(whole.model))
        assert same(weights(resumed.value_model.network), weights(whole.value_model.network))
        assert not same(
            weights(whole.value_model.network),
            torch.load(checkpoint / FILE, weights_only=True)["network"],
        )
        # What is saved as the critic is a plain language model, of which the value model is no part.
        saved = AutoModelForCausalLM.from_pretrained(tmp_path / "run" / "checkpoint-4")
        assert same(weights(saved), weights(whole.model))
        (checkpoint / FILE).unlink()
        with pytest.raises(UserError, match=rf"{FILE} is missing: .*Start the stage anew"):
            self.run(critic_dir, pool, args, resume_from_checkpoint=str(checkpoint))

    def test_the_critic_draws_as_without_it(self, critic_dir: Path, pool: Dataset, config: Make) -> None:
        drawn = []
        for advantage in ("rloo", "gae"):
            trainer = Stage1Trainer(critic_dir, args=config(advantage=advantage), train_dataset=pool)
            trainer.model.train()
            drawn.append(roll_out(trainer)["completion_ids"])
        assert drawn[0].equal(drawn[1])

    @pytest.mark.processes
    def test_two_processes_learn_from_both_shares(
        self, critic_dir: Path, pool: Dataset, tmp_path: Path
    ) -> None:
        pool.save_to_disk(str(tmp_path / "pool"))
        ranks = run_in_two_processes(TWO_PROCESSES, tmp_path, str(critic_dir))
        gradients = [r["gradient"] for r in ranks]
        assert not same(*gradients)
        # AdamW's first step by hand: of the mean of both gradients, m / (sqrt(v) + eps) = g / (|g| + eps)
        for name, before in ranks[0]["before"].items():
            gradient = (gradients[0][name] + gradients[1][name]) / 2
            expected = before - 1e-2 * gradient / (gradient.abs() + 1e-2)
            for rank in ranks:
                torch.testing.assert_close(rank["after"][name], expected, atol=1e-6, rtol=0.0)
        assert same(ranks[0]["trained"], ranks[1]["trained"])
        assert ranks[0]["explained"] == ranks[1]["explained"] and len(ranks[0]["explained"]) == 2


TWO_PROCESSES = """
import sys
import torch
from datasets import load_from_disk
from critique_rl.training.stage_config import Stage1Config
from critique_rl.training.stages import Stage1Trainer

torch.set_num_threads(1)
critic, directory = sys.argv[1:]
args = Stage1Config(
    output_dir=directory + "/run", use_cpu=True, bf16=False, gradient_checkpointing=False,
    report_to="none", disable_tqdm=True, prompts="compact", max_completion_length=20, temperature=1.0,
    ddp_find_unused_parameters=False, rl_steps=2, num_iterations=1, per_device_train_batch_size=8,
    advantage="gae", value_learning_rate=1e-2, adam_epsilon=1e-2, max_grad_norm=0.0,
)
trainer = Stage1Trainer(critic, args=args, train_dataset=load_from_disk(directory + "/pool"))
trainer.model.train()
trainer.current_gradient_accumulation_steps = 1
network = trainer.value_model.network
network.head.weight.data.fill_(0.1)

def copy(of):
    return {name: of(p).detach().clone() for name, p in network.named_parameters()}

trainer._compute_loss(
    trainer.model, trainer._generate_and_score_completions(next(iter(trainer.get_train_dataloader())))
)
before, gradient = copy(lambda p: p), copy(lambda p: p.grad)
trainer.value_model.on_optimizer_step(args, trainer.state, trainer.control)
after = copy(lambda p: p)
trainer.train()
torch.save(
    {
        "processes": trainer.accelerator.num_processes,
        "before": before, "gradient": gradient, "after": after, "trained": copy(lambda p: p),
        "explained": [
            log["value/explained_variance"]
            for log in trainer.state.log_history if "value/explained_variance" in log
        ],
    },
    f"{directory}/rank{trainer.accelerator.process_index}.pt",
)
torch.distributed.destroy_process_group()
"""


class TestRefusals:
    def test_adapters_and_models_without_a_directory(
        self, critic_dir: Path, pool: Dataset, config: Make, tmp_path: Path
    ) -> None:
        adapted = get_peft_model(AutoModelForCausalLM.from_pretrained(critic_dir), LoraConfig(**LORA))
        adapted.save_pretrained(tmp_path / "adapter")
        loaded = PeftModel.from_pretrained(
            AutoModelForCausalLM.from_pretrained(critic_dir), tmp_path / "adapter", is_trainable=True
        )
        built = AutoModelForCausalLM.from_pretrained(critic_dir)
        built.config._name_or_path = ""
        for model in (loaded, built):
            with pytest.raises(UserError, match="save it whole"):
                Stage1Trainer(model, args=config(advantage="gae", beta=0.0), train_dataset=pool)
        trainer = build(critic_dir, pool, config(advantage="gae"))
        with pytest.raises(UserError, match="merge it into its base"):
            ValueModel(str(tmp_path / "adapter"), trainer.args, trainer.accelerator, trainer._record)

    def test_sharded_weights(self, critic_dir: Path, config: Make) -> None:
        sharded: Any = SimpleNamespace(distributed_type=DistributedType.FSDP)
        with pytest.raises(UserError, match="plain data parallelism, not with FSDP"):
            ValueModel(str(critic_dir), config(advantage="gae"), sharded, lambda name, value: None)

    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            ({"gae_lambda": 1.5}, "gae_lambda=1.5 is not between 0 and 1"),
            ({"value_learning_rate": 0.0}, "value_learning_rate=0.0 must be above 0"),
            ({"value_clip": -0.2}, "value_clip=-0.2 must be above 0"),
        ],
    )
    def test_configurations(self, config: Make, settings: dict[str, Any], message: str) -> None:
        with pytest.raises(UserError, match=message):
            config(advantage="gae", **settings)


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["model", "peft_config"])
def test_other_ways_to_give_the_critic(critic_dir: Path, pool: Dataset, config: Make, mode: str) -> None:
    """A model that was loaded from a directory, and a new adapter on one: both start as its weights."""
    model: Any = critic_dir
    extra: dict[str, Any] = {"peft_config": LoraConfig(**LORA)}
    if mode == "model":
        model, extra = AutoModelForCausalLM.from_pretrained(critic_dir), {}
    trainer = Stage1Trainer(model, args=config(advantage="gae"), train_dataset=pool, **extra)
    network = trainer.value_model.network
    assert same(weights(network.trunk), weights(AutoModel.from_pretrained(critic_dir)))
    trainer.train()
    assert network.head.weight.abs().max() > 0.0


class TestNumbersThatGoWrong:
    def trainer(self, critic_dir: Path, pool: Dataset, config: Make, **more: Any) -> CriticTrainer:
        args = config(advantage="gae", rl_steps=2, num_iterations=1, **more)
        return Stage1Trainer(critic_dir, args=args, train_dataset=pool)

    @pytest.mark.parametrize("limit", [0.0, 1.0])
    def test_a_gradient_that_is_not_finite_moves_no_weight(
        self, critic_dir: Path, pool: Dataset, config: Make, limit: float
    ) -> None:
        trainer = self.trainer(critic_dir, pool, config, max_grad_norm=limit)
        network = trainer.value_model.network
        network.head.weight.register_hook(lambda gradient: gradient * float("nan"))
        before = {name: p.clone() for name, p in weights(network).items()}
        with pytest.raises(UserError, match=r"gradient norm of the value model is nan: lower value_learning"):
            trainer.train()
        assert same(weights(network), before)

    def test_ruined_weights_are_neither_used_nor_saved(
        self, critic_dir: Path, pool: Dataset, config: Make, tmp_path: Path
    ) -> None:
        trainer = self.trainer(critic_dir, pool, config)
        trainer.value_model.network.head.bias.data.fill_(float("inf"))
        with pytest.raises(
            UserError, match=r"the value model holds NaN or infinity .*head.bias: lower value_"
        ):
            trainer.train()
        with pytest.raises(UserError, match="the value model holds NaN"):
            trainer.value_model.save(str(tmp_path))
        assert not (tmp_path / FILE).exists()
