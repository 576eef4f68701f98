"""The result file, its table, its pages and its curves."""

from __future__ import annotations

import dataclasses
import json
import re
import statistics
import subprocess
from pathlib import Path

import pytest
from helpers import SCRIPT, Tags, graded_episodes, harmless

from critique_rl.config.evaluation import ProtocolConfig
from critique_rl.config.run import RunConfig
from critique_rl.evaluation.metrics import metrics
from critique_rl.evaluation.summary import summarise
from critique_rl.reports.columns import COLUMNS
from critique_rl.reports.curves import _smooth
from critique_rl.reports.markdown import format_metric, markdown_table
from critique_rl.reports.provenance import PACKAGES, commit_of
from critique_rl.reports.report import write_report, write_result
from critique_rl.reports.results import result_rows
from critique_rl.runs.run import Run


def test_a_commit_is_dirty_by_its_code_and_not_by_the_results_that_a_study_writes(tmp_path: Path) -> None:
    files = [
        "src/__init__.py",
        "src/world.json",
        "scripts/a.py",
        "scripts/a.yaml",
        "results/a.json",
        "README.md",
    ]
    for name in files:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("1", encoding="utf-8")
    me = ("-c", "user.name=me", "-c", "user.email=me@example.org")
    for arguments in (["init", "-q"], ["add", "."], [*me, "commit", "-q", "-m", "first"]):
        subprocess.run(["git", *arguments], cwd=tmp_path, check=True)
    package = tmp_path / "src"
    head = commit_of(package)
    assert head is not None and re.fullmatch("[0-9a-f]{40}", head)
    dirty = {}
    for name in files:
        (tmp_path / name).write_text("2", encoding="utf-8")
        dirty[name] = commit_of(package) == head + "-dirty"
        (tmp_path / name).write_text("1", encoding="utf-8")
        assert commit_of(package) == head
    assert dirty == dict(zip(files, [True, True, True, True, False, False], strict=True))
    installed = tmp_path / ".venv" / "package"
    installed.mkdir(parents=True)
    (installed / "__init__.py").write_text("", encoding="utf-8")
    assert commit_of(installed) is None  # of a checkout that is not its own


def test_the_result_file_has_its_documented_shape_and_the_metrics_of_the_records(config: RunConfig) -> None:
    seeds = [graded_episodes(4, 8, dis=6), graded_episodes(6, 8, dis=4)]
    rows = [{"method": "Stage I", "dataset": "gsm8k", "metrics": summarise(seeds), "records": ["a", "b"]}]
    path = write_result(dataclasses.replace(config, seeds=[0, 1]), rows, {})
    content = json.loads(path.read_text(encoding="utf-8"))
    assert set(content) == {"config", "commit", "versions", "seeds", "rows"}
    assert content["config"]["evaluation"]["tasks"][0]["split"] == "test"
    assert {*PACKAGES, "python", "device"} == set(content["versions"])
    assert content["versions"]["trl"].startswith("1.16")
    assert content["commit"] is None or len(content["commit"].removesuffix("-dirty")) == 40
    (row,) = content["rows"]
    assert set(row) == {"method", "dataset", "metrics"}
    for metric in row["metrics"].values():
        assert set(metric) == {"mean", "low", "high", "values"} and len(metric["values"]) == 2
        assert metric["low"] <= metric["mean"] <= metric["high"]
        assert metric["mean"] == pytest.approx(statistics.fmean(metric["values"]))
    assert set(COLUMNS) <= set(row["metrics"])
    by_hand = [metrics(found)["delta"] for found in seeds]
    assert row["metrics"]["delta"]["values"] == by_hand == [0.0, 0.25]
    report = (path.parent / "report.md").read_text(encoding="utf-8")
    assert "| Stage I |" in report and "2 seeds" in report and "curves" not in report


@pytest.mark.slow
def test_a_report_that_says_nothing_new_is_not_written_again(config: RunConfig) -> None:
    rows = [{"method": "m", "dataset": "d", "metrics": summarise([graded_episodes(4, 8, dis=6)])}]
    history = {"Stage I": [[{"critic/acc_dis": 0.5}, {"critic/acc_dis": 0.75}]]}
    names = ("report.json", "report.md", "report.html", "curves.png")
    dates = []
    for _ in range(2):
        write_result(config, rows, history)
        dates.append([(config.directory / name).stat().st_mtime_ns for name in names])
    assert dates[0] == dates[1]


