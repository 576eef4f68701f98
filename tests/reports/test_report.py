"""The result file, its table and its curves; what is shown while a run works."""

from __future__ import annotations

import dataclasses
import io
import json
import math
import re
import shutil
import statistics
import subprocess
from collections.abc import Mapping, Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from safetensors import safe_open
from transformers import TrainerControl, TrainerState, TrainingArguments

from critique_rl.config.data import TaskConfig
from critique_rl.config.evaluation import EvaluationConfig, ProtocolConfig
from critique_rl.config.reading import as_dict
from critique_rl.config.run import RunConfig, load_config
from critique_rl.display import Display, sparkline
from critique_rl.evaluation.episodes import Episode
from critique_rl.evaluation.intervals import t_interval
from critique_rl.evaluation.metrics import metrics
from critique_rl.evaluation.summary import summarise
from critique_rl.markdown import escape
from critique_rl.methods.options import option
from critique_rl.reports.columns import COLUMNS
from critique_rl.reports.costs import costs, parameters
from critique_rl.reports.curves import _smooth
from critique_rl.reports.health import RULES, Finding, check
from critique_rl.reports.markdown import format_metric, markdown_table
from critique_rl.reports.page import html
from critique_rl.reports.provenance import PACKAGES, commit_of
from critique_rl.reports.report import write_report, write_result
from critique_rl.reports.results import result_rows
from critique_rl.reports.settings import CONFIGS, differences_from, paper_config, reward
from critique_rl.runs.folder import shipped_directory
from critique_rl.runs.run import Run
from critique_rl.runs.step import Step
from critique_rl.training.callbacks import DisplayCallback

ROOT = Path(__file__).parents[2]
SCRIPT = "<script>alert(1)</script><img src=x onerror=alert(1)>[a](javascript:alert(1)) | `"


def episodes(right: int, of: int, *, dis: int) -> list[Episode]:
    """The first `right` refinements, every other response and the first `dis` verdicts are right."""
    return [
        Episode(
            id=f"i{i}",
            dataset="toy",
            question="q",
            answer="1",
            kind="number",
            response="y",
            response_correct=i % 2 == 0,
            critique="c",
            verdict="correct" if (i % 2 == 0) == (i < dis) else "wrong",
            refinement="z",
            refinement_correct=i < right,
            tokens=7,
        )
        for i in range(of)
    ]


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


def test_several_seeds_give_their_values_and_a_t_interval_over_them() -> None:
    summary = summarise([episodes(10, 20, dis=20), episodes(12, 20, dis=20), episodes(17, 20, dis=20)])
    refine = summary["acc_refine"]
    assert refine["values"] == [0.5, 0.6, 0.85]
    # mean 0.65; deviations -0.15, -0.05, 0.2; variance (0.0225 + 0.0025 + 0.04) / 2 = 0.0325
    half = 4.303 * math.sqrt(0.0325) / math.sqrt(3)
    assert refine["mean"] == pytest.approx(0.65)
    assert (refine["low"], refine["high"]) == pytest.approx((0.65 - half, 0.65 + half))
    assert (summary["acc_dis"]["low"], summary["acc_dis"]["high"]) == (1.0, 1.0)  # no spread, no width


