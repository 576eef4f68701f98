"""What holds of the trainer whatever a critic is trained on: it repeats, resumes, splits, and records."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from helpers import (
    ToyActor,
    adapter_of,
    follow_critique,
    history,
    png,
    retold,
    run_in_two_processes,
    same,
    weights,
)
from peft import PeftModel
from PIL import Image
from pyarrow import parquet
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback

from critique_rl.actors import TransformersActor
from critique_rl.grading import grade_batch
from critique_rl.manifest import read_manifest
from critique_rl.prompts import COMPACT, parse_verdict
from critique_rl.training import objectives
from critique_rl.training.checkpoints import last_checkpoint
from critique_rl.training.images import logged_images
from critique_rl.training.stage_config import CritiqueConfig, Stage2Config
from critique_rl.training.stages import CritiqueTrainer, Stage1Trainer, Stage2Trainer
from critique_rl.types import UserError
from critique_rl.vision.images import data_url, open_image

Make = Callable[..., Any]


def load(directory: str | Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(directory)


@pytest.mark.parametrize("whiten", [False, True])
def test_an_unknown_reward_takes_the_row_out(
    critic_dir: Path, pool: Dataset, config: Make, whiten: bool
) -> None:
    def grader(items: Sequence[Mapping[str, str]]) -> list[bool | None]:
        grades = grade_batch(items)
        return [None if i in (1, 6) else grade for i, grade in enumerate(grades)]

    args = config(Stage2Config, whiten=whiten, beta=0.0)
    trainer = Stage2Trainer(critic_dir, ToyActor(follow_critique), args, train_dataset=pool, grader=grader)
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


class TestTemplates:
    def test_the_end_of_a_turn_ends_a_critique_whatever_the_tokenizer_says(
        self, critic_dir: Path, pool: Dataset, config: Make, tmp_path: Path
    ) -> None:
        """The critic learned to end with its template's <|im_end|>; its files name another token."""
        rates, texts = [], []
        for name, end in (("right", "<|im_end|>"), ("other", "<|endoftext|>")):
            critic = retold(critic_dir, tmp_path / name, end=end)
            args = config(max_completion_length=40, output_dir=str(tmp_path / f"run {name}"))
            trainer = Stage1Trainer(critic, args=args, train_dataset=pool)
            trainer.train()
            rates.append(trainer.state.log_history[0]["completions/clipped_ratio"])
            rollout = parquet.read_table(next((tmp_path / f"run {name}" / "completions").glob("*")))
            texts.append(rollout["completion"].to_pylist())
            trainer.save_model(str(tmp_path / f"saved {name}"))
            listed = AutoModelForCausalLM.from_pretrained(tmp_path / f"saved {name}").generation_config
            end_id = trainer.processing_class.convert_tokens_to_ids("<|im_end|>")
            assert end_id in ([listed.eos_token_id] if name == "right" else listed.eos_token_id)
        assert rates[0] == rates[1] < 0.5 and texts[0] == texts[1]

    @pytest.mark.parametrize("template", ["", None, "{# nothing #}"])
    def test_a_missing_template_is_named_with_its_model(
        self, critic_dir: Path, pool: Dataset, config: Make, tmp_path: Path, template: str | None
    ) -> None:
        tokenizer = AutoTokenizer.from_pretrained(critic_dir)
        tokenizer.chat_template = template
        with pytest.raises(UserError, match=f"{critic_dir} has .*chat template.*instruction-tuned"):
            Stage1Trainer(critic_dir, args=config(), train_dataset=pool, processing_class=tokenizer)

    def test_control_tokens_of_the_data_are_counted_and_read_as_text(
        self, critic_dir: Path, pool: Dataset, config: Make, caplog: pytest.LogCaptureFixture
    ) -> None:
        hostile = pool.map(
            lambda row, i: {"response": row["response"] + "<|im_end|>" * (i == 2)}, with_indices=True
        )
        trainer = Stage1Trainer(critic_dir, args=config(), train_dataset=hostile)
        assert f"train_dataset: texts of 1 of {len(pool)} prompts hold control tokens" in caplog.text
        rows = [hostile[2] | {"prompt": trainer.train_dataset[2]["prompt"]}] * 16
        ids = trainer._generate_and_score_completions(rows)["prompt_ids"][0].tolist()
        end = trainer.processing_class.convert_tokens_to_ids("<|im_end|>")
        assert ids.count(end) == 1  # that of the user's turn


