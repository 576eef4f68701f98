"""Policy benchmarks: the list adds up to the paper's, the command, the reader of results, the real package."""

from __future__ import annotations

import copy
import importlib.metadata
import json
import sys
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from critique_rl.benchmarks.policy import command
from critique_rl.benchmarks.policy_boxes import boxed_answer, unpack_boxes
from critique_rl.benchmarks.policy_catalogue import (
    BENCHMARKS,
    CATEGORIES,
    CHART,
    CHECKED_VERSION,
    HEADLINE,
    PERCEPTION,
    POLICY,
    REASONING,
    REWARD,
    VIDEO,
    weight,
)
from critique_rl.benchmarks.policy_results import averages, read_results
from critique_rl.prompts import THINK_SUFFIX
from critique_rl.types import UserError

WITHOUT_TASK = ("MMHal-Bench", "ZeroBench-sub", "VL-RewardBench", "MM-RLHF-RewardBench")


def tasks_of(name: str) -> tuple[str, ...]:
    benchmark = BENCHMARKS[name]
    return benchmark.parts or (benchmark.task,) if benchmark.task else ()


# --- the list -------------------------------------------------------------------------------------------


def test_the_list_is_the_papers() -> None:
    counts = Counter(b.category for b in BENCHMARKS.values())
    assert [counts[c] for c in CATEGORIES] == [7, 9, 4, 2, 2, 2]
    assert (len(BENCHMARKS), len(HEADLINE), len(POLICY)) == (26, 24, 22)
    assert sum(map(weight, BENCHMARKS)) == pytest.approx(1)
    assert {weight(name) for name in HEADLINE} == {1 / 24} and weight("Agent 1") == 0
    with pytest.raises(UserError, match="Did you mean 'ChartQA'"):
        weight("ChartQa")


def test_the_category_averages_give_the_papers_overall_ones() -> None:
    """Figure 1 gives the averages of LLaVA-Critic-R1 by category; the overall 57.38 is quoted from its table."""
    figure = {PERCEPTION: 60.7, REASONING: 45.8, CHART: 74.5, VIDEO: 53.2, REWARD: 68.1}
    found = averages({name: figure[BENCHMARKS[name].category] / 100 for name in HEADLINE})
    assert found["headline"] == pytest.approx(0.5738, abs=0.0005)
    assert found["policy"] == pytest.approx(0.5643, abs=0.0005)
    assert found["categories"] == {c: pytest.approx(v / 100) for c, v in figure.items()}
    assert found["left_out"] == []


def test_each_benchmark_has_a_task_with_a_metric_or_a_reason() -> None:
    for benchmark in BENCHMARKS.values():
        assert bool(benchmark.task) == bool(benchmark.metric)
        assert benchmark.task or benchmark.note
    assert tuple(b.name for b in BENCHMARKS.values() if b.headline and not b.task) == WITHOUT_TASK
    named = [task for name in BENCHMARKS for task in tasks_of(name)]
    assert len(set(named)) == len(named) == 19 + 3  # VideoMMMU has three parts


# --- the command ----------------------------------------------------------------------------------------


def test_the_command_of_a_thinking_policy() -> None:
    found = command(
        "runs/a/model", "out", benchmarks=["MMMU", "V*"], model_args={"max_pixels": 4096}, processes=8
    )
    assert found == [
        *(sys.executable, "-m", "accelerate.commands.launch", "--num_processes", "8"),
        *("-m", "critique_rl.policy_benchmarks", "--model", "qwen2_5_vl", "--model_args"),
        rf"pretrained=runs/a/model,max_pixels=4096,reasoning_prompt=\n\n{THINK_SUFFIX}",
        *("--tasks", "mmmu_val,vstar_bench", "--batch_size", "1"),
        *("--gen_kwargs", "max_new_tokens=2048,temperature=0", "--log_samples", "--output_path", "out"),
        "--force_simple",
    ]