def test_the_quantiles_of_student_are_those_of_the_tables() -> None:
    known = {1: 12.7062, 4: 2.7764, 10: 2.2281, 11: 2.2010, 15: 2.1314, 29: 2.0452, 120: 1.9799}
    for freedom, quantile in known.items():
        values = [0.0, 1.0] * ((freedom + 1) // 2) + [0.5] * ((freedom + 1) % 2)
        found = t_interval(values)
        spread = statistics.stdev(values) / math.sqrt(len(values))
        assert (found["high"] - found["mean"]) / spread == pytest.approx(quantile, abs=1e-3)


def test_one_seed_gives_a_bootstrap_interval_over_its_problems() -> None:
    found = episodes(30, 100, dis=50)
    refine = summarise([found])["acc_refine"]
    assert refine["values"] == [0.3] and refine["mean"] == 0.3
    # A share of 0.3 over 100 items has standard error sqrt(0.21 / 100) = 0.046, so 95 % is about +- 0.09.
    assert 0.05 < 0.3 - refine["low"] < 0.13 and 0.05 < refine["high"] - 0.3 < 0.13
    assert summarise([found]) == summarise([found])


def test_a_metric_that_one_seed_lacks_is_left_out_and_not_averaged_over_the_others() -> None:
    unparsed = [Episode(**{**vars(e), "verdict": "unparsed"}) for e in episodes(5, 10, dis=5)]
    summary = summarise([episodes(5, 10, dis=5), unparsed])
    assert "acc_dis_parsed" not in summary
    assert summary["parse_rate"]["values"] == [1.0, 0.0]


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
    seeds = [episodes(4, 8, dis=6), episodes(6, 8, dis=4)]
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


def test_a_report_that_says_nothing_new_is_not_written_again(config: RunConfig) -> None:
    rows = [{"method": "m", "dataset": "d", "metrics": summarise([episodes(4, 8, dis=6)])}]
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


def log_of(refines: bool, *, steps: int = 20) -> list[dict[str, Any]]:
    """A log of a healthy training: 128 critiques an RL step of four optimizer steps."""
    return [
        {
            "step": 4 * (i + 1),
            "step_time": 0.5,
            "num_tokens": 1000.0 * (i + 1),
            "completions/mean_length": 20.0,
            "critic/parse_rate": 1.0,
            "critic/acc_dis": 0.5 + 0.02 * i,
            "frac_reward_zero_std": 0.5,
            **({"actor/acc_refine": 0.5 + 0.02 * i, "tokens/actor": 700.0} if refines else {}),
        }
        for i in range(steps)
    ]


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
            log = [*log_of(step.name.endswith("stage2")), {"train_runtime": 36.0}]
            (step.directory / "trainer_state.json").write_text(json.dumps({"log_history": log}))
        step.directory.mkdir(parents=True, exist_ok=True)
        if step.kind == "evaluate":
            lines = [json.dumps(vars(e)) + "\n" for e in episodes(3 + step.name.count("stage"), 8, dis=6)]
            (step.directory / "records.jsonl").write_text("".join(lines), encoding="utf-8")
        step._mark(finished=True, seconds=0.0 if step.kind == "pool" else 7.2)
    return made


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


def test_a_training_that_is_not_healthy_is_named_with_the_reason(run: Run) -> None:
    path = Path(run.folder.model_path("stage2", 1)) / "trainer_state.json"
    log = [row | {"critic/parse_rate": 0.9} for row in log_of(True)]
    path.write_text(json.dumps({"log_history": log}))
    report = write_report(run.folder).with_suffix(".md").read_text(encoding="utf-8")
    assert "1 of 16 metrics are outside" in report
    line = "| Stage I+II | critic/parse_rate | 1 | 0.9 | above 0.95 | critiques without one verdict earn nothing |"
    assert line in report
    cells = ("critic/parse_rate", "1 → 1", "0.9 → 0.9", "above 0.95", "outside (seed 1)")
    assert f"| {' | '.join(cells)} |" in report.replace("\u00a0", " ")


# -- health -----------------------------------------------------------------------------------------------


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


# -- cost -------------------------------------------------------------------------------------------------


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


def test_a_run_with_rounds_reports_the_first_and_what_comes_after(run: Run) -> None:
    config = dataclasses.replace(
        run.config,
        evaluation=dataclasses.replace(run.config.evaluation, protocol=ProtocolConfig(rounds=2)),
    )
    again = Run(config)
    for step in again.steps():
        if step.kind == "evaluate":
            first = episodes(3, 8, dis=6)
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


def test_a_step_adds_up_its_time_over_an_interruption(tmp_path: Path) -> None:
    calls = []

    def work() -> None:
        calls.append(1)
        if len(calls) == 1:
            raise KeyboardInterrupt

    step = Step("s", tmp_path / "s", kind="pool", command="pool", settings={})
    with pytest.raises(KeyboardInterrupt):
        step.execute(work)
    assert not step.finished()
    content = json.loads((tmp_path / "s" / "step.json").read_text(encoding="utf-8"))
    (tmp_path / "s" / "step.json").write_text(json.dumps(content | {"seconds": 5.0}), encoding="utf-8")
    step.execute(work)
    assert step.finished()
    assert 5.0 <= json.loads((tmp_path / "s" / "step.json").read_text(encoding="utf-8"))["seconds"] < 6.0


# -- differences ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["qwen2.5-3b", "qwen2.5-7b", "qwen2.5-vl-7b", "qwen2.5-7b-summarisation"])
def test_the_papers_own_setting_differs_in_nothing(name: str) -> None:
    path = CONFIGS / f"{name}.yaml"
    config = as_dict(load_config(path))
    assert paper_config(config) == path
    assert differences_from(path, config) == []


def test_differences_name_the_stages_and_know_what_a_setting_is_by_default() -> None:
    config = as_dict(load_config(CONFIGS / "tiny.yaml", ["stages.stage2.trainer.beta_1=0.9"]))
    path = paper_config(config)
    assert path == CONFIGS / "qwen2.5-3b.yaml"
    found = {(d.setting, d.stages): (d.paper, d.ours) for d in differences_from(path, config)}
    stages = ("stage1", "stage2", "r_refine_only")
    assert found["warmup_steps", stages] == ("469", "0")  # not set in tiny.yaml
    assert found["gradient_accumulation_steps", stages] == ("2", "1")
    assert found["beta_1", ("stage2",)] == ("0.2", "0.9")
    assert found["rl_steps", ("r_refine_only",)] == ("1000", "130")
    assert found["lengths.critique", ()] == ("1536", "48")
    assert found["train", ()] == ("math (train), gsm8k (train), aqua (train, 7,000)", "modular_chain (train)")
    settings = {setting for setting, _ in found}
    assert not settings & {"use_cpu", "num_iterations", "num_generations", "seeds", "output", "max_grad_norm"}


def test_an_installed_package_has_no_configuration_of_the_paper(tmp_path: Path) -> None:
    assert paper_config(as_dict(load_config(CONFIGS / "tiny.yaml")), tmp_path) is None


@pytest.mark.parametrize(
    ("method", "trainer", "words"),
    [
        ("critique_rl", {}, "r_dis"),
        ("critique_rl", {"signed_dis": True}, "r_dis in {-1, 1}"),
        ("critique_rl", {"refinement_reward": "r_delta", "beta_1": 0.0}, "r_delta"),
        (
            "critique_rl",
            {"refinement_reward": "r_refine", "combination": "gated"},
            "r_refine where the verdict is right, else -1",
        ),
        ("pairwise_critic", {}, "0.9 r_pref + 0.1 r_format"),
        ("mixed", {"alpha": 0.5}, "0.5 (r_pref or r_oracle) + 0.5 r_format"),
        ("star", {}, "–"),
    ],
)
def test_the_reward_in_the_papers_terms(method: str, trainer: Mapping[str, Any], words: str) -> None:
    assert reward({"method": method, "trainer": trainer}) == words


# -- pages ------------------------------------------------------------------------------------------------


class Tags(HTMLParser):
    """All tags of a page with their attributes, and its text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.data: list[str] = []
        self.feed(page)

    def handle_data(self, data: str) -> None:
        self.data.append(data)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


def harmless(page: str) -> None:
    """No script, no handler, and nothing that is loaded from elsewhere."""
    for tag, attributes in Tags(page).found:
        assert tag not in ("script", "iframe", "object", "embed", "link", "form"), tag
        assert not [name for name in attributes if name.startswith("on")], attributes
        assert str(attributes.get("src", "data:image/png;base64,")).startswith("data:image/png;base64,")
        assert not str(attributes.get("href", "")).startswith("javascript:")
    assert "default-src 'none'" in page


def test_a_script_in_a_name_or_a_setting_is_shown_as_text(run: Run, config: RunConfig) -> None:
    rows = [{"method": SCRIPT, "dataset": SCRIPT, "metrics": summarise([episodes(4, 8, dis=6)])}]
    stage = dataclasses.replace(run.config.stages["stage1"], label=SCRIPT)
    planted = dataclasses.replace(config, name=SCRIPT, base=SCRIPT, stages={"stage1": stage})
    path = write_result(planted, [*rows, {**rows[0], "dataset": "other"}], {})
    page = path.with_suffix(".html").read_text(encoding="utf-8")
    harmless(page)
    assert page.count("&lt;script&gt;alert(1)&lt;/script&gt;") >= 5
    before_settings = path.with_suffix(".md").read_text(encoding="utf-8").split("```yaml")[0]
    assert not re.search(r"(?<!\\)<script", before_settings)


def test_html_that_was_not_escaped_is_text_all_the_same() -> None:
    page = html(f"{SCRIPT}\n\n<script>alert(2)</script>\n", SCRIPT, {})
    harmless(page)
    assert "&lt;script&gt;alert(2)&lt;/script&gt;" in page and "<title>&lt;script&gt;" in page


def test_pictures_are_inside_the_page_and_others_are_not_read(tmp_path: Path) -> None:
    (tmp_path / "secret.png").write_bytes(b"secret")
    text = "![a](curves.png)\n\n![b](secret.png)\n\n![c](https://example.org/x.png)"
    page = html(text, "t", {"curves.png": b"\x89PNG"})
    harmless(page)
    sources = [a["src"] for tag, a in Tags(page).found if tag == "img"]
    assert sources == ["data:image/png;base64,iVBORw==", *["data:image/png;base64,"] * 2]


def test_the_curves_are_in_the_html_of_a_run(config: RunConfig) -> None:
    path = write_result(config, [], {"Stage I": [[{"critic/acc_dis": 0.5}, {"critic/acc_dis": 0.75}]]})
    page = path.with_suffix(".html").read_text(encoding="utf-8")
    harmless(page)
    assert [tag for tag, _ in Tags(page).found].count("img") == 1 and len(page) > 10_000


def test_escaped_text_is_that_text_again() -> None:
    text = f"{SCRIPT} *a* ~~b~~ &lt; \\ _c d_e"
    page = Tags(html(escape(text), "t", {}))
    assert "".join(page.data).strip().endswith(text)


# -- display ----------------------------------------------------------------------------------------------


def display(*, terminal: bool, width: int = 80) -> tuple[Display, io.StringIO]:
    stream = io.StringIO()
    shown = Display()
    shown.console = Console(file=stream, force_terminal=terminal, width=width, highlight=False)
    return shown, stream


def test_a_log_file_gets_at_most_eleven_lines_of_progress_a_step() -> None:
    shown, stream = display(terminal=False)
    with shown.step("seed0/stage1", 2, 9):
        for done in range(1, 501):
            shown.advance(done, 500, "Acc@Dis 50 (right 50, wrong 50)  Acc@Refine 40  KL 0.012  " + "▁" * 24)
    lines = stream.getvalue().splitlines()
    assert lines[0] == "[2/9] seed0/stage1" and lines[-1].startswith("[2/9] seed0/stage1: done in")
    assert 10 <= len(lines) - 2 <= 11  # none of them broken in two
    assert lines[-2].startswith("    500/500  Acc@Dis 50")


def test_a_step_that_fails_is_not_shown_as_done_and_leaves_no_bar_behind() -> None:
    for terminal in (False, True):
        shown, stream = display(terminal=terminal)
        with pytest.raises(RuntimeError), shown.step("sft", 1, 2):
            raise RuntimeError
        assert "done in" not in stream.getvalue()
        shown.advance(1, 1)  # would raise if the closed bar were still in use


def test_quiet_shows_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    quiet = Display(quiet=True)
    with quiet.step("pool", 1, 1):
        quiet.advance(1, 2)
        quiet.note("x")
    assert capsys.readouterr() == ("", "")


def test_the_callback_shows_rl_steps_and_the_stages_own_measure(tmp_path: Path) -> None:
    shown, stream = display(terminal=False)
    callback = DisplayCallback(shown, block=4)
    state = TrainerState(global_step=8, max_steps=40, is_world_process_zero=True)
    args, control = TrainingArguments(output_dir=str(tmp_path), report_to="none"), TrainerControl()
    state.log_history = [{"loss": 1.0}]
    callback.on_log(args, state, control)
    assert stream.getvalue() == ""
    state.log_history = [
        {"reward": 0.5, "critic/acc_dis": 0.5, "kl": 0.0},
        {"reward": 0.6, "critic/acc_dis": 0.625, "kl": 0.25},
    ]
    callback.on_log(args, state, control)
    assert stream.getvalue() == "    2/10  Acc@Dis 62 (right -, wrong -)  KL 0.250  ▁█\n"
    shown, stream = display(terminal=False)
    callback = DisplayCallback(shown, block=4)
    logged = {"reward": 0.1, "critic/parse_rate": 0.5, "critic/mae_dis": 1.5, "actor/rating_refine": 7.25}
    state.log_history = [logged]
    callback.on_log(args, state, control)
    assert "MAE@Dis 1.50 (parsed 50)  rating of refinements 7.25  KL 0.000" in stream.getvalue()


def test_a_sparkline_spans_its_own_range() -> None:
    assert sparkline([]) == ""
    assert sparkline([0.3, 0.3]) == "▁▁"
    assert sparkline([0.0, 0.5, 1.0]) == "▁▅█"
    assert len(sparkline(list(range(500)))) <= 24


def test_smoothing_leaves_gaps_in_their_place() -> None:
    nan = float("nan")
    assert _smooth([1.0, nan, 3.0, 5.0], window=3) == pytest.approx([1.0, nan, 4.0, 4.0], nan_ok=True)
    assert _smooth([nan, nan, 2.0, 4.0], window=3) == pytest.approx([nan, nan, 3.0, 3.0], nan_ok=True)
