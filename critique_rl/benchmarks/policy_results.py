"""TODO docstring."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
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
    _benchmark,
)
from critique_rl.types import UserError

_BOX = r"\boxed{"

_FONT = re.compile(r"\\(?:text|textbf|mathrm|mathbf)\{([^{}]*)\}")


def boxed_answer(reply: str) -> str:
    """What stands in the last box after the thought, without a font around it.

    A reply without a box is left without its thought, one whose thought does not end is left as it is.

    >>> boxed_answer(r"<think>A or B?</think> So \\boxed{\\text{B}}."), boxed_answer("<think>1, 2</think> Two.")
    ('B', 'Two.')
    """
    thought, _, answer = reply.rpartition("</think>")
    if not thought and "<think>" in answer:
        return reply
    start = answer.rfind(_BOX) + len(_BOX)
    if start < len(_BOX):
        return answer.strip()
    depth = 1
    for end in range(start, len(answer)):
        depth += {"{": 1, "}": -1}.get(answer[end], 0)
        if depth == 0:
            content = answer[start:end].strip()
            font = _FONT.fullmatch(content)
            return font[1].strip() if font else content
    return answer.strip()


class _Boxed:
    """A filter of lmms-eval that stands before a task's own ones."""

    def apply(self, resps: Iterable[Iterable[Any]], docs: Any) -> list[list[Any]]:
        return [[boxed_answer(r) if isinstance(r, str) else r for r in of] for of in resps]


def unpack_boxes() -> None:
    """Have lmms-eval, in this process, give its filters and scorers what `boxed_answer` finds.

    The named override of this module: lmms-eval has no option for a filter that holds for all tasks.
    """
    from lmms_eval.api.filter import FilterEnsemble

    original = FilterEnsemble.apply

    def apply(self: Any, instances: Any, docs: Any) -> None:
        if not any(isinstance(f, _Boxed) for f in self.filters):
            self.filters = [_Boxed(), *self.filters]
        original(self, instances, docs)

    FilterEnsemble.apply = apply


def main() -> None:
    """Run lmms-eval with its own arguments, and `unpack_boxes`."""
    from lmms_eval.__main__ import cli_evaluate

    unpack_boxes()
    cli_evaluate()


def read_results(*files: str | Path) -> dict[str, float]:
    """Scores of the paper's benchmarks from results files of lmms-eval, as fractions of 1.

    Args:
        files: Files `..._results.json`, or folders in which each such file is read. Tasks that are none of the
            paper's are passed over.

    Raises:
        UserError: There is no file, one is not a results file, two measure the same benchmark, a benchmark was
            measured on a part of its questions, or has no number for its metric.
    """
    scores: dict[str, float] = {}
    place: dict[str, Path] = {}
    for path in _files(files):
        content = _content(path)
        for benchmark in BENCHMARKS.values():
            tasks = benchmark.parts or ((benchmark.task,) if benchmark.task else ())
            found = [task for task in tasks if task in content["results"]]
            if not found:
                continue
            if benchmark.name in scores:
                raise UserError(
                    f"{benchmark.name} is both in {place[benchmark.name]} and in {path}: give the results of "
                    "one evaluation of one checkpoint."
                )
            if len(found) < len(tasks):
                missing = ", ".join(task for task in tasks if task not in found)
                raise UserError(f"{path}: {benchmark.name} lacks {missing}.")
            _check_whole(path, benchmark, content)
            values = [_number(path, benchmark, task, content["results"][task]) for task in tasks]
            scores[benchmark.name] = fmean(values) / (100 if benchmark.percent else 1)
            place[benchmark.name] = path
            if not 0 <= scores[benchmark.name] <= 1:
                raise UserError(
                    f"{path}: {benchmark.name} is {fmean(values)}, which is no share in "
                    f"{'percent' if benchmark.percent else 'fractions of 1'}; the units were checked against "
                    f"lmms-eval {CHECKED_VERSION}."
                )
    return scores


