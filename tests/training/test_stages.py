"""Both stages on a tiny critic: what they learn, hold on to, ask of the actor, and refuse."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from threading import Event
from typing import Any

import pytest
from datasets import Dataset, Value
from helpers import (
    LORA,
    Reply,
    ToyActor,
    adapter_of,
    chat_completion,
    follow_critique,
    history,
    same,
    serving,
    weights,
)
from peft import LoraConfig, PeftModel
from torch import Tensor
from transformers import AutoModelForCausalLM
from trl import GRPOConfig

from critique_rl.actors import ActorError, OpenAIActor, TransformersActor
from critique_rl.prompts import COMPACT, PAPER, Verdict, parse_verdict
from critique_rl.rewards import r_dis
from critique_rl.training.stage_config import Stage2Config
from critique_rl.training.stages import CritiqueTrainer, Stage1Trainer, Stage2Trainer
from critique_rl.types import Conversation, Generation, Sampling, UserError

Make = Callable[..., Any]


class DeadActor:
    """An actor whose server is gone, from the second call on."""

    name = "dead"

    def __init__(self, calls: int = 0) -> None:
        self.calls = calls

    def generate(self, prompts: Sequence[Conversation], sampling: Sampling) -> list[Generation]:
        if self.calls == 0:
            raise ActorError("connection refused")
        self.calls -= 1
        return ToyActor(follow_critique).generate(prompts, sampling)


def load(directory: str | Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(directory)


def acc_dis(model: Any, tokenizer: Any, pool: Dataset) -> float:
    critic = TransformersActor(model, tokenizer)
    prompts = [COMPACT.critique_prompt(row["question"], row["response"]) for row in pool]
    critiques = critic.generate(prompts, Sampling(20, temperature=1.0))
    right = [
        r_dis(parse_verdict(c.text), row["response_correct"]) for c, row in zip(critiques, pool, strict=True)
    ]
    return sum(value or 0.0 for value in right) / len(right)


@pytest.mark.slow
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

    @pytest.mark.slow
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

    @pytest.mark.slow
    def test_stage_2_is_anchored_at_stage_1(
        self, critic_dir: Path, pool: Dataset, config: Make, tmp_path: Path
    ) -> None:
        first = Stage1Trainer(critic_dir, args=config(rl_steps=2, learning_rate=1e-2), train_dataset=pool)
        first.train()
        first.save_model(str(tmp_path / "stage1"))
        second = Stage2Trainer(
            tmp_path / "stage1",
            ToyActor(follow_critique),
            config(Stage2Config, rl_steps=1),
            train_dataset=pool,
        )
        assert same(weights(second.ref_model), weights(first.model))
        assert not same(weights(second.ref_model), weights(first.ref_model))
        second.train()
        assert abs(history(second, "kl")[0][0]) < 1e-6

    @pytest.mark.slow
    def test_stage_2_of_an_adapter_is_anchored_at_stage_1(
        self, critic_dir: Path, pool: Dataset, config: Make, tmp_path: Path
    ) -> None:
        args = config(rl_steps=2, learning_rate=1e-2)
        first = Stage1Trainer(critic_dir, args=args, train_dataset=pool, peft_config=LoraConfig(**LORA))
        first.train()
        first.save_model(str(tmp_path / "stage1"))
        model = PeftModel.from_pretrained(load(critic_dir), tmp_path / "stage1", is_trainable=True)
        second = Stage2Trainer(
            model,
            ToyActor(follow_critique),
            config(Stage2Config, rl_steps=2, learning_rate=1e-2),
            train_dataset=pool,
        )
        trained = {n: p for n, p in weights(first.model).items() if "lora_" in n}
        second.train()
        after = weights(second.model)
        assert all(after[n.replace(".default.", ".ref.")].equal(p) for n, p in trained.items())
        assert not any(after[n].equal(p) for n, p in trained.items())
        assert abs(history(second, "kl")[0][0]) < 1e-6

    @pytest.mark.slow
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
    @pytest.mark.slow
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

    @pytest.mark.slow
    def test_stage_1_never_asks_it(self, critic_dir: Path, pool: Dataset, config: Make) -> None:
        Stage1Trainer(critic_dir, DeadActor(), config(rl_steps=2), train_dataset=pool).train()

    def test_nobody_pickles_it(self, critic_dir: Path, pool: Dataset, config: Make) -> None:
        """`Dataset.map` hashes its function with all that it holds; an actor may hold a whole model."""
        pickled = []

        class Watched(ToyActor):
            def __reduce__(self) -> Any:
                pickled.append(self)
                return (ToyActor, (follow_critique,))

        Stage2Trainer(critic_dir, Watched(follow_critique), config(Stage2Config), train_dataset=pool)
        assert pickled == []

    @pytest.mark.slow
    def test_its_error_ends_the_training(self, critic_dir: Path, pool: Dataset, config: Make) -> None:
        args = config(Stage2Config, rl_steps=3)
        trainer = Stage2Trainer(critic_dir, DeadActor(calls=1), args, train_dataset=pool)
        with pytest.raises(ActorError, match="connection refused"):
            trainer.train()
        assert trainer.state.global_step == args.optimizer_steps_per_rl_step

    @pytest.mark.parametrize("combination", ["additive", "gated"])
    def test_what_it_is_asked(self, critic_dir: Path, pool: Dataset, config: Make, combination: str) -> None:
        actor = ToyActor(follow_critique)
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
        actor = ToyActor(follow_critique)
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

    @pytest.mark.slow
    def test_it_is_sampled_as_configured_and_anew_at_every_rollout(
        self, critic_dir: Path, pool: Dataset, config: Make
    ) -> None:
        actor = ToyActor(follow_critique)
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
        trainer = Stage1Trainer(
            critic_dir, ToyActor(follow_critique), config(response_source="online"), train_dataset=pool
        )
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


class Blocking(OpenAIActor):
    """A server that is asked when the reward is due."""

    remote = False


class TestServedActor:
    """Refinements are written while this process computes log-probabilities."""

    def test_it_is_asked_before_the_reference_pass_ends(
        self, critic_dir: Path, pool: Dataset, config: Make
    ) -> None:
        asked, in_reference, passes = Event(), Event(), 0

        def answer(body: dict[str, Any]) -> Reply:
            asked.set()
            assert in_reference.wait(60)
            return chat_completion(follow_critique(body["messages"]))

        class Watched(Stage2Trainer):
            def _get_per_token_logps_and_entropies(self, model: Any, *args: Any, **kwargs: Any) -> Any:
                nonlocal passes
                if model is self.ref_model:
                    passes += 1
                    in_reference.set()
                    assert asked.wait(20), "the server is asked after the reference pass"
                return super()._get_per_token_logps_and_entropies(model, *args, **kwargs)

        with serving(answer) as server:
            args = config(Stage2Config, refinement_temperature=1.0)  # greedy, equal prompts are asked once
            Watched(critic_dir, OpenAIActor(server.url), args, train_dataset=pool).train()
            assert passes == 1 and len(server.requests) == 16

    @pytest.mark.slow
    @pytest.mark.parametrize("combination", ["additive", "gated"])
    def test_all_is_as_if_it_were_asked_later(
        self, critic_dir: Path, pool: Dataset, config: Make, tmp_path: Path, combination: str
    ) -> None:
        def answer(body: dict[str, Any]) -> Reply:
            unlucky = body["seed"] % 4 == 0
            return chat_completion("The answer is 0" if unlucky else follow_critique(body["messages"]))

        runs = []
        for actor_class in (Blocking, OpenAIActor):
            folder = tmp_path / actor_class.__name__
            settings = {"combination": combination, "refinement_temperature": 0.7, "log_completions": True}
            args = config(Stage2Config, rl_steps=3, output_dir=str(folder), **settings)
            with serving(answer) as server:
                actor = actor_class(server.url, concurrency=1)
                trainer = Stage2Trainer(critic_dir, actor, args, train_dataset=pool)
                trainer.train()
            records = {path.name: path.read_bytes() for path in folder.glob("completions/*.parquet")}
            untimed = [
                {key: value for key, value in entry.items() if "time" not in key and "_per_second" not in key}
                for entry in trainer.state.log_history
            ]
            runs.append((server.requests, records, untimed, weights(trainer.model)))
        (*before, start), (*after, end) = runs
        assert before == after and same(start, end)
        assert len(before[1]) == 3 and len(before[0]) <= 48

    @pytest.mark.parametrize("actor_class", [OpenAIActor, Blocking])
    def test_its_error_ends_the_training(
        self, critic_dir: Path, pool: Dataset, config: Make, actor_class: type[OpenAIActor]
    ) -> None:
        with serving(lambda _: Reply({"error": {"message": "no"}}, 400)) as server:
            actor = actor_class(server.url, concurrency=1)
            trainer = Stage2Trainer(critic_dir, actor, config(Stage2Config), train_dataset=pool)
            with pytest.raises(ActorError, match="refused prompt 0"):
                trainer.train()

    def test_a_rollout_that_fails_leaves_nothing_for_the_next(
        self, critic_dir: Path, pool: Dataset, config: Make
    ) -> None:
        failing = True

        class Failing(Stage2Trainer):
            def _get_per_token_logps_and_entropies(self, *args: Any, **kwargs: Any) -> Any:
                if failing:
                    raise RuntimeError("out of memory")
                return super()._get_per_token_logps_and_entropies(*args, **kwargs)

        with serving(lambda body: chat_completion(follow_critique(body["messages"]))) as server:
            actor = OpenAIActor(server.url, cache_size=0)
            trainer = Failing(critic_dir, actor, config(Stage2Config), train_dataset=pool)
            with pytest.raises(RuntimeError, match="out of memory"):
                trainer.train()
            failing = False
            trainer.train()
        extra = trainer._logs["extra"]
        asked = [
            COMPACT.refinement_prompt(*texts)
            for texts in zip(
                extra["question"],
                extra["response"],
                [completion[0]["content"] for completion in trainer._logs["completion"]],
                strict=True,
            )
        ]
        assert list(extra["refinement"]) == [follow_critique(prompt) for prompt in asked]


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