def test_curves_are_a_picture_also_for_seeds_of_different_length_and_missing_measures(
    config: RunConfig,
) -> None:
    long = [{"critic/acc_dis": i / 30, "kl": 0.01 * i, "actor/acc_refine": None} for i in range(30)]
    write_result(config, [], {"Stage I": [long, long[:11]], "empty": [[]]})
    assert (config.directory / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_the_table_is_in_percent_and_dashes_what_was_not_measured() -> None:
    one = {"mean": 0.256, "low": 0.2, "high": 0.3, "values": [0.256]}
    two = {"mean": 0.5, "low": 0.4, "high": 0.6, "values": [0.45, 0.55]}
    assert [format_metric(m) for m in (one, two, None)] == ["25.6", "50.0 ± 10.0", "–"]
    shown = [format_metric(m, interval=True) for m in (one, two, None)]
    assert shown == ["25.6 (20.0 to 30.0)", "50.0 ± 10.0", "–"]
    rows = [{"method": "SFT", "dataset": d, "metrics": {"acc": one}} for d in ("gsm8k", "math")]
    lines = markdown_table(rows).split("\n")
    assert lines[0].startswith("| Method | Data set | Acc |")
    assert lines[3] == "| SFT | math | 25.6 |" + " – |" * (len(COLUMNS) - 1)
    assert "Data set" not in markdown_table(rows[:1])


# -- a finished run -----------------------------------------------------------------------------------------


def test_the_report_of_a_run_says_what_ran_where_how_healthy_and_at_what_cost(run: Run) -> None:
    path = write_report(run.folder)
    content = json.loads(path.read_text(encoding="utf-8"))
    assert {"config", "commit", "versions", "seeds", "rows", "health", "costs"} == set(content)
    text, page = (path.with_suffix(end).read_text(encoding="utf-8") for end in (".md", ".html"))
    for heading in ("What ran", "Where", "Health", "Cost", "Differences from the paper", "Configuration"):
        assert f"## {heading}" in text and re.search(f"<h2[^>]*>{heading}", page)
    assert "| Stage I+II | stage2 | critique_rl | stage1 | r_refine + 0.2 r_dis | 60 |" in text
    assert "0 of 16 metrics are outside" in text and content["versions"]["trl"] in text
    assert "| learning_rate | every stage | 5e-07 | 0.0002 |" in text
    assert "| rl_steps | stage1 | 500 | 70 |" in text
    assert "<summary>Show all settings</summary>" in page and "checkpoint_rl_steps: 20" in page


def test_a_run_with_rounds_reports_the_first_and_what_comes_after(run: Run) -> None:
    config = dataclasses.replace(
        run.config,
        evaluation=dataclasses.replace(run.config.evaluation, protocol=ProtocolConfig(rounds=2)),
    )
    again = Run(config)
    for step in again.steps():
        if step.kind == "evaluate":
            first = graded_episodes(3, 8, dis=6)
            second = [
                dataclasses.replace(
                    e, round=1, response_correct=e.refinement_correct, refinement_correct=True
                )
                for e in first
            ]
            lines = [json.dumps(vars(e)) + "\n" for pair in zip(first, second, strict=True) for e in pair]
            (step.directory / "records.jsonl").write_text("".join(lines), encoding="utf-8")
            step._mark(finished=True, seconds=1.0)
    rows = result_rows(again.folder)
    found = {name: m["mean"] for name, m in rows[-1]["metrics"].items()}
    assert (found["acc"], found["acc_refine"], found["acc_dis"]) == (0.5, 3 / 8, 6 / 8)
    assert (found["refinement_at_1"], found["refinement_at_2"]) == (3 / 8, 1.0)


# -- pages ------------------------------------------------------------------------------------------------


def test_a_script_in_a_name_or_a_setting_is_shown_as_text(run: Run, config: RunConfig) -> None:
    rows = [{"method": SCRIPT, "dataset": SCRIPT, "metrics": summarise([graded_episodes(4, 8, dis=6)])}]
    stage = dataclasses.replace(run.config.stages["stage1"], label=SCRIPT)
    planted = dataclasses.replace(config, name=SCRIPT, base=SCRIPT, stages={"stage1": stage})
    path = write_result(planted, [*rows, {**rows[0], "dataset": "other"}], {})
    page = path.with_suffix(".html").read_text(encoding="utf-8")
    harmless(page)
    assert page.count("&lt;script&gt;alert(1)&lt;/script&gt;") >= 5
    before_settings = path.with_suffix(".md").read_text(encoding="utf-8").split("```yaml")[0]
    assert not re.search(r"(?<!\\)<script", before_settings)


def test_the_curves_are_in_the_html_of_a_run(config: RunConfig) -> None:
    path = write_result(config, [], {"Stage I": [[{"critic/acc_dis": 0.5}, {"critic/acc_dis": 0.75}]]})
    page = path.with_suffix(".html").read_text(encoding="utf-8")
    harmless(page)
    assert [tag for tag, _ in Tags(page).found].count("img") == 1 and len(page) > 10_000


# -- curves -----------------------------------------------------------------------------------------------


def test_smoothing_leaves_gaps_in_their_place() -> None:
    nan = float("nan")
    assert _smooth([1.0, nan, 3.0, 5.0], window=3) == pytest.approx([1.0, nan, 4.0, 4.0], nan_ok=True)
    assert _smooth([nan, nan, 2.0, 4.0], window=3) == pytest.approx([nan, nan, 3.0, 3.0], nan_ok=True)
