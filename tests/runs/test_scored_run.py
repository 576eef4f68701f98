"""A run whose replies have scores: all its steps, and what is refused before the first."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
from helpers import CONFIGS

from critique_rl.config.run import load_config
from critique_rl.display import Display
from critique_rl.reports.report import write_report
from critique_rl.reports.results import histories, result_rows
from critique_rl.runs.run import Run
from critique_rl.types import UserError

SMALL = (
    "cold_start.shipped=null",
    "cold_start.reasoning=64",
    "cold_start.refinements=64",
    "cold_start.critiques=64",
    "pool.problems=64",
    "evaluation.tasks=[{name: made_up_facts, split: test, limit: 8, options: {size: 2000}}]",
    "train=[{name: made_up_facts, split: train, options: {size: 2000}}]",
    *(f"stages.{stage}.trainer.rl_steps=1" for stage in ("stage1", "stage2")),
    *(f"stages.{stage}.trainer.generation_batch_size=64" for stage in ("stage1", "stage2")),
)


def small_run(tmp_path: Path, *overrides: str) -> Run:
    config = load_config(CONFIGS / "tiny-summarisation.yaml", [f"output={tmp_path}", *SMALL, *overrides])
    assert config.cold_start.base is not None
    few = replace(config.cold_start.base.passes[0], reasoning=64, critiques=64, refinements=64)
    base = replace(config.cold_start.base, passes=[few])
    return Run(replace(config, cold_start=replace(config.cold_start, base=base)), display=Display(quiet=True))


@pytest.mark.run
def test_a_scored_run_from_cold_start_to_table(tmp_path: Path) -> None:
    """All steps of Table 9 in small: untrained texts teach nothing, but every step hands on scores."""
    run = small_run(tmp_path)
    run.execute()
    rows, logs = result_rows(run.folder), histories(run.folder)
    table = {row["method"]: row["metrics"] for row in rows}
    assert set(table) == {"No critic", "SFT critic", "Stage I", "Critique-RL"}
    assert {"score", "score_refine", "graded_rate"} <= set(table["Critique-RL"])
    assert "acc" not in table["Critique-RL"]
    assert len(logs["Critique-RL"][0]) == 1
    assert "actor/rating_refine" in logs["Critique-RL"][0][0]
    path = write_report(run.folder)
    assert "MAE@Dis" in path.with_name("report.md").read_text(encoding="utf-8")
    # The scale comes from the pool: a measurement is not made anew unless that is.
    assert all("pool" in " ".join(s.inputs) for s in run.steps() if s.kind == "evaluate")
    assert all(step.finished() for step in run.steps())


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("scorer=null", "tolerance goes with `scorer`"),
        ("stages.stage1.trainer.tolerance=null", "stages.stage1.trainer.tolerance goes with `scorer`"),
        ("pool.balanced=true", "pool.balanced: scored replies"),
        ("stages.stage2.method=star", "'star' does not work with scored replies"),
        ("scorer={kind: keyword}", "scorer.kind='keyword' is unknown. Did you mean 'keywords'"),
        ("scorer={kind: reward_model}", "a reward_model needs `model`"),
        ("evaluation.tasks=[{name: modular_chain, split: test, limit: 8}]", "its replies are right or wrong"),
    ],
)
def test_a_scored_run_is_checked_before_it_starts(tmp_path: Path, override: str, message: str) -> None:
    with pytest.raises(UserError, match=re.escape(message)):
        small_run(tmp_path, override).execute()
    assert not any(tmp_path.iterdir())


def test_a_graded_run_refuses_a_scored_task(tmp_path: Path) -> None:
    task = "evaluation.tasks=[{name: made_up_facts, split: test, limit: 8}]"
    with pytest.raises(UserError, match="its replies are scored, set `scorer`"):
        Run(
            load_config(CONFIGS / "tiny.yaml", [f"output={tmp_path}", task]), display=Display(quiet=True)
        ).execute()
