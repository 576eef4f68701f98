"""Results files of lmms-eval, read and averaged as the paper does."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from critique_rl.benchmarks.policy_catalogue import (
    BENCHMARKS,
    CATEGORIES,
    CHECKED_VERSION,
    HEADLINE,
    REWARD,
    Benchmark,
    find_benchmark,
)
from critique_rl.types import UserError


def read_results(*files: str | Path) -> dict[str, float]:
    """Scores of the paper's benchmarks from results files of lmms-eval, as fractions of 1.

    Args:
        files: Files `..._results.json`, or folders that are searched for them. Tasks that are not in the paper
            are ignored.

    Raises:
        UserError: There is no file, a file is not a results file, two files measure the same benchmark, or a
            benchmark was measured on a part of its questions or has no number for its metric.
    """
    scores: dict[str, float] = {}
    sources: dict[str, Path] = {}
    for path in _files(files):
        content = _content(path)
        for benchmark in BENCHMARKS.values():
            tasks = benchmark.parts or ((benchmark.task,) if benchmark.task else ())
            missing = [task for task in tasks if task not in content["results"]]
            if len(missing) == len(tasks):
                continue
            if benchmark.name in scores:
                raise UserError(
                    f"{benchmark.name} is both in {sources[benchmark.name]} and in {path}: give the results of "
                    "one evaluation of one checkpoint."
                )
            if missing:
                raise UserError(f"{path}: {benchmark.name} lacks {', '.join(missing)}.")
            _check_whole(path, benchmark, content)
            values = [_number(path, benchmark, task, content["results"][task]) for task in tasks]
            scores[benchmark.name] = fmean(values) / (100 if benchmark.percent else 1)
            sources[benchmark.name] = path
            if not 0 <= scores[benchmark.name] <= 1:
                raise UserError(
                    f"{path}: {benchmark.name} is {fmean(values)}, which is no share in "
                    f"{'percent' if benchmark.percent else 'fractions of 1'}; the units were checked against "
                    f"lmms-eval {CHECKED_VERSION}."
                )
    return scores


def _files(places: Sequence[str | Path]) -> list[Path]:
    files: list[Path] = []
    for path in map(Path, places):
        inside = sorted(path.rglob("*_results.json")) if path.is_dir() else [path]
        if not inside or not inside[0].exists():
            raise UserError(f"{path}: no results file of lmms-eval (..._results.json) there.")
        files += inside
    if not files:
        raise UserError("give a results file of lmms-eval, or the folder of one.")
    return files


def _content(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise UserError(f"{path}: broken JSON, {error}") from error
    results = content.get("results") if isinstance(content, dict) else None
    if not isinstance(results, dict) or not all(isinstance(task, dict) for task in results.values()):
        raise UserError(f"{path}: no object 'results' with an object for each task, as lmms-eval writes it.")
    return dict(content)


def _check_whole(path: Path, benchmark: Benchmark, content: Mapping[str, Any]) -> None:
    counts: Mapping[str, Any] = content.get("n-samples") or {}
    inside: Mapping[str, Sequence[str]] = content.get("group_subtasks") or {}
    task = benchmark.task or ""
    tasks: Sequence[str] = benchmark.parts or inside.get(task) or (task,)
    for task in tasks:
        questions = counts.get(task)
        if questions is not None and questions["effective"] < questions["original"]:
            raise UserError(
                f"{path}: {task} was measured on {questions['effective']} of {questions['original']} questions: "
                "run it without --limit."
            )


def _number(path: Path, benchmark: Benchmark, task: str, metrics: Mapping[str, Any]) -> float:
    values = {key: value for key, value in metrics.items() if key.split(",")[0] == benchmark.metric}
    if len(values) != 1:
        known = ", ".join(key for key in metrics if "," in key and "_stderr" not in key) or "none"
        raise UserError(
            f"{path}: task {task} has {len(values)} values of {benchmark.metric}, expected one; metrics found: "
            f"{known}. Names were checked against lmms-eval {CHECKED_VERSION}."
        )
    ((key, value),) = values.items()
    if isinstance(value, bool) or not isinstance(value, int | float) or value != value:
        raise UserError(f"{path}: task {task} has {value!r} as {key}, expected a number: its scoring failed.")
    return float(value)


def averages(scores: Mapping[str, float], *, leave_out: Collection[str] = ()) -> dict[str, Any]:
    """The paper's category averages and its overall ones: plain means over benchmarks.

    Args:
        scores: Fractions of 1 by name of the benchmark: the result of `read_results`, and from other sources the
            benchmarks without a task (`reward_benchmarks` measures both reward benchmarks).
        leave_out: Benchmarks of the headline average to leave out on purpose. They are named in the result, and
            an average without them is not the paper's.

    Returns:
        `categories`: averages by name in the paper's order, without categories that have no benchmark left;
        `policy`: average over the 22 benchmarks of the policy; `headline`: average over all 24, None without any
        policy benchmark or without any reward benchmark; `left_out`: names.

    Raises:
        UserError: A benchmark of the headline average has no score and is not left out, or a name is unknown.
    """
    for name in (*scores, *leave_out):
        find_benchmark(name)
    both = sorted(set(scores) & set(leave_out))
    if both:
        raise UserError(
            f"both given and left out: {', '.join(both)}; remove the score or the name in leave_out."
        )
    missing = [BENCHMARKS[name] for name in HEADLINE if name not in scores and name not in leave_out]
    if missing:
        reasons = "; ".join(f"{b.name} ({f'task {b.task}' if b.task else b.note})" for b in missing)
        raise UserError(f"no score of {len(missing)} of {len(HEADLINE)} benchmarks: {reasons}")
    used = [BENCHMARKS[name] for name in HEADLINE if name in scores]
    categories = {
        category: fmean(scores[b.name] for b in used if b.category == category)
        for category in CATEGORIES
        if any(b.category == category for b in used)
    }
    policy = [scores[b.name] for b in used if b.category != REWARD]
    complete = bool(policy) and REWARD in categories
    return {
        "categories": categories,
        "policy": fmean(policy) if policy else None,
        "headline": fmean(scores[b.name] for b in used) if complete else None,
        "left_out": [name for name in HEADLINE if name in leave_out],
    }
