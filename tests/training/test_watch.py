"""Numbers that go wrong: what stops a training, what is named while it runs, and what is never saved."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from helpers import adapter_of, retold, same, weights
from peft import LoraConfig
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, TrainerCallback, TrainerControl, TrainerState

from critique_rl.config.evaluation import ProtocolConfig
from critique_rl.training.stages import Stage1Trainer
from critique_rl.training.watch import PATIENCE, Watch, not_finite
from critique_rl.types import UserError

Make = Callable[..., Any]


class Spoil(TrainerCallback):
    """Writes a number into a weight after one optimizer step."""

    def __init__(self, step: int, value: float) -> None:
        self.step, self.value = step, value

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == self.step:
            with torch.no_grad():
                next(kwargs["model"].parameters())[0, 0] = self.value


class Inflate(TrainerCallback):
    """Makes all weights too large for their products, though finite, after the first optimizer step."""

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        with torch.no_grad():
            for parameter in kwargs["model"].parameters():
                parameter.mul_(1e30)


class Infinite(Stage1Trainer):
    """A trainer whose loss is not finite at optimizer step 3."""

    value = float("nan")

    def _compute_loss(self, model: Any, inputs: Any) -> torch.Tensor:
        loss = super()._compute_loss(model, inputs)
        return loss * self.value if self.state.global_step == 2 else loss


def saved(directory: Path) -> list[Path]:
    return sorted(directory.glob("**/*.safetensors"))


def settings(**more: Any) -> dict[str, Any]:
    return {"rl_steps": 4, "num_iterations": 1, "save_strategy": "steps", "save_steps": 1, **more}


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_stops_before_a_weight_moves(
    critic_dir: Path, pool: Dataset, config: Make, tmp_path: Path, value: float
) -> None:
    trainer = Infinite(critic_dir, args=config(**settings()), train_dataset=pool)
    trainer.value = value  # type: ignore[misc]
    with pytest.raises(
        UserError, match=r"RL step 3, optimizer step 3: loss .*checkpoint-2\. Lower learning_rate"
    ):
        trainer.train()
    last = AutoModelForCausalLM.from_pretrained(tmp_path / "run" / "checkpoint-2")
    assert same(weights(trainer.model), weights(last)) and not not_finite(trainer.model)
    assert not (tmp_path / "run" / "checkpoint-3").exists()


@pytest.mark.parametrize(("step", "kept"), [(1, []), (3, ["checkpoint-1", "checkpoint-2"])])
def test_weights_that_are_not_finite_are_never_saved(
    critic_dir: Path, pool: Dataset, config: Make, tmp_path: Path, step: int, kept: list[str]
) -> None:
    args = config(**settings())
    trainer = Stage1Trainer(critic_dir, args=args, train_dataset=pool, callbacks=[Spoil(step, float("nan"))])
    with pytest.raises(UserError, match=r"NaN or infinity in the weights.*not saved.*Last good checkpoint"):
        trainer.train()
    with pytest.raises(UserError, match="not saved"):
        trainer.save_model(str(tmp_path / "run"))
    assert [path.parent.name for path in saved(tmp_path / "run")] == kept


def test_weights_too_large_to_draw_with_are_named(
    critic_dir: Path, pool: Dataset, config: Make, tmp_path: Path
) -> None:
    trainer = Stage1Trainer(critic_dir, args=config(**settings()), train_dataset=pool, callbacks=[Inflate()])
    with pytest.raises(UserError, match=r"RL step 2, .*probabilities are not finite.*Last good checkpoint"):
        trainer.train()


def test_nan_in_the_last_step_leaves_no_finished_model(
    critic_dir: Path, pool: Dataset, config: Make, tmp_path: Path
) -> None:
    args = config(rl_steps=1, num_iterations=1)
    trainer = Stage1Trainer(critic_dir, args=args, train_dataset=pool, callbacks=[Spoil(1, float("inf"))])
    trainer.train()
    with pytest.raises(UserError, match="in the weights"):
        trainer.save_model(str(tmp_path / "run"))
    assert saved(tmp_path / "run") == []


def test_no_training_starts_from_a_ruined_critic(
    critic_dir: Path, pool: Dataset, config: Make, tmp_path: Path
) -> None:
    ruined = retold(critic_dir, tmp_path / "ruined")
    model = AutoModelForCausalLM.from_pretrained(ruined)
    with torch.no_grad():
        next(model.parameters())[0, 0] = float("nan")
    model.save_pretrained(ruined)
    with pytest.raises(UserError, match=f"the critic {ruined} holds NaN or infinity .*make it anew"):
        Stage1Trainer(ruined, args=config(), train_dataset=pool)


def test_of_a_training_only_trained_weights_are_checked_and_of_a_checkpoint_all(
    critic_dir: Path, pool: Dataset, config: Make, tmp_path: Path
) -> None:
    def frozen() -> Stage1Trainer:
        model = AutoModelForCausalLM.from_pretrained(critic_dir)
        model.get_input_embeddings().requires_grad_(False)
        return Stage1Trainer(model, args=config(**settings(rl_steps=2)), train_dataset=pool)

    trainer = frozen()
    trainer.train()
    checkpoint = tmp_path / "run" / "checkpoint-1"
    file = checkpoint / "model.safetensors"
    name, weight = next(iter(trainer.model.named_parameters()))
    assert not weight.requires_grad
    with torch.no_grad():
        weight[0, 0] = float("nan")
    assert not_finite(trainer.model) == name and not not_finite(trainer.model, trained=True)
    save_file(load_file(file) | {name: weight.detach()}, file, {"format": "pt"})
    with pytest.raises(UserError, match=f"the checkpoint .*checkpoint-1 holds NaN .*in {name}: delete it"):
        frozen().train(resume_from_checkpoint=str(checkpoint))


def fed(watch: Watch, rows: list[dict[str, float]]) -> TrainerControl:
    control = TrainerControl()
    for i, row in enumerate(rows):
        state = TrainerState(global_step=2 * (i + 1), is_world_process_zero=True)
        state.log_history = [{"reward": 0.0} | row]
        watch.on_log(None, state, control)
    return control


@pytest.mark.parametrize(
    ("metric", "value", "said"),
    [
        ("kl", 3.0, "kl is 3 (healthy: below about 0.2): the critic is far from its start"),
        ("kl", float("nan"), "kl is nan (healthy: below about 0.2): not a finite number"),
        ("frac_reward_zero_std", 1.0, "most groups earn one reward"),
        ("critic/parse_rate", 0.0, "critic/parse_rate is 0 (healthy: above 0.95)"),
        ("entropy", 0.0, "no exploration is left"),
        ("grad_norm", float("inf"), "grad_norm is inf (healthy: finite)"),
        ("completions/mean_length", 99.0, "critiques grow to the limit"),
    ],
)
def test_a_metric_is_named_when_it_leaves_its_range(
    metric: str, value: float, said: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        fed(Watch(2, 100, stop=False), [{}] + [{metric: value}] * 5)
    assert [m.split(":")[0] for m in caplog.messages] == ["RL step 2", "RL step 3", "RL step 5"]
    assert said in caplog.messages[0] and "4 RL steps in a row" in caplog.messages[2]


def test_healthy_numbers_are_not_named(caplog: pytest.LogCaptureFixture) -> None:
    fed(
        Watch(2, None, stop=True),
        [{"kl": 0.1, "entropy": 0.5, "completions/mean_length": 1e4, "loss": 3.0}] * 9,
    )
    assert caplog.messages == []


def test_the_policy_stop_counts_steps_in_a_row() -> None:
    sick, well = {"kl": 3.0}, {"kl": 0.0}
    watch = Watch(2, None, stop=True)
    control = fed(watch, [sick] * (PATIENCE - 1) + [well] + [sick] * (PATIENCE - 1))
    assert not control.should_training_stop and not watch.stopped
    control = fed(watch, [sick])
    assert control.should_training_stop and control.should_save and "kl is 3" in watch.stopped


@pytest.mark.slow
def test_a_stopped_training_leaves_a_checkpoint_and_an_error(
    critic_dir: Path, pool: Dataset, config: Make, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    args = config(learning_rate=0.3, max_grad_norm=0.0, rl_steps=9, num_iterations=1, unhealthy="stop")
    trainer = Stage1Trainer(critic_dir, args=args, train_dataset=pool)
    with pytest.raises(UserError, match=r"RL step .*ended the training; Last good checkpoint: .*checkpoint-"):
        trainer.train()
    assert trainer.state.global_step < 9 and saved(tmp_path / "run")
    assert "learning_rate=0.3 is far above" in caplog.text


@pytest.mark.parametrize(
    "wrong",
    [
        {"learning_rate": 1e3},
        {"learning_rate": -1.0},
        {"beta": -1.0},
        {"beta": float("nan")},
        {"max_grad_norm": -1},
    ],
)
def test_absurd_settings_are_refused(config: Make, wrong: dict[str, float]) -> None:
    (name,) = wrong
    with pytest.raises(UserError, match=f"{name}=.* is not between 0 and"):
        config(**wrong)
    with pytest.raises(UserError, match="unhealthy='ignore' is none of"):
        config(unhealthy="ignore")


class TestBeforeHoursAreSpent:
    def test_an_unknown_kind_names_its_row(self, critic_dir: Path, pool: Dataset, config: Make) -> None:
        wrong = pool.map(lambda row, i: {"kind": "maths" if i == 3 else row["kind"]}, with_indices=True)
        with pytest.raises(UserError, match="train_dataset, row 3, column 'kind': 'maths' is none of"):
            Stage1Trainer(critic_dir, args=config(), train_dataset=wrong)

    def test_the_folder_of_an_adapter_is_loaded_with_its_base(
        self, critic_dir: Path, pool: Dataset, config: Make, tmp_path: Path
    ) -> None:
        adapter = adapter_of(critic_dir, tmp_path / "adapter")
        trainer = Stage1Trainer(str(adapter), args=config(), train_dataset=pool)
        trainer.train()  # checks, on the first rollout, that the reference is the start
        with pytest.raises(UserError, match="is an adapter already"):
            Stage1Trainer(adapter, args=config(), train_dataset=pool, peft_config=LoraConfig())

    def test_an_evaluation_that_groups_do_not_divide_is_refused(
        self, critic_dir: Path, pool: Dataset, config: Make
    ) -> None:
        args = config(per_device_eval_batch_size=6)
        with pytest.raises(UserError, match=r"per_device_eval_batch_size=6 .* multiple of the 4 critiques"):
            Stage1Trainer(critic_dir, args=args, train_dataset=pool, eval_dataset=pool)


def test_samples_without_temperature_are_refused() -> None:
    with pytest.raises(UserError, match="samples=8 at temperature 0 are all alike"):
        ProtocolConfig(samples=8).check()
    ProtocolConfig(samples=8, response_temperature=0.7).check()
