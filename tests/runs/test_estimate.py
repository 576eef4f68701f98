"""Hours of a run before they are spent: formulas by hand, what they are right about, and what a plan says."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import pytest
from helpers import CONFIGS, MINI, ROOT

from critique_rl.config.data import LengthConfig
from critique_rl.config.run import load_config
from critique_rl.display import Display
from critique_rl.prompts import PromptSet
from critique_rl.runs.dry_run import describe
from critique_rl.runs.estimate import Estimate, estimate, plan
from critique_rl.runs.launch import Launch
from critique_rl.runs.lengths import token_counts
from critique_rl.runs.roofline import Limits, Model, fixed, phase_seconds, reading, updating, writing
from critique_rl.runs.run import Run
from critique_rl.types import Problem

MADE_UP = Model(parameters=10**9, layers=10, weight_bytes=2, limits=Limits(flop=1e12, bandwidth=1e11))
ENDLESS = Limits(math.inf, math.inf)
"""A machine on which nothing takes time but the calls of layers, 1 ms each."""
BENCH = ROOT / "experiments" / "results" / "bench"


@pytest.fixture
def mini(tmp_path: Path) -> Path:
    path = tmp_path / "mini.yaml"
    path.write_text(MINI, encoding="utf-8")
    return path


def run_of(config: Path, *overrides: str) -> Run:
    return Run(
        load_config(config, [f"output={config.parent / 'run'}", *overrides]), display=Display(quiet=True)
    )


def estimated(config: Path, *overrides: str, limits: Limits = MADE_UP.limits) -> Estimate:
    run = run_of(config, *overrides)
    return estimate(run.context, run.steps(), measure=lambda device, dtype: limits)


def seconds(result: Estimate) -> dict[str, float]:
    return {part.name: 3600 * part.hours for part in result.parts if part.hours is not None}


# -- arithmetic ---------------------------------------------------------------------------------------------


def test_calls_take_a_millisecond_a_layer() -> None:
    assert fixed(MADE_UP, 3) == pytest.approx(0.030)


def test_reading_takes_two_flop_a_weight_at_seven_tenths_of_the_best_matmul() -> None:
    assert reading(MADE_UP, tokens=700, calls=2) == pytest.approx(1.4e12 / 0.7e12 + 0.020)


def test_a_step_of_decoding_reads_all_weights_and_makes_a_token_of_each_text() -> None:
    one_step = (2e9 / 1e11 + 2e9 * 45 / 1e12) / 0.45
    assert writing(MADE_UP, texts=45, tokens=10, rows=45) == pytest.approx(10 * one_step + 0.1)
    assert writing(MADE_UP, texts=90, tokens=10, rows=45) == pytest.approx(2 * (10 * one_step + 0.1))
    assert writing(MADE_UP, texts=90, tokens=10, rows=64) == writing(MADE_UP, texts=90, tokens=10, rows=45)


@pytest.mark.parametrize(("adapter", "recomputes", "flop"), [(0, 0, 6), (1, 0, 4), (0, 1, 8), (1, 1, 6)])
def test_an_update_takes_fewer_flop_with_an_adapter_and_more_to_recompute(
    adapter: bool, recomputes: bool, flop: int
) -> None:
    given = {"adapter": adapter, "recomputes": recomputes}
    assert updating(MADE_UP, 75, 1, **given) == pytest.approx(flop * 75e9 / 0.45e12 + 0.030)


def test_lengths_come_from_questions_and_published_solutions() -> None:
    plain = {"next_critique": "", "reasoning_prefill": "", "refinement_prefill": "", "pairwise_tie": ""}
    asks = {"critique": "{question}{response}", "pairwise": "{question}{first}{second}"}
    prompts = PromptSet("plain", 1, reasoning="{question}", refinement="{critique}", **plain, **asks)

    def problem(question: int, solution: int) -> Problem:
        return Problem(f"{question}", "toy", "q" * question, "s" * solution, "1", "number")

    two = [problem(35, 70), problem(105, 210)]  # 20 and 40 tokens on average
    assert token_counts(two, prompts, LengthConfig(1000, 1000, 1000))[:7] == pytest.approx(
        (40, 140, 40, 20, 60, 200, 100), abs=0.2
    )
    assert token_counts(two, prompts, LengthConfig(30, 100, 10))[:7] == pytest.approx(
        (30, 100, 10, 20, 50, 150, 80), abs=0.2
    )
    unsolved = token_counts([problem(35, 0)], prompts, LengthConfig(30, 100, 10))
    assert unsolved[:3] == (30, 100, 10)


def test_the_calls_of_a_run_are_counted(mini: Path) -> None:
    """With two layers and endless arithmetic, from the settings of `MINI`: all that is left is 2 ms a call."""
    found = seconds(estimated(mini, limits=ENDLESS))
    solution = 21 / 3.5  # as long as "3+4=7\nThe answer is 7"
    rollout = 1 + 32  # a prompt is read, then 32 tokens of a critique
    passes = 2 + 2 * 3  # log-probabilities of policy and reference; two updates of three calls
    calls = {
        "base SFT": 4 * 3 * 420 / 16,
        "actor SFT": 3 * 3 * 100 / 20,
        "critic SFT": 2 * (1 + solution) + 3 * 3 * 40 / 20,
        "pool": 2 * (1 + solution),
        "stage1, Stage I": 2 * (rollout + passes),
        "stage2, Stage I+II": 2 * (rollout + passes + 1 + solution),
        "evaluation": 4 * (1 + solution) + 3 * (rollout + 1 + solution),
    }
    assert found == pytest.approx({name: 0.002 * number for name, number in calls.items()}, rel=0.02)


# -- what makes a run longer --------------------------------------------------------------------------------


def test_twice_the_rl_steps_take_twice_the_time_of_their_stage_alone(mini: Path) -> None:
    before, after = seconds(estimated(mini)), seconds(estimated(mini, "stages.stage1.trainer.rl_steps=4"))
    ratios = {name: after[name] / before[name] for name in before}
    assert ratios.pop("stage1, Stage I") == pytest.approx(2)
    assert set(ratios.values()) == {1.0}


@pytest.mark.parametrize(
    ("part", "change"),
    [
        ("actor SFT", "cold_start.actor_sft.num_train_epochs=6"),
        ("pool", "pool.samples=3"),
        ("stage1, Stage I", "stages.stage1.trainer.generation_batch_size=32"),
        ("stage1, Stage I", "stages.stage1.trainer.num_iterations=3"),
        ("stage1, Stage I", "stages.stage1.trainer.refinement_reward=r_refine"),
        ("stage1, Stage I", "stages.stage1.trainer.response_source=online"),
        ("stage1, Stage I", "stages.stage1.trainer.share_prompts=false"),
        ("stage1, Stage I", "stages.stage1.trainer.gradient_checkpointing=true"),
        ("stage1, Stage I", "stages.stage1.trainer.advantage=gae"),
        ("stage1, Stage I", "lengths.critique=40"),
        ("evaluation", "evaluation.protocol.rounds=2"),
        ("evaluation", "seeds=[0,1]"),
    ],
)
def test_more_work_takes_longer(mini: Path, part: str, change: str) -> None:
    assert seconds(estimated(mini, change))[part] > seconds(estimated(mini))[part]


@pytest.mark.parametrize(
    ("part", "change"),
    [
        ("critic SFT", "cold_start.critiques=40"),
        ("stage1, Stage I", "stages.stage1.trainer.beta=0.0"),
        ("stage1, Stage I", "stages.stage1.lora={r: 4}"),
        ("stage2, Stage I+II", "stages.stage1.lora={r: 4}"),  # it goes on with the adapter
        ("evaluation", "evaluation.rows=[no_critic]"),
        ("evaluation", "evaluation.tasks.0.limit=5"),
    ],
)
def test_less_work_takes_less(mini: Path, part: str, change: str) -> None:
    assert seconds(estimated(mini, change))[part] < seconds(estimated(mini))[part]


def test_the_processes_of_a_launch_share_trainings_and_nothing_is_measured(mini: Path) -> None:
    def never(device: str, dtype: str) -> Limits:
        raise AssertionError((device, dtype))

    run = run_of(mini)
    one, eight = (
        estimate(run.context, run.steps(), measure=never, launch=Launch("ddp", processes))
        for processes in (1, 8)
    )
    before, after = seconds(one), seconds(eight)
    for part in ("base SFT", "actor SFT", "critic SFT"):
        assert after[part] < before[part]
    assert after["actor SFT"] == pytest.approx(before["actor SFT"] / 8)
    assert after["stage1, Stage I"] < before["stage1, Stage I"] and after["pool"] < before["pool"]
    assert list(eight.limits) == ["bfloat16 on A100-80GB"]
    assert any("on 8 x A100-80GB" in line for line in eight.lines())


def test_a_finished_step_costs_nothing(mini: Path) -> None:
    before = seconds(estimated(mini))
    pool = next(step for step in run_of(mini).steps() if step.kind == "pool")
    pool.execute(lambda: None)
    after = seconds(estimated(mini))
    assert before.pop("pool") > 0 and after == before


# -- against what was measured ------------------------------------------------------------------------------


@pytest.mark.parametrize("stage", ["stage1", "stage2"])
def test_an_rl_step_of_tiny_is_right_within_a_factor_of_two(stage: str, tmp_path: Path) -> None:
    bench = json.loads((BENCH / "tiny.json").read_text(encoding="utf-8"))
    limits = Limits(bench["limits"]["flop_per_second"]["float32"], bench["limits"]["bytes_per_second"])
    options = {"rl_steps": 1, "num_iterations": 1, "gradient_accumulation_steps": 2}  # as the benchmark
    changes = [f"stages.{stage}.trainer.{name}={value}" for name, value in options.items()]
    config = tmp_path / "tiny.yaml"
    config.write_text((CONFIGS / "tiny.yaml").read_text(encoding="utf-8"), encoding="utf-8")
    parts = seconds(estimated(config, *changes, limits=limits))
    (found,) = (value for name, value in parts.items() if name.startswith(f"{stage},"))
    assert 0.5 < found / bench[stage]["ours"]["median"] < 2


@pytest.mark.parametrize("name", ["qwen2.5-0.5b-lora", "qwen2.5-0.5b-full"])
def test_each_phase_of_half_a_billion_weights_is_right_within_a_factor_of_two(name: str) -> None:
    bench = json.loads((BENCH / f"{name}.json").read_text(encoding="utf-8"))
    phases = phase_seconds(bench, adapter=name.endswith("lora"))
    ratios = {phase: value / bench["stage2"]["ours"]["phases"][phase] for phase, value in phases.items()}
    assert {phase: ratio for phase, ratio in ratios.items() if not 0.5 < ratio < 2} == {}


# -- what a plan says ---------------------------------------------------------------------------------------


def shown(lines: list[str]) -> dict[str, Any]:
    """Hours by part from the lines of a plan."""
    found = {}
    for line in lines:
        if match := re.fullmatch(r"  (.+?)(?: \(\d+ steps?\))?: about (\d+) min on this machine", line):
            found[match[1]] = int(match[2])
    return found


def test_the_plan_of_a_run_has_minutes_for_each_part_and_where_they_come_from(mini: Path) -> None:
    lines = describe(run_of(mini).config).splitlines()
    source = (
        r"time, an estimate within about a factor of two from \d+ GFLOP/s in float32 on cpu, \d+ GB/s .*:"
    )
    assert [line for line in lines if re.fullmatch(source, line)]
    parts = ["base SFT", "actor SFT", "critic SFT", "pool", "stage1, Stage I", "stage2, Stage I+II"]
    assert list(shown(lines)) == [*parts, "evaluation", "in all"]


def test_the_start_of_a_run_says_where_it_goes_and_how_long_it_takes(mini: Path) -> None:
    run = run_of(mini, "stages.stage1.trainer.rl_steps=1000000")
    first, *lines = plan(run.context, run.steps())
    assert first == f"run mini -> {mini.parent / 'run'}: 10 steps to do"
    (stage,) = (line for line in lines if line.startswith("  stage1"))
    (total,) = (line for line in lines if line.startswith("  in all"))
    hours = [float(re.sub(r".*about ([\d,.]+) h on.*", r"\1", x).replace(",", "")) for x in (stage, total)]
    assert 1 < hours[0] <= hours[1]


def test_a_size_that_nothing_tells_is_said_instead_of_a_number(mini: Path) -> None:
    run = run_of(ROOT / "experiments/configs/tiny.yaml", f"output={mini.parent}", "base=nobody/nothing")
    result = estimate(run.context, run.steps(), measure=lambda device, dtype: ENDLESS)
    (line,) = (line for line in result.lines() if "not estimated" in line)
    assert "stage1, Stage I (1 step)" in line and "nobody/nothing: size unknown" in line
    assert not shown(result.lines())


def test_problems_out_of_reach_are_said_and_a_server_too(mini: Path) -> None:
    task = "[{name: gsm8k, split: test}]"
    result = estimated(mini, f"evaluation.tasks={task}", "actor_server=http://127.0.0.1:9/v1")
    lines = result.lines()
    assert "  problems that cannot be read here: all texts are half as long as their limits" in lines
    assert seconds(result)["evaluation"] > 0
    assert "  texts that a server writes are not counted" in lines
    assert "stage1, Stage I" in seconds(result) and "pool" not in shown(lines)


def test_a_device_that_is_not_here_is_said_and_the_rest_is_estimated(mini: Path) -> None:
    lines = describe(run_of(mini, "actor={device: xpu}").config).splitlines()
    (line,) = (line for line in lines if "not estimated" in line)
    assert "pool (1 step)" in line and "float32 on xpu cannot be measured here" in line
    assert "stage1, Stage I" in shown(lines) and "stage2, Stage I+II" not in shown(lines)


def test_an_estimate_that_fails_is_one_line(mini: Path) -> None:
    run = run_of(mini, "cold_start.actor_sft.per_device_train_batch_size=0")
    assert plan(run.context, run.steps())[1:] == ["time not estimated: division by zero"]