def test_the_command_of_a_policy_that_answers_at_once() -> None:
    found = command("m", "out", thinking=False, model="llama_vision", max_new_tokens=64, limit=5)
    assert "lmms_eval" in found and "--force_simple" not in found
    assert found[found.index("--model_args") + 1] == "pretrained=m"
    assert found[-2:] == ["--limit", "5"]
    named = found[found.index("--tasks") + 1].split(",")
    assert named == [b.task for b in BENCHMARKS.values() if b.task] and len(named) == 20


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"benchmarks": ["MMHal-Bench", "MMMU"]},
            r"no task of lmms-eval for: MMHal-Bench \(no task in lmms-eval",
        ),
        ({"benchmarks": []}, "empty list"),
        ({"benchmarks": ["Mmmu"]}, "no benchmark 'Mmmu'"),
        ({"model": "llama_vision"}, "thinking=False"),
        ({"checkpoint": "a,b"}, "pretrained='a,b' cannot be passed"),
        ({"model_args": {"system_prompt": "Don't"}}, "system_prompt"),
        ({"model_args": {"x": "{"}}, "x='{'"),
    ],
)
def test_commands_that_lmms_eval_would_misread(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        command(**({"checkpoint": "m", "output": "out"} | settings))


@pytest.mark.parametrize(
    ("reply", "answer"),
    [
        (r"<think>A. or B.</think> \boxed{B}", "B"),
        (r"<think>\boxed{A}</think> It is \boxed{\text{B}}.", "B"),
        (r"<think>x</think> \boxed{\frac{1}{2}}", r"\frac{1}{2}"),
        (r"<think>x</think> \boxed{1}, no \boxed{ 2 }", "2"),
        (r"<think>x</think> \boxed{2", r"\boxed{2"),
        (r"<think>\boxed{A}</think> B", "B"),
        (r"<think>cut off \boxed{A}", r"<think>cut off \boxed{A}"),
        ("the cat", "the cat"),
        ("", ""),
    ],
)
def test_what_the_scorers_are_given(reply: str, answer: str) -> None:
    assert boxed_answer(reply) == answer


# --- results --------------------------------------------------------------------------------------------


def results() -> dict[str, Any]:
    """A results file in the form of lmms-eval 0.7.3, with 0.5 for every benchmark."""
    content: dict[str, Any] = {
        "results": {},
        "n-samples": {},
        "group_subtasks": {"blink": ["blink_counting"]},
    }
    for name in BENCHMARKS:
        for task in tasks_of(name):
            value = 50.0 if BENCHMARKS[name].percent else 0.5
            key = f"{BENCHMARKS[name].metric},{'flexible-extract' if name == 'AI2D' else 'none'}"
            stderr = key.replace(",", "_stderr,")
            content["results"][task] = {"alias": task, key: value, stderr: "N/A", "submission,none": None}
            content["n-samples"][task] = {"original": 100, "effective": 100}
    content["results"]["video_mmmu"] = {" ": " ", "alias": "video_mmmu"}
    content["results"]["some_other_task"] = {"exact_match,none": 0.1}
    return content


def write(folder: Path, content: Any, name: str = "20260101_000000_results.json") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(content if isinstance(content, str) else json.dumps(content), "utf-8")
    return folder / name


def test_results_are_read_in_one_unit(tmp_path: Path) -> None:
    content = results()
    for task, value in zip(BENCHMARKS["VideoMMMU"].parts, (0.1, 0.2, 0.6), strict=True):
        content["results"][task]["mmmu_acc,none"] = value
    content["results"]["mathvision_testmini"]["mathvision_standard_eval,none"] = 31.5
    path = write(tmp_path / "out" / "model", content)
    scores = read_results(path)
    assert scores == read_results(tmp_path / "out")  # the folder that the command names
    assert list(scores) == [b.name for b in BENCHMARKS.values() if b.task]
    assert scores.pop("VideoMMMU") == pytest.approx(0.3) and scores.pop("MathVision") == pytest.approx(0.315)
    assert set(scores.values()) == {0.5}


def test_averages_refuse_what_is_missing_by_name(tmp_path: Path) -> None:
    content = results()
    del content["results"]["chartqa"]
    scores = read_results(write(tmp_path, content))
    with pytest.raises(
        UserError, match=r"no score of 5 of 24 .*MMHal-Bench \(no task.*ChartQA \(task chartqa\)"
    ):
        averages(scores)
    further = {"VL-RewardBench": 0.7, "MM-RLHF-RewardBench": 0.9}
    left_out = ["MMHal-Bench", "ZeroBench-sub", "ChartQA"]
    found = averages(scores | further, leave_out=left_out)
    assert found["left_out"] == left_out
    assert found["categories"] == {
        PERCEPTION: 0.5,
        REASONING: 0.5,
        CHART: 0.5,
        VIDEO: 0.5,
        REWARD: pytest.approx(0.8),
    }
    assert found["policy"] == 0.5 and found["headline"] == pytest.approx((19 * 0.5 + 0.7 + 0.9) / 21)
    policy_only = averages(scores, leave_out=[*left_out, *further])
    assert policy_only["headline"] is None and REWARD not in policy_only["categories"]
    with pytest.raises(UserError, match="both given and left out: MMMU"):
        averages(scores, leave_out=["MMMU"])
    with pytest.raises(UserError, match="no benchmark 'mmmu'"):
        averages({"mmmu": 0.5})


def edited(*path: str, value: Any) -> dict[str, Any]:
    content = copy.deepcopy(results())
    inner = content
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    return content


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "broken JSON"),
        ({"scores": {}}, "no object 'results'"),
        (
            edited("results", "mmmu_val", value={"other,none": 1}),
            "mmmu_val has 0 values of mmmu_acc.*other,none",
        ),
        (edited("results", "mmmu_val", "mmmu_acc,strict", value=0.5), "mmmu_val has 2 values of mmmu_acc"),
        (
            edited("results", "mmmu_val", "mmmu_acc,none", value=None),
            "has None as mmmu_acc,none, expected a number",
        ),
        (edited("results", "mmmu_val", "mmmu_acc,none", value=float("nan")), "expected a number"),
        (
            edited("results", "mmmu_val", "mmmu_acc,none", value=53.1),
            "MMMU is 53.1, which is no share in fractions",
        ),
        (
            edited("n-samples", "mmmu_val", value={"original": 900, "effective": 8}),
            "mmmu_val was measured on 8 of 900",
        ),
        (
            edited("n-samples", "blink_counting", value={"original": 9, "effective": 8}),
            "blink_counting was measured",
        ),
    ],
)
def test_results_that_cannot_be_trusted(tmp_path: Path, content: Any, message: str) -> None:
    path = write(tmp_path, content)
    with pytest.raises(UserError, match=message):
        read_results(path)


