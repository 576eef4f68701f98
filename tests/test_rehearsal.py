"""What the rehearsal of two machines calls equal; the rehearsal itself is `python experiments/rehearsal.py`."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from helpers import ROOT
from safetensors.torch import load_file, save_file

from critique_rl.config.run import load_config


@pytest.fixture(scope="module")
def rehearsal() -> Any:
    spec = importlib.util.spec_from_file_location("rehearsal", ROOT / "experiments" / "rehearsal.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_record_that_differs_or_is_missing_is_no_equality(rehearsal: Any) -> None:
    assert rehearsal.row("pool", [1, 2], [1, 2])[-1] == "equal"
    assert rehearsal.row("pool", [1, 2], [1, 3])[-1] == "NOT EQUAL"
    assert rehearsal.row("pool", [1, 2], [1])[-1] == "NOT EQUAL"
    assert rehearsal.row("pool", [], [])[-1] == "NOT EQUAL"


@pytest.mark.parametrize(("error", "verdict"), [(0.5, "equal"), (2.0, "NOT EQUAL")])
def test_weights_may_differ_by_a_small_share_of_the_training(
    rehearsal: Any, tmp_path: Path, error: float, verdict: str
) -> None:
    start = load_file(str(ROOT / "critique_rl/assets/tiny/sft/model.safetensors"))
    moved = {name: weight + 0.01 for name, weight in start.items()}
    other = {name: weight.clone() for name, weight in moved.items()}
    for name, weight in other.items():
        other[name] = weight + error * rehearsal.TOLERANCE * 0.01
    for run, weights in (("one", moved), ("two", other)):
        folder = tmp_path / run / "seed0" / "stage1"
        folder.mkdir(parents=True)
        save_file(
            {name: weight.to(torch.float32) for name, weight in weights.items()}, folder / "w.safetensors"
        )
    assert rehearsal.weights(tmp_path / "one", tmp_path / "two", "stage1")[-1] == verdict


def test_both_runs_have_the_same_rollout_and_one_update_of_it(rehearsal: Any, tmp_path: Path) -> None:
    for machines in (1, 2):
        path = rehearsal.written_config(tmp_path, f"of{machines}", machines, "http://127.0.0.1:9/v1", 2)
        for stage in yaml.safe_load(path.read_text(encoding="utf-8"))["stages"].values():
            options = stage["trainer"]
            assert options["per_device_train_batch_size"] * machines == options["generation_batch_size"]
        assert load_config(path).actor["base_url"] == "http://127.0.0.1:9/v1"
    arguments = rehearsal.torchrun(1, 2, "29500")
    assert "--node_rank=1" in arguments and "--local_addr=127.0.0.2" in arguments
