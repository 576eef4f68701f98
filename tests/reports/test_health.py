"""Which training is called healthy, and with which reason another one is not."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest
from helpers import ROOT, healthy_log

from critique_rl.reports.health import RULES, Finding, check
from critique_rl.reports.report import write_report
from critique_rl.runs.run import Run


def found(
    metric: str, values: Sequence[float], *, refines: bool = True, **others: Sequence[float]
) -> Finding:
    columns = {metric: values, **{f"critic/{name}": column for name, column in others.items()}}
    log = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    findings = check(log, stage="s", seed=3, refines=refines, limit=100)
    return next(f for f in findings if f.metric == metric)


@pytest.mark.parametrize(
    ("metric", "good", "bad"),
    [
        ("critic/parse_rate", 0.96, 0.94),
        ("actor/graded_rate", 1.0, 0.98),
        ("reward/r_format", 0.95, 0.8),
        ("critic/said_first", 0.55, 0.7),
        ("critic/said_first", 0.45, 0.3),
        ("value/explained_variance", 0.0, -0.1),
        ("kl", 0.1, 0.3),
        ("entropy", 0.02, 0.001),
        ("clip_ratio/region_mean", 0.05, 0.2),
        ("frac_reward_zero_std", 0.7, 0.9),
        ("completions/mean_length", 80.0, 95.0),
        ("completions/clipped_ratio", 0.0, 0.1),
    ],
)
def test_a_level_is_judged_by_the_last_tenth(metric: str, good: float, bad: float) -> None:
    assert found(metric, [bad] * 18 + [good] * 2).outside == ""
    finding = found(metric, [good] * 18 + [bad] * 2)
    assert finding.outside and (finding.first, finding.last, finding.seed) == (good, bad, 3)


TRENDS = [(metric, rule.trend) for metric, rule in RULES.items() if rule.trend]


@pytest.mark.parametrize(("metric", "trend"), TRENDS)
def test_a_trend_is_outside_only_if_it_is_above_its_noise(metric: str, trend: int) -> None:
    rising = [0.1, 0.12, *[0.3] * 16, 0.5, 0.52]
    falling, noisy = rising[::-1], [0.5, 0.1, *[0.3] * 16, 0.45, 0.1]
    right, wrong = (rising, falling) if trend > 0 else (falling, rising)
    assert found(metric, right, refines=False).outside == ""
    assert found(metric, wrong, refines=False).outside.startswith("fell" if trend > 0 else "rose")
    assert found(metric, noisy if trend > 0 else noisy[::-1], refines=False).outside == ""
    assert found(metric, [wrong[0], wrong[-1]], refines=False).outside == ""  # too short for a trend


def test_collapse_to_one_verdict_is_seen_and_judgement_need_not_rise_beside_a_refinement_reward() -> None:
    flat = [0.95] * 20
    for low, outside in ((0.05, "collapse to one verdict"), (0.5, "")):
        finding = found("critic/acc_dis_on_correct", flat, acc_dis_on_wrong=[low] * 20)
        assert finding.outside == outside
    log = [{"critic/acc_dis": 1 - i / 20, "kl": 0.0} for i in range(20)]
    judged = [{f.metric: f.outside for f in check(log, stage="", seed=0, refines=r)} for r in (True, False)]
    assert set(judged[0]) == {"kl"} and judged[1]["critic/acc_dis"].startswith("fell")


def test_bounds_are_those_of_the_documentation() -> None:
    healthy: list[list[str]] = []  # rows of all tables with such a column
    for page in (ROOT / "README.md", *(ROOT / "docs").rglob("*.md")):
        inside = False
        for line in page.read_text("utf-8").splitlines():
            cells = [cell.strip() for cell in line.split("|")[1:-1]]
            inside = cells[-1:] == ["healthy"] or (inside and bool(cells))
            healthy += [cells] if inside else []
    for metric, rule in RULES.items():
        documented = [cells[-1] for cells in healthy if f"`{metric}`" in cells[0]]
        assert documented, metric
        named = re.match(r"(?:above|below about|below) ([0-9.]+)$", rule.healthy)
        assert all(named[1] in row for row in documented) if named else True, metric
        assert not named or float(named[1]) in (rule.low, rule.high)


def test_a_training_that_is_not_healthy_is_named_with_the_reason(run: Run) -> None:
    path = Path(run.folder.model_path("stage2", 1)) / "trainer_state.json"
    log = [row | {"critic/parse_rate": 0.9} for row in healthy_log(True)]
    path.write_text(json.dumps({"log_history": log}))
    report = write_report(run.folder).with_suffix(".md").read_text(encoding="utf-8")
    assert "1 of 16 metrics are outside" in report
    line = "| Stage I+II | critic/parse_rate | 1 | 0.9 | above 0.95 | critiques without one verdict earn nothing |"
    assert line in report
    cells = ("critic/parse_rate", "1 → 1", "0.9 → 0.9", "above 0.95", "outside (seed 1)")
    assert f"| {' | '.join(cells)} |" in report.replace("\u00a0", " ")


def test_a_row_with_more_cut_texts_than_one_in_twenty_is_named(run: Run) -> None:
    cut = next(step for step in run.steps() if step.kind == "evaluate" and "stage2" in step.name)
    path = cut.directory / "records.jsonl"
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    for i, row in enumerate(rows):
        row |= {"response_cut": False, "critique_cut": i < 2, "refinement_cut": False}
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    other = [step for step in run.steps() if step.name == cut.name.replace("seed0", "seed1")]
    shutil.copy(path, other[0].directory / "records.jsonl")
    report = write_report(run.folder)
    said = "critiques are cut at their limit: raise lengths.critique"
    dataset = run.config.evaluation.tasks[0].title
    line = f"| Stage I+II, {dataset} | critique_cut | 0, 1 | 0.25 | below 0.05 | {said} |"
    text = report.with_suffix(".md").read_text(encoding="utf-8")
    assert line in text and "its value is judged" in text
    health = json.loads(report.read_text(encoding="utf-8"))["health"]
    outside = [f["metric"] for f in health["findings"] if f["outside"]]
    assert outside == ["critique_cut"] * 2
