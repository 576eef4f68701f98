"""Settings and a finished run to report on."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import pytest
from helpers import graded_episodes, healthy_log

from critique_rl.config.data import TaskConfig
from critique_rl.config.evaluation import EvaluationConfig
from critique_rl.config.run import RunConfig, load_config
from critique_rl.reports.settings import CONFIGS
from critique_rl.runs.run import Run


@pytest.fixture
def config(tmp_path: Path) -> RunConfig:
    return RunConfig(
        name="toy",
        base="some/model",
        prompts="paper",
        train=[TaskConfig("gsm8k")],
        stages={},
        evaluation=EvaluationConfig([TaskConfig("gsm8k", split="test")]),
        output=str(tmp_path),
    )


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """A finished run of preset `tiny`, its steps written by hand: both stages are the shipped SFT critic."""
    config = load_config(CONFIGS / "tiny.yaml", [f"output={tmp_path}/run", "seeds=[0, 1]"])
    stages = {name: config.stages[name] for name in ("stage1", "stage2")}
    made = Run(dataclasses.replace(config, stages=stages))
    assert made.folder.shipped is not None
    for step in made.steps():
        if step.kind in ("actor", "sft"):
            continue
        if step.kind == "train":
            shutil.copytree(made.folder.shipped / "sft", step.directory)
            log = [*healthy_log(step.name.endswith("stage2")), {"train_runtime": 36.0}]
            (step.directory / "trainer_state.json").write_text(json.dumps({"log_history": log}))
        step.directory.mkdir(parents=True, exist_ok=True)
        if step.kind == "evaluate":
            lines = [
                json.dumps(vars(e)) + "\n" for e in graded_episodes(3 + step.name.count("stage"), 8, dis=6)
            ]
            (step.directory / "records.jsonl").write_text("".join(lines), encoding="utf-8")
        step._mark(finished=True, seconds=0.0 if step.kind == "pool" else 7.2)
    return made
