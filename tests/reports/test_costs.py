"""What a finished run has cost, against arithmetic by hand."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from safetensors import safe_open

from critique_rl.methods.options import option
from critique_rl.reports.costs import costs, parameters
from critique_rl.runs.folder import shipped_directory
from critique_rl.runs.run import Run


def test_cost_by_hand(run: Run) -> None:
    n = parameters(run.folder.model_path("stage1", 0))
    with safe_open(shipped_directory("assets/tiny") / "sft" / "model.safetensors", "pt") as file:
        assert n == sum(file.get_tensor(name).numel() for name in file.keys())  # noqa: SIM118
    assert n is not None
    found = {cost.part: cost for cost in costs(run.folder)}
    assert list(found) == ["pool", "Stage I", "Stage I+II", "evaluation"]
    first, second = found["Stage I"], found["Stage I+II"]
    # Two seeds; 20 rollouts of 1,000 tokens, two passes over each; drawn, then scored by policy and reference.
    assert (first.steps, first.trained, first.generated) == (2, 2 * 40_000, 2 * 20_000)
    one = 6 * n * 40_000 + 2 * n * 20_000 * 3
    assert first.flops == pytest.approx(2 * one)
    # The actor, which is as large, refines: 20 times 700 tokens.
    assert second.generated == 2 * (20_000 + 14_000)
    assert second.flops == pytest.approx(2 * (one + 2 * n * 14_000))
    assert first.hours == pytest.approx(2 * 7.2 / 3600, abs=1e-4)
    # Eight episodes of seven tokens for each of two seeds and four rows.
    assert found["evaluation"].generated == 2 * 4 * 8 * 7
    assert found["evaluation"].flops == pytest.approx(2 * n * 2 * 4 * 8 * 7)
    assert (found["pool"].trained, found["pool"].flops) == (None, None)


def test_a_training_in_two_parts_costs_both(run: Run) -> None:
    alone = {cost.part: cost for cost in costs(run.folder)}["Stage I"]
    for seed in (0, 1):
        output = Path(run.folder.model_path("stage1", seed))
        (output / "first").mkdir()
        shutil.copy(output / "trainer_state.json", output / "first")
    both = {cost.part: cost for cost in costs(run.folder)}["Stage I"]
    assert (both.trained, both.generated) == (2 * alone.trained, 2 * alone.generated)  # type: ignore[operator]
    assert both.flops == pytest.approx(2 * alone.flops)  # type: ignore[operator]
    assert option({"method": "score", "trainer": {}}, "num_iterations") == 2  # SCoRe's is such a training


def test_hours_of_a_run_without_them_are_those_of_the_trainer_and_of_a_server_no_flops_are_known(
    run: Run,
) -> None:
    for step in run.steps():
        marker = step.directory / "step.json"
        if marker.exists():
            content = json.loads(marker.read_text(encoding="utf-8"))
            del content["seconds"]
            marker.write_text(json.dumps(content), encoding="utf-8")
    found = {cost.part: cost for cost in costs(run.folder)}
    # 20 RL steps of four optimizer steps of 0.5 s; the 36 s that the trainer names are of its last start alone.
    assert found["Stage I"].hours == pytest.approx(2 * 40 / 3600)
    assert found["evaluation"].hours is None and found["pool"].hours is None
    assert parameters("http://localhost:8000/v1") is None
