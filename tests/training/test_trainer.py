"""Tests of `critique_rl.stages` on a tiny critic: what it learns, keeps fixed, asks, refuses and repeats."""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from datasets import Dataset, Value
from peft import LoraConfig, PeftModel, get_peft_model
from PIL import Image
from pyarrow import parquet
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback, TrainerState
from trl import GRPOConfig

from critique_rl.actors import ActorError, TransformersActor
from critique_rl.grading import grade_batch
from critique_rl.prompts import COMPACT, PAPER, VERDICT_LABEL, Verdict, parse_verdict
from critique_rl.rewards import r_dis
from critique_rl.training import objectives
from critique_rl.training.callbacks import KeepCallback
from critique_rl.training.critique_reward import CritiqueReward
from critique_rl.training.images import logged_images
from critique_rl.training.stage_config import CritiqueConfig, Stage1Config, Stage2Config
from critique_rl.training.stages import CritiqueTrainer, Stage1Trainer, Stage2Trainer
from critique_rl.types import Conversation, Generation, Sampling, UserError
from critique_rl.vision.images import data_url, open_image

Make = Callable[..., Any]
LORA: dict[str, Any] = {"r": 4, "target_modules": ["q_proj", "v_proj"], "task_type": "CAUSAL_LM"}
RIGHT, WRONG = (f"Correctness of the final answer: {value}" for value in ("Correct", "Wrong"))


class ToyActor:
    """Answers every question with 5, and refines to the number that the critique explains."""

    name = "toy"

    def __init__(self) -> None:
        self.asked: list[Conversation] = []
        self.samplings: list[Sampling] = []

    def generate(self, prompts: Sequence[Conversation], sampling: Sampling) -> list[Generation]:
        self.asked += prompts
        self.samplings.append(sampling)
        found = [re.search(r"Explanation: (\d)", prompt[-1]["content"]) for prompt in prompts]
        return [Generation(f"The answer is {m[1] if m else 5}", 1, 1, False) for m in found]


class DeadActor:
    """An actor whose server is gone, from the second call on."""

    name = "dead"

    def __init__(self, calls: int = 0) -> None:
        self.calls = calls

    def generate(self, prompts: Sequence[Conversation], sampling: Sampling) -> list[Generation]:
        if self.calls == 0:
            raise ActorError("connection refused")
        self.calls -= 1
        return ToyActor().generate(prompts, sampling)


