"""The paper's policy benchmarks through lmms-eval: the command, a measurement, and the scores of a table.

lmms-eval is not a dependency: `pip install 'critique_rl[lmms-eval]'`, best into an environment of its own. Its
tasks are in `policy_catalogue.py`, its results files are read in `policy_results.py`. A policy that boxes its
answer is measured by `policy_boxes.py`: lmms-eval with a filter that gives its scorers the boxed answer.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from critique_rl.benchmarks.policy_catalogue import BENCHMARKS, HEADLINE, Benchmark, find_benchmark
from critique_rl.benchmarks.policy_results import averages, read_results
from critique_rl.prompts import THINK_SUFFIX
from critique_rl.types import UserError

SELF_SCORED = tuple(b.name for b in BENCHMARKS.values() if b.task and not b.asks_model)
"""Benchmarks that lmms-eval scores without asking another model."""

LOG = "lmms_eval.log"
SCORES = "scores.json"

_WITH_SUFFIX = ("qwen2_5_vl", "qwen3_vl")
"""Model classes of lmms-eval whose simple variant adds a suffix to each question."""

_LAUNCHER = (
    *("RANK", "LOCAL_", "WORLD_SIZE", "GROUP_", "ROLE_", "MASTER_", "TORCHELASTIC_"),
    *("ACCELERATE_", "FSDP_", "DEEPSPEED_"),
)
"""Beginnings of the environment variables that a launcher of distributed processes sets."""


def command(
    checkpoint: str | Path,
    output: str | Path,
    *,
    benchmarks: Iterable[str] | None = None,
    model: str = "qwen2_5_vl",
    model_args: Mapping[str, Any] | None = None,
    thinking: bool = True,
    processes: int = 1,
    batch_size: int = 1,
    max_new_tokens: int = 2048,
    limit: int | None = None,
    python: str | None = None,
) -> list[str]:
    """Command line with which lmms-eval measures a checkpoint; run it where lmms-eval is installed.

    Generation is greedy, with `max_new_tokens` in place of the tasks' own limits: many allow 16 tokens, which
    cuts a thought off. `model`, `model_args`, `processes` and `batch_size` are as in `PolicyBenchmarksConfig`.

    Args:
        checkpoint: Path or hub id.
        output: Folder for the results file and, per task, the replies.
        benchmarks: Names of the paper's benchmarks; by default all that have a task.
        thinking: End each question with the suffix with which the policy is trained, and score the boxed answer.
            The simple variant of a model class adds a suffix, so `--force_simple` chooses it; only qwen2_5_vl and
            qwen3_vl can do this. The tasks' own requests stay, such as to give the letter alone.
        max_new_tokens: Most tokens of a reply; 2048 in the released evaluation.
        limit: Questions of each task, for a trial; `read_results` refuses such results.
        python: Interpreter of the environment with lmms-eval and this package; None is the running one.

    Raises:
        UserError: A benchmark has no task, or an argument cannot be put into a command line of lmms-eval.
    """
    chosen = _with_task(benchmarks)
    arguments: dict[str, Any] = {"pretrained": checkpoint, **(model_args or {})}
    if thinking:
        if model not in _WITH_SUFFIX:
            raise UserError(
                f"lmms-eval cannot add a suffix to the questions for model={model!r}: pass thinking=False, or "
                f"one of {', '.join(_WITH_SUFFIX)}."
            )
        arguments["reasoning_prompt"] = rf"\n\n{THINK_SUFFIX}"  # lmms-eval makes line ends of these itself
    launcher = ("-m", "accelerate.commands.launch", "--num_processes", str(processes))
    return [
        *(python or sys.executable, *(launcher if processes > 1 else ())),
        # The other environment may hold an older version of this package, which knows only this path.
        *("-m", "critique_rl.policy_benchmarks" if thinking else "lmms_eval"),
        *("--model", model, "--model_args", _joined(arguments)),
        *("--tasks", ",".join(b.task for b in chosen if b.task), "--batch_size", str(batch_size)),
        *("--gen_kwargs", f"max_new_tokens={max_new_tokens},temperature=0"),
        *("--log_samples", "--output_path", str(output)),
        *(["--force_simple"] if thinking else []),
        *([] if limit is None else ["--limit", str(limit)]),
    ]


def _with_task(names: Iterable[str] | None) -> list[Benchmark]:
    """Benchmarks by name; None takes all that have a task."""
    if names is None:
        return [b for b in BENCHMARKS.values() if b.task]
    chosen = [find_benchmark(name) for name in names]
    without = [f"{b.name} ({b.note})" for b in chosen if b.task is None]
    if without or not chosen:
        raise UserError(f"no task of lmms-eval for: {'; '.join(without) or 'an empty list of benchmarks'}")
    return chosen


def _joined(arguments: Mapping[str, Any]) -> str:
    """Arguments in one text. lmms-eval splits it at commas outside of quotes and brackets, and has no escape."""
    for name, value in arguments.items():
        text = str(value)
        unbalanced = any(text.count(a) != text.count(b) for a, b in ("{}", "[]"))
        if unbalanced or any(sign in text for sign in ",'\""):
            raise UserError(
                f"{name}={text!r} cannot be passed to lmms-eval, which splits its arguments at commas: no "
                "comma, quotation mark or open bracket; rename the folder, or link to it."
            )
    return ",".join(f"{name}={value}" for name, value in arguments.items())


def check_installed(python: str | None = None) -> None:
    """Check that an interpreter has lmms-eval and this package.

    Raises:
        UserError: The interpreter does not run, or lacks one of the packages.
    """
    program = python or sys.executable
    script = "from importlib.util import find_spec as f;"
    script += "print(*(n for n in ('lmms_eval', 'critique_rl') if not f(n)), sep=' and no ')"
    try:
        done = subprocess.run([program, "-c", script], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise UserError(f"evaluation.policy_benchmarks.python: {program} does not run: {error}") from error
    if done.stdout.strip():
        raise UserError(
            f"evaluation.policy_benchmarks: {program} has no {done.stdout.strip()}. Install "
            "'critique_rl[lmms-eval]' there, name the interpreter of another environment with "
            "`evaluation.policy_benchmarks.python`, or leave these benchmarks out with "
            "`--set evaluation.policy_benchmarks=null`."
        )


def measure(checkpoint: str | Path, output: Path, benchmarks: Sequence[str], **settings: Any) -> None:
    """Have lmms-eval measure a checkpoint in processes of its own, and keep the scores in `output/scores.json`.

    Files of an earlier, interrupted call are removed: lmms-eval starts over.

    Args:
        checkpoint: Path or hub id of whole weights.
        output: Folder for scores, results files, replies and the log.
        benchmarks: Names of the paper's benchmarks.
        settings: Further arguments of `command`.

    Raises:
        UserError: lmms-eval fails, then the message ends with the last lines of its log; or it leaves a benchmark
            out.
    """
    inside = output / "lmms_eval"
    shutil.rmtree(inside, ignore_errors=True)
    inside.mkdir(parents=True)
    # Inside a launched process, an inner launcher would read the variables of the outer one as its own.
    environment = {k: v for k, v in os.environ.items() if not k.startswith(_LAUNCHER)}
    log = output / LOG
    with log.open("w", encoding="utf-8") as file:
        arguments = command(checkpoint, inside, benchmarks=benchmarks, **settings)
        code = subprocess.run(arguments, stdout=file, stderr=subprocess.STDOUT, env=environment).returncode
    if code:
        end = "\n  ".join(log.read_text("utf-8", errors="replace").strip().splitlines()[-5:])
        raise UserError(
            f"lmms-eval stopped with exit code {code}; its output is in {log}, which ends with:\n  {end}"
        )
    scores = read_results(inside)
    missing = [name for name in benchmarks if name not in scores]
    if missing:
        raise UserError(f"{inside}: lmms-eval wrote no result of {', '.join(missing)}; see {log}.")
    chosen = {name: scores[name] for name in benchmarks}
    (output / SCORES).write_text(json.dumps(chosen, indent=1) + "\n", encoding="utf-8")


def read_scores(output: Path) -> dict[str, float]:
    """Scores that `measure` wrote, as fractions of 1 by name of the benchmark."""
    return dict(json.loads((output / SCORES).read_text("utf-8")))


def with_averages(scores: Mapping[str, float]) -> dict[str, float]:
    """Scores, then the averages of the categories and over all, each named with its number of benchmarks."""
    names = [name for name in HEADLINE if name in scores]
    means = averages({n: scores[n] for n in names}, leave_out=[n for n in HEADLINE if n not in scores])
    counts = {c: sum(BENCHMARKS[n].category == c for n in names) for c in means["categories"]}
    categories = {f"{c}, {counts[c]}": v for c, v in means["categories"].items()}
    overall = means["policy"] if means["headline"] is None else means["headline"]
    return {**scores, **categories, f"average of {len(names)} benchmarks": overall}
