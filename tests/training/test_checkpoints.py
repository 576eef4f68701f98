"""Checkpoints that a training goes on from."""

from __future__ import annotations

from pathlib import Path

from critique_rl.training.checkpoints import last_checkpoint


def test_a_half_written_checkpoint_is_passed_over(tmp_path: Path) -> None:
    assert last_checkpoint(tmp_path) is None
    for step, files in ((2, ["model.safetensors", "trainer_state.json"]), (10, ["model.safetensors"])):
        (tmp_path / f"checkpoint-{step}").mkdir()
        for file in files:
            (tmp_path / f"checkpoint-{step}" / file).touch()
    assert last_checkpoint(tmp_path) == str(tmp_path / "checkpoint-2")
    (tmp_path / "checkpoint-10" / "trainer_state.json").touch()
    assert last_checkpoint(tmp_path) == str(tmp_path / "checkpoint-10")
