"""The result file, its table and its curves; what is shown while a run works."""

from __future__ import annotations

import dataclasses
import io
import json
import math
import statistics
from pathlib import Path

import pytest
from rich.console import Console
from transformers import TrainerControl, TrainerState, TrainingArguments

from critique_rl.callbacks import DisplayCallback
from critique_rl.config import EvaluationConfig, RunConfig, TaskConfig
from critique_rl.display import Display, sparkline
from critique_rl.evaluation import Episode
from critique_rl.metrics import metrics
from critique_rl.report import (
    COLUMNS,
    PACKAGES,
    _smooth,
    format_metric,
    markdown_table,
    summarise,
    write_report,
)


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


def test_the_result_file_has_its_documented_shape_and_the_metrics_of_the_records(config: RunConfig) -> None:
    seeds = [episodes(4, 8, dis=6), episodes(6, 8, dis=4)]
    rows = [{"method": "Stage I", "dataset": "gsm8k", "metrics": summarise(seeds), "records": ["a", "b"]}]
    path = write_report(dataclasses.replace(config, seeds=[0, 1]), rows, {})
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
    names = ("report.json", "report.md", "curves.png")
    dates = []
    for _ in range(2):
        write_report(config, rows, history)
        dates.append([(config.directory / name).stat().st_mtime_ns for name in names])
    assert dates[0] == dates[1]


def test_curves_are_a_picture_also_for_seeds_of_different_length_and_missing_measures(
    config: RunConfig,
) -> None:
    long = [{"critic/acc_dis": i / 30, "kl": 0.01 * i, "actor/acc_refine": None} for i in range(30)]
    write_report(config, [], {"Stage I": [long, long[:11]], "empty": [[]]})
    assert (config.directory / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_the_table_is_in_percent_and_dashes_what_was_not_measured() -> None:
    one = {"mean": 0.256, "low": 0.2, "high": 0.3, "values": [0.256]}
    two = {"mean": 0.5, "low": 0.4, "high": 0.6, "values": [0.45, 0.55]}
    assert [format_metric(m) for m in (one, two, None)] == ["25.6", "50.0 ± 10.0", "–"]
    rows = [{"method": "SFT", "dataset": d, "metrics": {"acc": one}} for d in ("gsm8k", "math")]
    lines = markdown_table(rows).split("\n")
    assert lines[0].startswith("| Method | Data set | Acc |")
    assert lines[3] == "| SFT | math | 25.6 |" + " – |" * (len(COLUMNS) - 1)
    assert "Data set" not in markdown_table(rows[:1])


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
        {"critic/parse_rate": 1.0, "critic/acc_dis": 0.5, "kl": 0.0},
        {"critic/parse_rate": 1.0, "critic/acc_dis": 0.625, "kl": 0.25},
    ]
    callback.on_log(args, state, control)
    assert stream.getvalue() == "    2/10  Acc@Dis 62 (right -, wrong -)  KL 0.250  ▁█\n"
    shown, stream = display(terminal=False)
    callback = DisplayCallback(shown, block=4)
    state.log_history = [{"critic/parse_rate": 0.5, "critic/mae_dis": 1.5, "actor/rating_refine": 7.25}]
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
