"""The callbacks of the trainers: what they show of RL steps, and which critics they keep."""

from __future__ import annotations

from pathlib import Path

import pytest
from transformers import TrainerControl, TrainerState, TrainingArguments

from critique_rl.display import Display
from critique_rl.training.callbacks import DisplayCallback, KeepCallback


def test_a_critic_is_kept_once_at_the_end_of_its_rl_step() -> None:
    saved: list[int] = []
    keep = KeepCallback([1], 2, saved.append)
    for step in range(1, 7):
        keep.on_step_end(None, TrainerState(global_step=step), None)  # type: ignore[arg-type]
        assert saved == ([] if step < 2 else [1])


def test_the_callback_shows_rl_steps_and_the_stages_own_measure(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shown = Display()
    callback = DisplayCallback(shown, block=4)
    state = TrainerState(global_step=8, max_steps=40, is_world_process_zero=True)
    args, control = TrainingArguments(output_dir=str(tmp_path), report_to="none"), TrainerControl()
    state.log_history = [{"loss": 1.0}]
    callback.on_log(args, state, control)
    assert capsys.readouterr().err == ""
    state.log_history = [
        {"reward": 0.5, "critic/acc_dis": 0.5, "kl": 0.0},
        {"reward": 0.6, "critic/acc_dis": 0.625, "kl": 0.25},
    ]
    callback.on_log(args, state, control)
    assert capsys.readouterr().err == "    2/10  Acc@Dis 62 (right -, wrong -)  KL 0.250  ▁█\n"
    shown = Display()
    callback = DisplayCallback(shown, block=4)
    logged = {"reward": 0.1, "critic/parse_rate": 0.5, "critic/mae_dis": 1.5, "actor/rating_refine": 7.25}
    state.log_history = [logged]
    callback.on_log(args, state, control)
    assert "MAE@Dis 1.50 (parsed 50)  rating of refinements 7.25  KL 0.000" in capsys.readouterr().err