def _files(given: Sequence[str | Path]) -> list[Path]:
    found: list[Path] = []
    for path in map(Path, given):
        inside = sorted(path.rglob("*_results.json")) if path.is_dir() else [path]
        if not inside or not inside[0].exists():
            raise UserError(f"{path}: no results file of lmms-eval (..._results.json) there.")
        found += inside
    if not found:
        raise UserError("give a results file of lmms-eval, or the folder of one.")
    return found


def _content(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise UserError(f"{path}: broken JSON, {error}") from error
    results = content.get("results") if isinstance(content, dict) else None
    if not isinstance(results, dict) or not all(isinstance(of, dict) for of in results.values()):
        raise UserError(f"{path}: no object 'results' with an object for each task, as lmms-eval writes it.")
    return dict(content)


def _check_whole(path: Path, benchmark: Benchmark, content: Mapping[str, Any]) -> None:
    counts: Mapping[str, Any] = content.get("n-samples") or {}
    inside: Mapping[str, Sequence[str]] = content.get("group_subtasks") or {}
    task = benchmark.task or ""
    tasks: Sequence[str] = benchmark.parts or inside.get(task) or (task,)
    for task in tasks:
        of = counts.get(task)
        if of is not None and of["effective"] < of["original"]:
            raise UserError(
                f"{path}: {task} was measured on {of['effective']} of {of['original']} questions: run it "
                "without --limit."
            )


def _number(path: Path, benchmark: Benchmark, task: str, of: Mapping[str, Any]) -> float:
    found = {key: value for key, value in of.items() if key.split(",")[0] == benchmark.metric}
    if len(found) != 1:
        known = ", ".join(key for key in of if "," in key and "_stderr" not in key) or "none"
        raise UserError(
            f"{path}: task {task} has {len(found)} values of {benchmark.metric}, expected one; metrics found: "
            f"{known}. Names were checked against lmms-eval {CHECKED_VERSION}."
        )
    ((key, value),) = found.items()
    if isinstance(value, bool) or not isinstance(value, int | float) or value != value:
        raise UserError(f"{path}: task {task} has {value!r} as {key}, expected a number: its scoring failed.")
    return float(value)


def averages(scores: Mapping[str, float], *, leave_out: Collection[str] = ()) -> dict[str, Any]:
    """The paper's category averages and its overall ones: plain means over benchmarks.

    Args:
        scores: By name of the benchmark, as fractions of 1: what `read_results` gives, and from elsewhere the
            benchmarks without a task: the mean of both reward benchmarks from `reward_benchmarks`.
        leave_out: Benchmarks of the headline average that are left out knowingly. They are named in the result,
            and an average without them is not the paper's.

    Returns:
        `categories`, averages by name in the paper's order, those alone that have a benchmark left; `policy`
        over the 22 that measure the policy; `headline` over all 24, None if all of one of both kinds is left
        out; `left_out`, names.

    Raises:
        UserError: A benchmark of the headline average is neither there nor left out, or an unknown one is given.
    """
    for name in (*scores, *leave_out):
        _benchmark(name)
    both = sorted(set(scores) & set(leave_out))
    if both:
        raise UserError(f"both given and left out: {', '.join(both)}.")
    missing = [name for name in HEADLINE if name not in scores and name not in leave_out]
    if missing:
        said = "; ".join(_how(BENCHMARKS[name]) for name in missing)
        raise UserError(f"no score of {len(missing)} of {len(HEADLINE)} benchmarks: {said}")
    used = [BENCHMARKS[name] for name in HEADLINE if name in scores]
    categories = {
        category: fmean(scores[b.name] for b in used if b.category == category)
        for category in CATEGORIES
        if any(b.category == category for b in used)
    }
    policy = [scores[b.name] for b in used if b.category != REWARD]
    whole = bool(policy) and REWARD in categories
    return {
        "categories": categories,
        "policy": fmean(policy) if policy else None,
        "headline": fmean(scores[b.name] for b in used) if whole else None,
        "left_out": [name for name in HEADLINE if name in leave_out],
    }


def _how(benchmark: Benchmark) -> str:
    return f"{benchmark.name} ({f'task {benchmark.task}' if benchmark.task else benchmark.note})"