def load(directory: str | Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(directory)


def weights(model: torch.nn.Module) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(a[name].equal(b[name]) for name in a)


def history(trainer: CritiqueTrainer, *names: str) -> list[tuple[float, ...]]:
    """Logged values of each RL step; the names are those of the dynamics, not of timings."""
    return [tuple(log[name] for name in names) for log in trainer.state.log_history if "reward" in log]


def adapter_of(critic: Path, directory: Path, **settings: Any) -> Path:
    """A saved adapter that changes what the critic says, like one that Stage I has trained."""
    model = get_peft_model(load(critic), LoraConfig(**LORA, **settings))
    generator = torch.Generator().manual_seed(0)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data = 0.2 * torch.randn(parameter.shape, generator=generator)
    model.save_pretrained(directory)
    return directory


def acc_dis(model: Any, tokenizer: Any, pool: Dataset) -> float:
    critic = TransformersActor(model, tokenizer)
    prompts = [COMPACT.critique_prompt(row["question"], row["response"]) for row in pool]
    critiques = critic.generate(prompts, Sampling(20, temperature=1.0))
    right = [
        r_dis(parse_verdict(c.text), row["response_correct"]) for c, row in zip(critiques, pool, strict=True)
    ]
    return sum(value or 0.0 for value in right) / len(right)


def test_stage_1_teaches_a_noisy_judge_to_discriminate(critic_dir: Path, pool: Dataset, config: Make) -> None:
    args = config(rl_steps=15, per_device_train_batch_size=32, learning_rate=2e-3)
    trainer = Stage1Trainer(critic_dir, args=args, train_dataset=pool)
    before = acc_dis(trainer.model, trainer.processing_class, pool)
    trainer.train()
    after = acc_dis(trainer.model, trainer.processing_class, pool)
    assert after > max(0.8, before + 0.2)


class TestReference:
    def start(self, mode: str, critic: Path, directory: Path) -> tuple[Any, dict[str, Any]]:
        if mode == "path":
            return critic, {}
        if mode == "path and peft_config":
            return critic, {"peft_config": LoraConfig(**LORA)}
        dropout = 0.3 if mode == "adapter with dropout" else 0.0
        saved = adapter_of(critic, directory / "adapter", lora_dropout=dropout)
        return PeftModel.from_pretrained(load(critic), saved, is_trainable=True), {}

    @staticmethod
    def reference(trainer: CritiqueTrainer) -> dict[str, Tensor]:
        """The reference's weights: the frozen model, or base and "ref" adapter."""
        if trainer.ref_model is not None:
            return weights(trainer.ref_model)
        return {n: p.detach().clone() for n, p in trainer.model.named_parameters() if not p.requires_grad}

    @pytest.mark.parametrize("placement", ["reward", "loss"])
    @pytest.mark.parametrize("mode", ["path", "path and peft_config", "adapter", "adapter with dropout"])
    def test_kl_starts_at_0_and_the_reference_stays(
        self, mode: str, placement: str, critic_dir: Path, pool: Dataset, config: Make, tmp_path: Path
    ) -> None:
        model, extra = self.start(mode, critic_dir, tmp_path)
        # One pass, so that the first step's logged KL is the KL before the first update.
        settings = {"kl_placement": placement, "kl_estimator": "k3" if placement == "loss" else "k1"}
        args = config(rl_steps=3, learning_rate=1e-2, num_iterations=1, **settings)
        trainer = Stage1Trainer(model, args=args, train_dataset=pool, **extra)
        reference, start = self.reference(trainer), weights(trainer.model)
        trainer.train()
        kl = [abs(value) for (value,) in history(trainer, "kl")]
        assert kl[0] < 1e-6 < 1e-4 < max(kl)
        assert same(self.reference(trainer), reference)
        moved = {n for n, p in trainer.model.named_parameters() if not p.equal(start[n])}
        assert moved == {n for n, p in trainer.model.named_parameters() if p.requires_grad}

    def test_stage_2_is_anchored_at_stage_1(
        self, critic_dir: Path, pool: Dataset, config: Make, tmp_path: Path
    ) -> None:
        first = Stage1Trainer(critic_dir, args=config(rl_steps=2, learning_rate=1e-2), train_dataset=pool)
        first.train()
        first.save_model(str(tmp_path / "stage1"))
        second = Stage2Trainer(
            tmp_path / "stage1", ToyActor(), config(Stage2Config, rl_steps=1), train_dataset=pool
        )
        assert same(weights(second.ref_model), weights(first.model))
        assert not same(weights(second.ref_model), weights(first.ref_model))
        second.train()
        assert abs(history(second, "kl")[0][0]) < 1e-6

    def test_stage_2_of_an_adapter_is_anchored_at_stage_1(
        self, critic_dir: Path, pool: Dataset, config: Make, tmp_path: Path
    ) -> None:
        args = config(rl_steps=2, learning_rate=1e-2)
        first = Stage1Trainer(critic_dir, args=args, train_dataset=pool, peft_config=LoraConfig(**LORA))
        first.train()
        first.save_model(str(tmp_path / "stage1"))
        model = PeftModel.from_pretrained(load(critic_dir), tmp_path / "stage1", is_trainable=True)
        second = Stage2Trainer(
            model, ToyActor(), config(Stage2Config, rl_steps=2, learning_rate=1e-2), train_dataset=pool
        )
        trained = {n: p for n, p in weights(first.model).items() if "lora_" in n}
        second.train()
        after = weights(second.model)
        assert all(after[n.replace(".default.", ".ref.")].equal(p) for n, p in trained.items())
        assert not any(after[n].equal(p) for n, p in trained.items())
        assert abs(history(second, "kl")[0][0]) < 1e-6

    @pytest.mark.parametrize("placement", ["reward", "loss"])
    def test_an_edited_model_is_refused(
        self, critic_dir: Path, pool: Dataset, config: Make, placement: str
    ) -> None:
        model = load(critic_dir)
        model.model.layers[0].mlp.down_proj.weight.data.mul_(0.5)
        args = config(kl_placement=placement, kl_estimator="k3")
        trainer = Stage1Trainer(
            model, args=args, train_dataset=pool
        )  # trl reloads the reference from its path
        with pytest.raises(UserError, match="nats a token away from its reference"):
            trainer.train()

    def test_models_without_a_start_to_hold_on_to_are_refused(
        self, critic_dir: Path, pool: Dataset, config: Make, tmp_path: Path
    ) -> None:
        saved = adapter_of(critic_dir, tmp_path / "adapter")
        frozen = PeftModel.from_pretrained(load(critic_dir), saved)
        merged = PeftModel.from_pretrained(load(critic_dir), saved).merge_and_unload()
        for model in (frozen, merged):
            with pytest.raises(UserError, match="is_trainable=True"):
                Stage1Trainer(model, args=config(), train_dataset=pool)
        built = type(merged)(merged.config)
        built.config._name_or_path = ""
        with pytest.raises(UserError, match="save the critic and pass the directory"):
            Stage1Trainer(built, args=config(), train_dataset=pool)


class TestActor:
    def test_the_actor_stays_bit_for_bit(
        self, critic_dir: Path, actor_dir: Path, pool: Dataset, config: Make
    ) -> None:
        actor = TransformersActor(actor_dir)
        before = actor.fingerprint()
        args = config(Stage2Config, rl_steps=2, refinement_max_tokens=10)
        trainer = Stage2Trainer(critic_dir, actor, args, train_dataset=pool)
        start = weights(trainer.model)
        trainer.train()
        assert actor.sequences_generated > 0
        assert actor.fingerprint() == before
        assert not same(weights(trainer.model), start)

    def test_stage_1_never_asks_it(self, critic_dir: Path, pool: Dataset, config: Make) -> None:
        Stage1Trainer(critic_dir, DeadActor(), config(rl_steps=2), train_dataset=pool).train()

    def test_nobody_pickles_it(self, critic_dir: Path, pool: Dataset, config: Make) -> None:
        """`Dataset.map` hashes its function with all that it holds; an actor may hold a whole model."""
        pickled = []

        class Watched(ToyActor):
            def __reduce__(self) -> Any:
                pickled.append(self)
                return (ToyActor, ())

        Stage2Trainer(critic_dir, Watched(), config(Stage2Config), train_dataset=pool)
        assert pickled == []

    def test_its_error_ends_the_training(self, critic_dir: Path, pool: Dataset, config: Make) -> None:
        args = config(Stage2Config, rl_steps=3)
        trainer = Stage2Trainer(critic_dir, DeadActor(calls=1), args, train_dataset=pool)
        with pytest.raises(ActorError, match="connection refused"):
            trainer.train()
        assert trainer.state.global_step == args.optimizer_steps_per_rl_step

    @pytest.mark.parametrize("combination", ["additive", "gated"])
    def test_what_it_is_asked(self, critic_dir: Path, pool: Dataset, config: Make, combination: str) -> None:
        actor = ToyActor()
        args = config(Stage2Config, combination=combination)
        trainer = Stage2Trainer(critic_dir, actor, args, train_dataset=pool)
        trainer.train()
        correct = {(row["question"], row["response"]): row["response_correct"] for row in pool}
        dis = list(trainer._logs["extra"]["r_dis"])
        assert 0 < sum(dis) < len(dis) == 16
        assert len(actor.asked) == (16 if combination == "additive" else sum(dis))
        for turns in actor.asked:
            question, response, critique = (turn["content"] for turn in turns)
            right = r_dis(parse_verdict(critique), correct[question, response])
            assert right == 1.0 or combination == "additive"

    def test_online_responses_replace_those_of_the_pool(
        self, critic_dir: Path, pool: Dataset, config: Make
    ) -> None:
        actor = ToyActor()
        trainer = Stage1Trainer(critic_dir, actor, config(response_source="online"), train_dataset=pool)
        rows = next(iter(trainer.get_train_dataloader()))
        trainer.train()
        questions = [row["question"] for row in rows[::4]]
        assert actor.asked == [COMPACT.reasoning_prompt(question) for question in questions]  # one a group
        logs = trainer._logs
        expected = [COMPACT.critique_prompt(row["question"], "The answer is 5") for row in rows]
        assert list(logs["prompt"]) == expected
        verdicts = [Verdict(value) for value in logs["extra"]["verdict"]]
        truth = [row["answer"] == "5" for row in rows]
        assert list(logs["extra"]["r_dis"]) == [r_dis(v, o) for v, o in zip(verdicts, truth, strict=True)]

    def test_it_is_sampled_as_configured_and_anew_at_every_rollout(
        self, critic_dir: Path, pool: Dataset, config: Make
    ) -> None:
        actor = ToyActor()
        limits = {"refinement_max_tokens": 11, "refinement_temperature": 0.3}
        limits |= {"response_max_tokens": 12, "response_temperature": 0.6}
        args = config(Stage2Config, rl_steps=2, response_source="online", prompts="paper", **limits)
        trainer = Stage2Trainer(critic_dir, actor, args, train_dataset=pool)
        trainer.train()
        assert {(s.max_tokens, s.temperature) for s in actor.samplings} == {(11, 0.3), (12, 0.6)}
        assert len(actor.samplings) == len({s.seed for s in actor.samplings}) == 4
        assert PAPER.reasoning_prefill
        assert all(y.startswith(PAPER.reasoning_prefill) for y in trainer._logs["extra"]["response"])

    def test_online_responses_need_whole_groups(self, critic_dir: Path, pool: Dataset, config: Make) -> None:
        trainer = Stage1Trainer(critic_dir, ToyActor(), config(response_source="online"), train_dataset=pool)
        rows = next(iter(trainer.get_train_dataloader()))
        for part in (rows[:2], rows[2:10]):
            with pytest.raises(UserError, match="whole groups"):
                trainer._answer_online(part)

    @pytest.mark.parametrize("settings", [{}, {"response_source": "online", "refinement_reward": None}])
    def test_it_must_be_there(
        self, critic_dir: Path, pool: Dataset, config: Make, settings: dict[str, Any]
    ) -> None:
        with pytest.raises(UserError, match="pass `actor`"):
            Stage2Trainer(critic_dir, None, config(Stage2Config, **settings), train_dataset=pool)


class TestReward:
    """`CritiqueReward` by itself: four critiques of responses of which the first two are right."""

    CRITIQUES = (
        f"Explanation: 7\n{RIGHT}",  # right verdict, right refinement
        f"Explanation: 1\n{WRONG}",  # wrong verdict, wrong refinement
        f"Explanation: 7\n{WRONG}",  # right verdict, right refinement
        "Explanation: 7",  # no verdict, right refinement
    )

    def reward(
        self,
        args: CritiqueConfig,
        actor: Any = None,
        grader: Any = grade_batch,
        correct: Any = (True, True, False, False),
        extra: dict[str, list[Any]] | None = None,
    ) -> tuple[list[float | None], dict[str, list[float]]]:
        metrics: dict[str, list[float]] = {}
        values = CritiqueReward(args, actor, grader)(
            completions=[[{"role": "assistant", "content": c}] for c in self.CRITIQUES],
            question=["3+4"] * 4,
            response=["The answer is 7"] * 4,
            answer=["7"] * 4,
            kind=["number"] * 4,
            response_correct=list(correct),
            trainer_state=SimpleNamespace(global_step=0),
            log_extra=lambda name, column: (extra if extra is not None else {}).update({name: column}),
            log_metric=lambda name, value: metrics.setdefault(name, []).append(value),
        )
        return values, metrics

    @pytest.mark.parametrize(
        ("settings", "expected"),
        [
            ({"refinement_reward": None}, [1.0, 0.0, 1.0, 0.0]),
            ({"refinement_reward": None, "signed_dis": True}, [1.0, -1.0, 1.0, -1.0]),
            ({}, [1.2, 0.0, 1.2, 1.0]),
            ({"combination": "gated"}, [1.2, -1.0, 1.2, -1.0]),
            ({"beta_1": 0.0}, [1.0, 0.0, 1.0, 1.0]),
            ({"refinement_reward": "r_delta"}, [0.2, -1.0, 1.2, 1.0]),
            ({"refinement_reward": "r_correction"}, [0.4, 0.0, 1.2, 1.0]),
        ],
    )
    def test_values(self, config: Make, settings: dict[str, Any], expected: list[float]) -> None:
        values, metrics = self.reward(config(Stage2Config, **settings), ToyActor())
        assert values == pytest.approx(expected)
        assert metrics["critic/acc_dis"] == [1.0, 0.0, 1.0, 0.0]
        assert metrics["critic/parse_rate"] == [1.0, 1.0, 1.0, 0.0]

    def test_the_metrics_of_each_critique(self, config: Make) -> None:
        _, metrics = self.reward(config(Stage2Config), ToyActor())
        # Of two right responses the second is spoiled, both wrong ones are corrected.
        assert metrics["actor/acc_refine"] == [1.0, 0.0, 1.0, 1.0]
        assert metrics["actor/delta_ci"] == [0.0, 1.0, 0.0, 0.0]
        assert metrics["actor/delta_ic"] == [0.0, 0.0, 1.0, 1.0]
        assert metrics["actor/delta_ci_given_correct"] == [0.0, 1.0]
        assert metrics["actor/delta_ic_given_wrong"] == [1.0, 1.0]
        _, metrics = self.reward(config(), correct=(True, True, True, False))
        assert metrics["critic/acc_dis_on_correct"] == [1.0, 0.0, 0.0]
        assert metrics["critic/acc_dis_on_wrong"] == [0.0]

    def test_a_prefill_is_part_of_what_is_graded_and_recorded(self, config: Make) -> None:
        extra: dict[str, list[Any]] = {}
        self.reward(config(Stage2Config, prompts="paper"), ToyActor(), extra=extra)
        assert PAPER.refinement_prefill
        assert all(text.startswith(PAPER.refinement_prefill) for text in extra["refinement"])

    def test_what_is_unknown_is_no_score(self, config: Make) -> None:
        def grader(items: Sequence[Mapping[str, str]]) -> list[bool | None]:
            return [None if "1" in item["reply"] else True for item in items]

        values, metrics = self.reward(config(Stage2Config), ToyActor(), grader)
        assert values == pytest.approx([1.2, None, 1.2, 1.0])
        assert metrics["actor/graded_rate"] == [1.0, 0.0, 1.0, 1.0]
        assert metrics["actor/acc_refine"] == [1.0, 1.0, 1.0]
        values, metrics = self.reward(config(Stage2Config), ToyActor(), correct=(True, None, False, None))
        assert values == pytest.approx([1.2, None, 1.2, None])
        assert metrics["critic/acc_dis"] == [1.0, 1.0]
        assert "critic/acc_dis_on_wrong" in metrics and len(metrics["critic/acc_dis_on_wrong"]) == 1
        assert len(metrics["actor/delta_ic"]) == 2

    @pytest.mark.parametrize("whiten", [False, True])
    def test_an_unknown_reward_takes_the_row_out(
        self, critic_dir: Path, pool: Dataset, config: Make, whiten: bool
    ) -> None:
        def grader(items: Sequence[Mapping[str, str]]) -> list[bool | None]:
            grades = grade_batch(items)
            return [None if i in (1, 6) else grade for i, grade in enumerate(grades)]

        args = config(Stage2Config, whiten=whiten, beta=0.0)
        trainer = Stage2Trainer(critic_dir, ToyActor(), args, train_dataset=pool, grader=grader)
        trainer.model.train()
        output = trainer._generate_and_score_completions(next(iter(trainer.get_train_dataloader())))
        rewards_N = trainer._gathered_rewards[:, 0]
        assert rewards_N.isnan().nonzero().flatten().tolist() == [1, 6]
        advantages_NT, mask_NT = output["advantages"], output["completion_mask"].clone()
        assert advantages_NT[[1, 6]].abs().max() == 0.0
        mask_NT[[1, 6]] = 0
        expected_NT = objectives.rloo_advantages(rewards_N.view(-1, 4)).view(-1, 1) * mask_NT
        if whiten:
            kept = expected_NT[mask_NT.bool()]
            expected_NT = (expected_NT - kept.mean()) / kept.std(unbiased=False) * mask_NT
        torch.testing.assert_close(advantages_NT, expected_NT, atol=1e-5, rtol=0.0)


class TestRefusals:
    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (lambda p: p.remove_columns("answer"), r"train_dataset lacks the column\(s\) answer; it has"),
            (lambda p: p.select([]), "train_dataset is empty"),
            (lambda p: p.select(range(3)), "has 3 rows, fewer than the 4 of one RL step"),
            (
                lambda p: Dataset.from_list([*p.select(range(2)), p[2] | {"question": ""}]),
                "train_dataset, row 2, column 'question': '' is no str",
            ),
            (
                lambda p: Dataset.from_list([p[0] | {"response_correct": None}, p[1]]),
                "row 0, column 'response_correct': None is no bool",
            ),
            (
                lambda p: p.cast_column("response_correct", Value("int64")),
                "row 0, column 'response_correct': [01] is no bool",
            ),
            (lambda p: None, "train_dataset is missing"),
        ],
        ids=["column", "empty", "small", "empty text", "None", "type", "missing"],
    )
    def test_datasets(
        self, critic_dir: Path, pool: Dataset, config: Make, change: Callable[[Dataset], Any], message: str
    ) -> None:
        with pytest.raises(UserError, match=message):
            Stage1Trainer(critic_dir, args=config(), train_dataset=change(pool))

    def test_the_evaluation_set_is_checked_too(self, critic_dir: Path, pool: Dataset, config: Make) -> None:
        with pytest.raises(UserError, match="eval_dataset lacks"):
            bad = pool.remove_columns("kind")
            Stage1Trainer(critic_dir, args=config(), train_dataset=pool, eval_dataset=bad)

    def test_a_prompt_beyond_the_context(self, critic_dir: Path, pool: Dataset, config: Make) -> None:
        long = pool.map(
            lambda row, i: {"question": row["question"] * (50 if i == 5 else 1)}, with_indices=True
        )
        with pytest.raises(UserError, match=r"train_dataset, row 5: a prompt of \d+ tokens and .*400 exceed"):
            Stage1Trainer(critic_dir, args=config(max_completion_length=400), train_dataset=long)

    def test_arguments_of_another_trainer(self, critic_dir: Path, pool: Dataset, config: Make) -> None:
        with pytest.raises(UserError, match="args must be a Stage1Config, got GRPOConfig"):
            Stage1Trainer(critic_dir, args=GRPOConfig(use_cpu=True, bf16=False), train_dataset=pool)  # type: ignore[arg-type]

    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            ({"prompts": "papr"}, "Did you mean 'paper'"),
            ({"oracle_noise": 0.5}, "oracle_noise=0.5 is not between 0 and 0.5"),
            ({"scale_rewards": "group"}, "scale_rewards and reward_weights have no effect"),
            ({"reward_weights": [0.5]}, "scale_rewards and reward_weights have no effect"),
            ({"refinement_reward": "r_correct"}, "refinement_reward='r_correct' is none of None, 'r_refine'"),
            ({"combination": "gate"}, "combination='gate' is none of 'additive', 'gated'"),
            ({"combination": "gated"}, "needs a refinement_reward"),
            ({"advantage": "ppo"}, "advantage='ppo' is none of 'rloo', 'grpo'"),
            ({"kl_placement": "Loss"}, "kl_placement='Loss' is none of 'reward', 'loss'"),
            ({"kl_placement": "loss"}, "set kl_estimator='k3'"),
            ({"kl_estimator": "k2"}, "kl_estimator='k2' is none of 'k1', 'k3'"),
            ({"response_source": "on-line"}, "response_source='on-line' is none of 'pool', 'online'"),
            ({"save_strategy": "steps", "save_steps": 3}, "save_steps=3 falls inside an RL step of 2"),
            (
                {"gradient_accumulation_steps": 4, "steps_per_generation": 3, "num_iterations": 1},
                "does not divide the 3 micro-batches",
            ),
        ],
    )
    def test_configurations(self, config: Make, settings: dict[str, Any], message: str) -> None:
        with pytest.raises(UserError, match=message):
            config(**settings)

    def test_rl_steps_count_rollouts(self, config: Make) -> None:
        args = config(rl_steps=5, gradient_accumulation_steps=2, steps_per_generation=4, num_iterations=2)
        # 4 micro-batches a rollout, used twice, two to an optimizer step
        assert args.optimizer_steps_per_rl_step == args.logging_steps == 4
        assert args.max_steps == 20
        released = {
            "per_device_train_batch_size": 32,
            "generation_batch_size": 256,
            "gradient_accumulation_steps": 2,
        }
        assert config(**released, save_strategy="steps", save_steps=16).optimizer_steps_per_rl_step == 8


