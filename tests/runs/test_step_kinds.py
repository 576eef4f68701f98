"""Tests of `critique_rl.runs.steps`: a new kind of step is one object and one line, and every loop sees it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from helpers import CONFIGS

from critique_rl.config.run import load_config
from critique_rl.display import Display
from critique_rl.reports.costs import costs
from critique_rl.reports.results import result_rows
from critique_rl.runs.context import Context
from critique_rl.runs.cost import Cost, time_alone
from critique_rl.runs.folder import Artifact, RunFolder
from critique_rl.runs.kind import Plan, Recipe
from critique_rl.runs.run import Run
from critique_rl.runs.step import Step
from critique_rl.runs.steps import STEP_KINDS, commands
from critique_rl.types import UserError

TINY = CONFIGS / "tiny.yaml"


class QuestionLengths:
    """Mean characters of the test questions: a kind of step that needs no model."""

    command = "lengths"
    all_ranks = False
    most = 10**6

    def artifacts(self, folder: RunFolder, seed: int | None) -> Iterable[Artifact]:
        return [] if seed is None else [folder.artifact(f"seed{seed}/lengths", seed=seed)]

    def plan(self, artifact: Artifact, plan: Plan) -> Recipe:
        return Recipe({"most": self.most, "seed": artifact.seed}, ("actor",))

    def check(self, context: Context) -> None:
        if self.most < 1:
            raise UserError("lengths.most must be at least 1.")

    def make(self, step: Step, context: Context) -> None:
        questions = [p.question for task in context.folder.tasks() for p in context.problems(task)]
        mean = sum(map(len, questions)) / len(questions)
        (step.directory / "mean.json").write_text(json.dumps(mean), encoding="utf-8")

    def rows(self, folder: RunFolder, seeds: Sequence[int]) -> Iterable[dict[str, Any]]:
        values = [
            json.loads((folder.directory / f"seed{seed}" / "lengths" / "mean.json").read_text("utf-8"))
            for seed in seeds
        ]
        metric = {"mean": values[0], "low": values[0], "high": values[0], "values": values}
        yield {"row": "no_critic", "dataset": "questions", "metrics": {"characters": metric}, "records": []}

    def cost(self, folder: RunFolder, artifact: Artifact, size: Callable[[str], int | None]) -> Cost:
        return time_alone(self.command, artifact)


@pytest.fixture
def kind() -> Iterator[QuestionLengths]:
    registered = QuestionLengths()
    STEP_KINDS["lengths"] = registered
    yield registered
    del STEP_KINDS["lengths"]


def test_a_registered_kind_is_planned_checked_made_reported_and_paid_for(
    tmp_path: Path, kind: QuestionLengths
) -> None:
    config = load_config(TINY, [f"output={tmp_path}", "seeds=[3]"])
    run = Run(config, display=Display(quiet=True))
    assert commands()[-1] == "lengths"
    assert [s.name for s in run.steps()][-1] == "seed3/lengths"
    run.execute(("lengths",))
    step = run.steps()[-1]
    assert step.finished() and step.inputs == ("actor",)
    row = next(kind.rows(run.folder, [3]))
    assert row["metrics"]["characters"]["mean"] > 10
    only = Run(config, display=Display(quiet=True), measurements=[])
    assert result_rows(only.folder) == [
        {"method": "No critic", "dataset": "questions", "metrics": row["metrics"]}
    ]
    assert [(cost.part, cost.steps) for cost in costs(run.folder)] == [("lengths", 1)]


def test_its_checks_come_before_any_work_and_its_settings_guard_its_artifact(
    tmp_path: Path, kind: QuestionLengths
) -> None:
    config = load_config(TINY, [f"output={tmp_path}", "seeds=[3]"])
    kind.most = 0
    with pytest.raises(UserError, match=r"lengths\.most must be at least 1"):
        Run(config, display=Display(quiet=True)).execute(("lengths",))
    assert not (tmp_path / "seed3").exists()
    kind.most = 5
    Run(config, display=Display(quiet=True)).execute(("lengths",))
    kind.most = 6
    with pytest.raises(UserError, match=r"most: 5 -> 6"):
        Run(config, display=Display(quiet=True)).steps()[-1].finished()


def test_the_steps_of_a_seed_keep_their_names_and_order(tmp_path: Path) -> None:
    steps = Run(load_config(TINY, [f"output={tmp_path}"])).steps()
    assert [step.name for step in steps][:4] == [
        "seed0/pool",
        "seed0/stage1",
        "seed0/stage2",
        "seed0/r_refine_only",
    ]
    assert {step.command for step in steps} == {"pool", "train", "evaluate"}
