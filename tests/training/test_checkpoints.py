"""Checkpoints that a training goes on from."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset

from critique_rl.manifest import MANIFEST
from critique_rl.training.checkpoints import drop_old_checkpoints, last_checkpoint, seal_checkpoint
from critique_rl.training.stage_config import Stage1Config
from critique_rl.training.stages import Stage1Trainer
from critique_rl.types import UserError

FILES = ("model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, critic_dir: Path, pool: Dataset) -> Path:
    """Three checkpoints of a training, of which transformers is asked to keep three."""
    output = tmp_path_factory.mktemp("trained")
    args = Stage1Config(
        output_dir=str(output),
        prompts="compact",
        rl_steps=3,
        num_generations=4,
        generation_batch_size=8,
        per_device_train_batch_size=8,
        num_iterations=1,
        max_completion_length=12,
        save_strategy="steps",
        save_steps=1,
        save_total_limit=3,
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        report_to="none",
        disable_tqdm=True,
    )
    trainer = Stage1Trainer(str(critic_dir), args=args, train_dataset=pool)
    trainer.checkpoint_owner = "this"
    trainer.train()
    assert args.save_total_limit == 3
    return output


@pytest.fixture
def folder(trained: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained, tmp_path / "run"))


def chosen(folder: Path, owner: str = "this") -> tuple[str | None, list[str]]:
    """Name of the checkpoint that a training goes on from, and the lines that it says."""
    lines: list[str] = []
    path = last_checkpoint(folder, owner=owner, note=lines.append)
    return path and Path(path).name, lines


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def remove(path: Path) -> None:
    path.unlink()


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(bytes(content))


def garble(path: Path) -> None:
    path.write_bytes(b"{}")


DAMAGES: list[Callable[[Path], None]] = [cut, empty, remove, flip, garble]


def test_a_whole_checkpoint_is_taken_without_a_word(trained: Path, tmp_path: Path) -> None:
    assert chosen(trained) == ("checkpoint-3", [])
    assert chosen(tmp_path) == (None, [])
    manifest = json.loads((trained / "checkpoint-3" / MANIFEST).read_text())
    assert set(FILES) <= set(manifest["files"]) and (manifest["owner"], manifest["step"]) == ("this", 3)


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", [*FILES, MANIFEST])
def test_a_damaged_checkpoint_is_named_and_the_one_before_it_taken(
    folder: Path, name: str, damage: Callable[[Path], None]
) -> None:
    damage(folder / "checkpoint-3" / name)
    used, [line] = chosen(folder)
    assert used == "checkpoint-2"
    assert (
        (name in line or name == MANIFEST) and str(folder / "checkpoint-3") in line and "checkpoint-2" in line
    )


def test_checkpoints_without_a_step_in_their_name_are_passed_over(folder: Path) -> None:
    shutil.copytree(folder / "checkpoint-1", folder / "checkpoint-best")
    used, [line] = chosen(folder)
    assert used == "checkpoint-3" and "checkpoint-best is left out" in line


def test_a_checkpoint_under_another_step_is_passed_over(folder: Path) -> None:
    shutil.copytree(folder / "checkpoint-1", folder / "checkpoint-7")
    used, [line] = chosen(folder)
    assert used == "checkpoint-3" and "it is of step 1" in line


def test_with_none_left_the_message_says_what_to_delete(folder: Path) -> None:
    for number in (1, 2, 3):
        empty(folder / f"checkpoint-{number}" / "optimizer.pt")
    with pytest.raises(
        UserError, match=r"no whole checkpoint left \(checkpoint-3: optimizer.pt .* or delete .*/che"
    ):
        chosen(folder)


def test_a_first_checkpoint_that_was_never_finished_does_not_lock_the_training(folder: Path) -> None:
    for number in (2, 3):
        shutil.rmtree(folder / f"checkpoint-{number}")
    (folder / "checkpoint-1" / MANIFEST).unlink()
    cut(folder / "checkpoint-1" / "trainer_state.json")
    used, [line] = chosen(folder)
    assert used is None and "trainer_state.json" in line and line.endswith("The training starts anew.")


def test_a_checkpoint_of_another_training_is_refused(folder: Path) -> None:
    with pytest.raises(UserError, match=r"checkpoint-3 is a checkpoint of another training, .*: delete it"):
        chosen(folder, "that")
    assert chosen(folder, "") == ("checkpoint-3", [])


class TestBeforeManifests:
    """Checkpoints of versions that wrote no manifest."""

    @pytest.fixture
    def old(self, folder: Path) -> Path:
        for path in folder.glob(f"*/{MANIFEST}"):
            path.unlink()
        return folder

    def test_a_whole_one_is_taken(self, old: Path) -> None:
        assert chosen(old) == ("checkpoint-3", [])

    @pytest.mark.parametrize("damage", DAMAGES)
    @pytest.mark.parametrize("name", FILES)
    def test_one_that_lacks_a_file_is_named(
        self, old: Path, name: str, damage: Callable[[Path], None]
    ) -> None:
        if damage is flip and name != "optimizer.pt":
            pytest.skip("a file of torch has checksums of its tensors, the others have none")
        damage(old / "checkpoint-3" / name)
        used, [line] = chosen(old)
        assert used == "checkpoint-2"
        assert name in line or (name == "rng_state.pth" and "rng_state" in line) or "safetensors" in line

    def test_it_is_older_than_all_with_a_manifest(self, old: Path) -> None:
        seal_checkpoint(old / "checkpoint-2", "this")
        used, [line] = chosen(old)
        assert used == "checkpoint-2" and f"it has no {MANIFEST}, so it was never finished" in line
        flip(old / "checkpoint-2" / "model.safetensors")
        assert chosen(old)[0] == "checkpoint-1"


def test_old_checkpoints_are_dropped_once_newer_ones_are_whole(folder: Path) -> None:
    def left() -> set[str]:
        return {path.name for path in folder.glob("checkpoint-*")}

    (folder / "checkpoint-3" / MANIFEST).unlink()
    drop_old_checkpoints(folder, None, None)
    drop_old_checkpoints(folder, 2, None)
    assert left() == {"checkpoint-1", "checkpoint-2", "checkpoint-3"}  # the last one is not whole
    drop_old_checkpoints(folder, 1, str(folder / "checkpoint-1"))
    assert left() == {"checkpoint-1", "checkpoint-2", "checkpoint-3"}
    drop_old_checkpoints(folder, 1, None)
    assert left() == {"checkpoint-2", "checkpoint-3"}


def test_a_half_checkpoint_of_the_same_step_is_replaced(
    critic_dir: Path, pool: Dataset, config: Callable[..., Any], tmp_path: Path
) -> None:
    args = config(Stage1Config, rl_steps=2, save_strategy="steps", save_steps=2, save_total_limit=1)
    last = Path(str(args.output_dir)) / "checkpoint-4"
    last.mkdir(parents=True)
    (last / "model-00002-of-00002.safetensors").write_bytes(b"half")
    Stage1Trainer(critic_dir, args=args, train_dataset=pool).train()
    assert list(last.parent.glob("checkpoint-*")) == [last] and not list(last.glob("model-0*"))