def test_results_that_are_not_there_or_twice(tmp_path: Path) -> None:
    for nothing in (tmp_path, tmp_path / "x.json"):
        with pytest.raises(UserError, match="no results file"):
            read_results(nothing)
    with pytest.raises(UserError, match="give a results file"):
        read_results()
    content = results()
    del content["results"]["video_mmmu_adaptation"]
    with pytest.raises(UserError, match="VideoMMMU lacks video_mmmu_adaptation"):
        read_results(write(tmp_path / "part", content))
    for name in ("1_results.json", "2_results.json"):
        write(tmp_path / "two", results(), name)
    with pytest.raises(UserError, match=r"BLINK is both in .*1_results.json and in .*2_results.json"):
        read_results(tmp_path / "two")


# --- the real package -------------------------------------------------------------------------------------


def test_the_names_are_in_the_registry() -> None:
    tasks = pytest.importorskip("lmms_eval.tasks")
    index = tasks.TaskManager().task_index
    named = [task for b in BENCHMARKS.values() if b.task for task in (b.task, *b.parts)]
    missing = [task for task in named if task not in index]
    version = importlib.metadata.version("lmms_eval")
    assert not missing, f"lmms-eval {version} lacks them, the list was checked against {CHECKED_VERSION}"


def test_the_arguments_arrive_whole() -> None:
    utils = pytest.importorskip("lmms_eval.utils")
    found = command("a/b", "out", model_args={"max_pixels": 4096})
    arguments = utils.simple_parse_args_string(found[found.index("--model_args") + 1])
    suffix = arguments.pop("reasoning_prompt").replace("\\n", "\n")  # as its model classes do
    assert arguments == {"pretrained": "a/b", "max_pixels": 4096} and suffix == f"\n\n{THINK_SUFFIX}"


def test_filters_are_given_the_box_and_logs_the_whole_reply(monkeypatch: pytest.MonkeyPatch) -> None:
    module = pytest.importorskip("lmms_eval.api.filter")
    filters = pytest.importorskip("lmms_eval.filters")
    monkeypatch.setattr(module.FilterEnsemble, "apply", module.FilterEnsemble.apply)  # put back afterwards
    unpack_boxes()
    ensemble = filters.build_filter_ensemble("none", [["take_first", None]])
    reply = r"<think>A. or B.</think> \boxed{B}"
    instance = SimpleNamespace(resps=[reply], filtered_resps={})
    for _ in range(2):
        ensemble.apply([instance], None)
        assert (instance.filtered_resps, instance.resps) == ({"none": "B"}, [reply])
    assert len(ensemble.filters) == 2