@pytest.mark.slow
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

    @pytest.mark.processes
    def test_two_processes_keep_one_critic(self, critic_dir: Path, pool: Dataset, tmp_path: Path) -> None:
        pool.save_to_disk(str(tmp_path / "pool"))
        ranks = run_in_two_processes(TWO_PROCESSES, tmp_path, str(critic_dir))
        assert same(ranks[0]["weights"], ranks[1]["weights"])
        assert not same(ranks[0]["weights"], weights(load(critic_dir)))
        assert abs(ranks[0]["kl"]) < 1e-6
        [checkpoint] = [path for path in tmp_path.glob("run/checkpoint-*") if path.name != "checkpoint-1"]
        manifest = read_manifest(checkpoint)
        assert manifest is not None and {"rng_state_0.pth", "rng_state_1.pth"} <= set(manifest["files"])
        assert last_checkpoint(tmp_path / "run") == str(checkpoint)
        assert [rank["stopped"] for rank in ranks] == [(False, True, 1)] * 2  # one word stops both
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
from critique_rl.training.callbacks import StopCallback
from critique_rl.training.stage_config import Stage1Config
from critique_rl.training.stages import Stage1Trainer

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

trainer = build(per_device_train_batch_size=8, save_strategy="steps", save_steps=1, save_total_limit=1)
white = roll_out(trainer)
stop = StopCallback(1, trainer.accelerator)
trainer.add_callback(stop)
trainer.train()
early = build(per_device_train_batch_size=8)
one = StopCallback(1, early.accelerator)
one.asked = early.accelerator.process_index == 1  # the other rank has not heard of it
early.add_callback(one)
early.train()
kl = [log["kl"] for log in trainer.state.log_history if "kl" in log]
split = build(per_device_train_batch_size=6, whiten=False, beta=0.0)
plain = roll_out(split)
torch.save(
    {
        "processes": trainer.accelerator.num_processes,
        "weights": dict(trainer.model.state_dict()) | {},
        "kl": kl[0] if kl else 0.0,
        "stopped": (stop.asked, one.asked, early.state.global_step),
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


@pytest.mark.slow
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
        trainer = Watched(critic_dir, ToyActor(follow_critique), args, train_dataset=pool)
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
        # A group of equal rewards has advantages of exactly 0, and one rollout may hold no other.
        assert len({row["advantage"] for rows in records.values() for row in rows}) > 2
        assert max(abs(row["kl"]) for row in records["completions_00006"]) > 1e-4

    def test_no_pass_is_made_for_a_kl_that_nobody_needs(
        self, critic_dir: Path, pool: Dataset, config: Make, tmp_path: Path
    ) -> None:
        """trl skips the old log-probabilities of an on-policy update; the first rollout checks its anchor."""
        loss = {"kl_placement": "loss", "kl_estimator": "k3", "num_iterations": 1}
        trainer = Watched(
            critic_dir,
            ToyActor(follow_critique),
            config(Stage2Config, rl_steps=2, **loss),
            train_dataset=pool,
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
            critic_dir,
            ToyActor(follow_critique),
            args,
            train_dataset=pool,
            eval_dataset=pool.select(range(4)),
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
            runs.append(Stage2Trainer(critic_dir, ToyActor(follow_critique), args, train_dataset=pool))
            runs[-1].train()
        assert same(weights(runs[0].model), weights(runs[1].model))
        names = ("loss", "grad_norm", "reward", "kl", "entropy")
        assert history(runs[0], *names) == history(runs[1], *names)
        assert len(self.records(tmp_path / "on")) == 2 and not (tmp_path / "off" / "completions").exists()

    def test_images_are_named_by_a_path_or_a_file_beside_the_record(
        self, config: Make, tmp_path: Path
    ) -> None:
        args = config()
        picture, content = Image.new("RGB", (8, 4), "red"), png("red", (8, 4))
        path, url, made, none = logged_images(["a/b.png", data_url(content), picture, None], args)
        assert (path, none) == ("a/b.png", None)
        folder = tmp_path / "run" / "completions"
        assert url is not None and (folder / url).read_bytes() == content
        assert made is not None and open_image(str(folder / made)).size == (8, 4)
        assert (
            logged_images([url], config(log_completions=False)) is None and logged_images(None, args) is None
        )


@pytest.mark.slow
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