class TestInvariance:
    def run(self, critic: Path, pool: Dataset, args: CritiqueConfig, **extra: Any) -> CritiqueTrainer:
        trainer = Stage1Trainer(critic, args=args, train_dataset=pool, **extra)
        trainer.train()
        return trainer

    def test_accumulation_does_not_move_the_gradient(
        self, critic_dir: Path, pool: Dataset, config: Make
    ) -> None:
        # Plain SGD: Adam would turn rounding of vanishing gradients into whole steps.
        runs = [
            self.run(
                critic_dir,
                pool,
                config(
                    per_device_train_batch_size=16 // parts,
                    gradient_accumulation_steps=parts,
                    rl_steps=3,
                    optim="sgd",
                    learning_rate=0.1,
                    weight_decay=0.0,
                ),
            )
            for parts in (1, 8)
        ]
        names = ("loss", "grad_norm", "reward", "kl", "completions/mean_length")
        whole, parts = (torch.tensor(history(run, *names)) for run in runs)
        torch.testing.assert_close(whole, parts, atol=1e-5, rtol=1e-5)
        differences = torch.cat(
            [(p - q).abs().flatten() for p, q in zip(*(run.model.parameters() for run in runs), strict=True)]
        )
        start = torch.cat(
            [
                (p - q).abs().flatten()
                for p, q in zip(runs[0].model.parameters(), load(critic_dir).parameters(), strict=True)
            ]
        )
        assert start.max() > 1e-2, "the weights have moved"
        assert differences.max() < 1e-5 and differences.mean() < 1e-6

    def test_a_seed_fixes_every_number(self, critic_dir: Path, pool: Dataset, config: Make) -> None:
        runs = [self.run(critic_dir, pool, config(rl_steps=2, seed=seed)) for seed in (3, 3, 4)]
        names = ("loss", "grad_norm", "reward", "kl", "entropy")
        assert history(runs[0], *names) == history(runs[1], *names)
        assert same(weights(runs[0].model), weights(runs[1].model))
        assert history(runs[0], *names) != history(runs[2], *names)
        assert not same(weights(runs[0].model), weights(runs[2].model))

    @pytest.mark.parametrize(
        "mode", ["full", "adapter", "in a later epoch", "at the end of an epoch", "when it had ended"]
    )
    def test_resumed_is_uninterrupted(
        self, critic_dir: Path, actor_dir: Path, pool: Dataset, config: Make, tmp_path: Path, mode: str
    ) -> None:
        # An RL step takes 4 rows of the pool: three RL steps are an epoch and a half of 8 rows, four are two.
        at = {"in a later epoch": 3, "at the end of an epoch": 4}.get(mode, 2)
        more = 0 if mode == "when it had ended" else 2  # killed while the weights were written, say
        rows = pool if at == 2 else pool.select(range(8))
        saved = adapter_of(critic_dir, tmp_path / "stage1")

        def build() -> Stage2Trainer:
            model: Any = critic_dir
            if mode == "adapter":
                model = PeftModel.from_pretrained(load(critic_dir), saved, is_trainable=True)
            args = config(
                Stage2Config,
                rl_steps=at + more,
                save_strategy="steps",
                save_steps=2 * at,
                refinement_max_tokens=10,
                refinement_temperature=1.0,
            )
            return Stage2Trainer(model, TransformersActor(actor_dir), args, train_dataset=rows)

        whole, resumed = build(), build()
        whole.train()
        recorded = {p.name: p.read_bytes() for p in (tmp_path / "run/completions").iterdir()}
        resumed.train(resume_from_checkpoint=str(tmp_path / "run" / f"checkpoint-{2 * at}"))
        assert resumed.state.global_step == whole.state.global_step == 2 * (at + more)
        assert same(weights(resumed.model), weights(whole.model))
        names = ("loss", "grad_norm", "reward", "kl", "entropy", "actor/acc_refine")
        assert history(resumed, *names) == history(whole, *names)
        assert recorded == {p.name: p.read_bytes() for p in (tmp_path / "run/completions").iterdir()}

    def test_each_epoch_has_an_order_of_its_own(self, critic_dir: Path, pool: Dataset, config: Make) -> None:
        run = self.run(critic_dir, pool, config(rl_steps=1))
        orders = []
        for epoch in (0.0, 1.0, 1.5, 2.0):
            run.state.epoch = epoch
            orders.append(list(run._get_train_sampler()))
        assert orders[1] == orders[2]
        assert len({tuple(order) for order in orders}) == 3
        assert sorted(orders[0]) == sorted(orders[1])

    @pytest.mark.parametrize("stage", [Stage1Config, Stage2Config])
    def test_noisy_labels_reach_the_reward_and_not_the_log(
        self, actor_dir: Path, pool: Dataset, config: Make, stage: type[CritiqueConfig]
    ) -> None:
        """Each verdict is right, so a Stage I reward is 0 just where the label is inverted."""
        rows = [dict(row) for row in pool]
        says = {True: "Correct", False: "Wrong"}
        columns = {key: [row[key] for row in rows] for key in rows[0]}
        critiques = [f"{VERDICT_LABEL} {says[row['response_correct']]}" for row in rows]
        logged: dict[str, list[float]] = {}
        args = config(stage, oracle_noise=0.25, refinement_max_tokens=10)
        reward = CritiqueReward(args, TransformersActor(actor_dir), grade_batch)
        values = reward(
            critiques,
            **columns,
            trainer_state=TrainerState(),
            log_extra=lambda name, column: None,
            log_metric=lambda name, value: logged.setdefault(name, []).append(value),
        )
        assert set(logged["critic/acc_dis"]) == {1.0}  # each verdict is right
        if stage is Stage1Config:
            wrong = values.count(0.0) / len(values)
            assert set(values) == {0.0, 1.0} and 0.15 < wrong < 0.35
        else:
            plain = CritiqueReward(config(stage, refinement_max_tokens=10), reward.actor, grade_batch)
            truth = plain(
                critiques,
                **columns,
                trainer_state=TrainerState(),
                log_extra=lambda name, column: None,
                log_metric=lambda name, value: None,
            )
            changed = [a != b for a, b in zip(values, truth, strict=True)]
            assert (
                0.3 < sum(changed) / len(changed) < 0.6
            )  # 1 - 0.75^2 of the rows, where a label is inverted

    def test_two_processes_keep_one_critic(self, critic_dir: Path, pool: Dataset, tmp_path: Path) -> None:
        pool.save_to_disk(str(tmp_path / "pool"))
        script = tmp_path / "two.py"
        script.write_text(TWO_PROCESSES)
        command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", "--standalone"]
        environment = os.environ | {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
        root = str(Path(__file__).parents[2])
        environment["PYTHONPATH"] = os.pathsep.join([root, os.environ.get("PYTHONPATH", "")])
        done = subprocess.run(
            [*command, str(script), str(critic_dir), str(tmp_path)],
            env=environment,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-3000:]
        ranks = [torch.load(tmp_path / f"rank{rank}.pt") for rank in range(2)]
        assert [r["processes"] for r in ranks] == [2, 2]
        assert same(ranks[0]["weights"], ranks[1]["weights"])
        assert not same(ranks[0]["weights"], weights(load(critic_dir)))
        assert abs(ranks[0]["kl"]) < 1e-6
        # Of three groups of four critiques the second lies on both ranks: its baseline must cross them.
        rewards_N = ranks[0]["rewards"][:, 0]
        assert rewards_N.equal(ranks[1]["rewards"][:, 0]) and rewards_N.numel() == 12
        advantages_N = torch.cat([r["advantages"][:, 0] for r in ranks])
        assert advantages_N.abs().max() > 0
        torch.testing.assert_close(advantages_N, objectives.rloo_advantages(rewards_N.view(3, 4)).flatten())
        # Whitening: mean 0 and variance 1 over the tokens of both ranks together.
        tokens = [r["whitened"][r["mask"].bool()] for r in ranks]
        both = torch.cat(tokens)
        assert abs(both.mean()) < 1e-5 and abs(both.var(unbiased=False) - 1) < 1e-4
        assert abs(tokens[0].mean()) > 1e-3, "by chance each rank is white by itself: choose another seed"


TWO_PROCESSES = """
import sys
import torch
from datasets import load_from_disk
from critique_rl.stages import Stage1Config, Stage1Trainer

torch.set_num_threads(1)
critic, directory = sys.argv[1:]
pool = load_from_disk(directory + "/pool")

def build(**settings):
    args = Stage1Config(
        output_dir=directory + "/run", use_cpu=True, bf16=False, gradient_checkpointing=False,
        report_to="none", disable_tqdm=True, prompts="compact", max_completion_length=20,
        learning_rate=1e-2, temperature=1.0,
        ddp_find_unused_parameters=False, rl_steps=2, num_iterations=1, **settings,
    )
    return Stage1Trainer(critic, args=args, train_dataset=pool)

def roll_out(trainer):
    trainer.model.train()
    return trainer._generate_and_score_completions(next(iter(trainer.get_train_dataloader())))

trainer = build(per_device_train_batch_size=8)
white = roll_out(trainer)
trainer.train()
kl = [log["kl"] for log in trainer.state.log_history if "kl" in log]
split = build(per_device_train_batch_size=6, whiten=False, beta=0.0)
plain = roll_out(split)
torch.save(
    {
        "processes": trainer.accelerator.num_processes,
        "weights": dict(trainer.model.state_dict()) | {},
        "kl": kl[0] if kl else 0.0,
        "rewards": split._gathered_rewards,
        "advantages": plain["advantages"],
        "whitened": white["advantages"],
        "mask": white["completion_mask"],
    },
    f"{directory}/rank{trainer.accelerator.process_index}.pt",
)
torch.distributed.destroy_process_group()
"""


class Watched(Stage2Trainer):
    """Keeps what each rollout gave, beside the record of it."""

    def __init__(self, *args: Any, **settings: Any) -> None:
        self.rollouts: list[dict[str, Any]] = []
        super().__init__(*args, **settings)

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        output = super()._generate_and_score_completions(inputs)
        if self.model.training:
            texts = self.processing_class.batch_decode(output["completion_ids"], skip_special_tokens=True)
            self.rollouts.append(dict(output) | {"rows": inputs, "texts": texts})
        return output


def test_a_critic_is_kept_once_at_the_end_of_its_rl_step() -> None:
    saved: list[int] = []
    keep = KeepCallback([1], 2, saved.append)
    for step in range(1, 7):
        keep.on_step_end(None, TrainerState(global_step=step), None)  # type: ignore[arg-type]
        assert saved == ([] if step < 2 else [1])


class TestRecord:
    """What is written of each rollout, in trl's files, for `critique-rl view`."""

    @staticmethod
    def records(directory: Path) -> dict[str, list[dict[str, Any]]]:
        files = sorted((directory / "completions").glob("*.parquet"))
        return {path.stem: parquet.read_table(path).to_pylist() for path in files}

    @pytest.mark.parametrize(
        "settings",
        [
            {},
            {"advantage": "grpo", "kl_placement": "loss", "kl_estimator": "k3", "whiten": False},
            {"advantage": "gae"},
        ],
    )
    def test_each_rollout_is_written_with_its_rewards_advantages_and_kl(
        self,
        critic_dir: Path,
        pool: Dataset,
        config: Make,
        tmp_path: Path,
        capsys: pytest.CaptureFixture[str],
        settings: dict[str, Any],
    ) -> None:
        args = config(Stage2Config, rl_steps=3, learning_rate=1e-2, **settings)
        trainer = Watched(critic_dir, ToyActor(), args, train_dataset=pool)
        trainer.train()
        assert "╭" not in capsys.readouterr().out  # trl draws a table at every log
        records = self.records(tmp_path / "run")
        assert list(records) == [f"completions_{step:05d}" for step in (2, 4, 6)]
        for number, (rows, rollout) in enumerate(
            zip(records.values(), trainer.rollouts, strict=True), start=1
        ):
            mask_NT = rollout["completion_mask"]
            estimate = objectives.KL_ESTIMATES[args.kl_estimator]
            kl_NT = estimate(rollout["old_per_token_logps"], rollout["ref_per_token_logps"])
            for i, row in enumerate(rows):
                asked, tokens = rollout["rows"][i], mask_NT[i].bool()
                for column in ("question", "response", "answer", "response_correct"):
                    assert row[column] == asked[column]
                assert row["completion"][0]["content"] == rollout["texts"][i]
                assert row["verdict"] == parse_verdict(rollout["texts"][i]).value
                assert row["critique_reward"] == pytest.approx(row["r_refine"] + 0.2 * row["r_dis"])
                assert row["r_refine"] == float(row["refinement_correct"])
                assert row["advantage"] == pytest.approx(
                    rollout["advantages"][i][tokens].mean().item(), abs=1e-6
                )
                assert row["kl"] == pytest.approx(kl_NT[i][tokens].mean().item(), abs=1e-6)
                assert row["rl_step"] == number
            assert len({row["advantage"] for row in rows}) > 2
        assert max(abs(row["kl"]) for row in records["completions_00006"]) > 1e-4

    def test_no_pass_is_made_for_a_kl_that_nobody_needs(
        self, critic_dir: Path, pool: Dataset, config: Make, tmp_path: Path
    ) -> None:
        """trl skips the old log-probabilities of an on-policy update; the first rollout checks its anchor."""
        loss = {"kl_placement": "loss", "kl_estimator": "k3", "num_iterations": 1}
        trainer = Watched(
            critic_dir, ToyActor(), config(Stage2Config, rl_steps=2, **loss), train_dataset=pool
        )
        trainer.train()
        assert ["old_per_token_logps" in r for r in trainer.rollouts] == [True, False]
        records = self.records(tmp_path / "run")
        assert len(records) == 2 and not any("kl" in row for rows in records.values() for row in rows)

    def test_an_evaluation_is_no_part_of_it(
        self, critic_dir: Path, pool: Dataset, config: Make, tmp_path: Path
    ) -> None:
        args = config(
            Stage2Config, rl_steps=2, eval_strategy="steps", eval_steps=2, per_device_eval_batch_size=16
        )
        trainer = Watched(
            critic_dir, ToyActor(), args, train_dataset=pool, eval_dataset=pool.select(range(4))
        )
        trainer.train()
        records = self.records(tmp_path / "run")
        assert len(records) == len(trainer.rollouts) == 2
        for rows, rollout in zip(records.values(), trainer.rollouts, strict=True):
            assert [row["completion"][0]["content"] for row in rows] == rollout["texts"]

    def test_it_changes_nothing_and_can_be_switched_off(
        self, critic_dir: Path, pool: Dataset, config: Make, tmp_path: Path
    ) -> None:
        runs = []
        for name, settings in {"on": {}, "off": {"log_completions": False}}.items():
            args = config(Stage2Config, rl_steps=2, output_dir=str(tmp_path / name), **settings)
            runs.append(Stage2Trainer(critic_dir, ToyActor(), args, train_dataset=pool))
            runs[-1].train()
        assert same(weights(runs[0].model), weights(runs[1].model))
        names = ("loss", "grad_norm", "reward", "kl", "entropy")
        assert history(runs[0], *names) == history(runs[1], *names)
        assert len(self.records(tmp_path / "on")) == 2 and not (tmp_path / "off" / "completions").exists()

    def test_what_is_pushed_to_the_hub_holds_no_texts_unless_they_are_asked_for(self, config: Make) -> None:
        assert config().log_completions is True
        assert config(push_to_hub=True).log_completions is False
        assert config(push_to_hub=True, log_completions=True).log_completions is True

    def test_images_are_named_by_a_path_or_a_file_beside_the_record(
        self, config: Make, tmp_path: Path
    ) -> None:
        args = config()
        picture = Image.new("RGB", (8, 4), "red")
        content = io.BytesIO()
        picture.save(content, "PNG")
        path, url, made, none = logged_images(["a/b.png", data_url(content.getvalue()), picture, None], args)
        assert (path, none) == ("a/b.png", None)
        folder = tmp_path / "run" / "completions"
        assert url is not None and (folder / url).read_bytes() == content.getvalue()
        assert made is not None and open_image(str(folder / made)).size == (8, 4)
        assert (
            logged_images([url], config(log_completions=False)) is None and logged_images(None, args) is None
        )


class TestAsATrainer:
    """The parts of `transformers.Trainer` that users expect to find."""

    def test_checkpoints_are_ordinary_models(
        self, critic_dir: Path, pool: Dataset, config: Make, tmp_path: Path
    ) -> None:
        args = config(rl_steps=1, save_strategy="steps", save_steps=2)
        trainer = Stage1Trainer(critic_dir, args=args, train_dataset=pool)
        trainer.train()
        checkpoint = tmp_path / "run" / "checkpoint-2"
        assert same(weights(load(checkpoint)), weights(trainer.model))
        assert not same(weights(load(checkpoint)), weights(load(critic_dir)))
        prompt = COMPACT.critique_prompt(pool[0]["question"], pool[0]["response"])
        tokenizers = [AutoTokenizer.from_pretrained(directory) for directory in (critic_dir, checkpoint)]
        ids = [t.apply_chat_template(prompt, add_generation_prompt=True)["input_ids"] for t in tokenizers]
        assert ids[0] == ids[1]

    def test_callbacks_reports_and_evaluation(
        self, critic_dir: Path, pool: Dataset, config: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "board"))

        class Count(TrainerCallback):
            steps: tuple[int, ...] = ()

            def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
                if "reward/r_dis" in logs:
                    self.steps += (state.global_step,)

        count = Count()
        trainer = Stage1Trainer(
            critic_dir,
            args=config(rl_steps=2, report_to="tensorboard", per_device_eval_batch_size=16),
            train_dataset=pool,
            eval_dataset=pool.select(range(4)),
            callbacks=[count],
        )
        trainer.train()
        assert count.steps == (2, 4)  # once per RL step of two optimizer steps
        metrics = trainer.evaluate()
        assert 0.0 <= metrics["eval_reward"] == metrics["eval_critic/acc_dis"] <= 1.0
        board = EventAccumulator(str(tmp_path / "board"))
        board.Reload()
        written = [event.value for event in board.Scalars("train/critic/acc_dis")]
        assert written == pytest.approx([value for (value,) in history(trainer, "critic/acc_dis")], abs=1e-6)

    def test_stage_presets(self) -> None:
        assert Stage1Config.refinement_reward is None and Stage2Config.refinement_reward == "r_refine"
        assert (Stage1Trainer.config_class, Stage2Trainer.config_class) == (Stage1Config, Stage2Config)
