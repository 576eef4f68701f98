"""The paper's policy benchmarks through lmms-eval: which task is which, the command, and the averages.

LLaVA-Critic-R1 (arXiv 2509.00676) reports 26 benchmarks in six categories. Which benchmark stands in which
category is reconstructed from the released scripts and from its category averages: 7, 9, 4, 2 and 2 benchmarks
with equal weights give its overall averages within rounding, with the two agent tasks left out. The paper's
harness for the Qwen models was not released, and its scorers accept more than those of lmms-eval: numbers from
here compare checkpoints with each other, and with the paper only in their differences.

lmms-eval is not a dependency: `pip install 'critique_rl[lmms-eval]'`, best into an environment of its own.

Several of its scorers cannot read `\\boxed{B}`: in version 0.7.3 those of BLINK, MMVP, V*, AI2D and ChartQA count
it as wrong, and that of MMMU draws an option by chance. So a policy that thinks and boxes is measured by this
module run as a program, `python -m critique_rl.policy_benchmarks ARGUMENTS OF LMMS-EVAL`: lmms-eval itself, but
that its filters and scorers are given what stands in the box (`boxed_answer`); its logs keep the whole replies.
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

from critique_rl.benchmarks.policy_catalogue import BENCHMARKS, HEADLINE, _benchmark
from critique_rl.benchmarks.policy_results import averages, main, read_results
from critique_rl.prompts import THINK_SUFFIX
from critique_rl.types import UserError


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
    """Command line that has lmms-eval measure a checkpoint; run it where lmms-eval is installed.

    Greedy, with `max_new_tokens` in place of the tasks' own limits: many allow 16 tokens, which cuts a thought
    off.

    Args:
        checkpoint: Path or hub id.
        output: Folder for the results file and, per task, the replies.
        benchmarks: Names of the paper's benchmarks; by default all that have a task.
        model: Name of the model class in lmms-eval.
        model_args: Further arguments of that class, for instance `max_pixels`.
        thinking: End each question with the suffix with which the policy is trained, and score what it boxes. The
            simple variant of a model class adds a suffix, so `--force_simple` chooses it; of lmms-eval's classes
            qwen2_5_vl and qwen3_vl can. The tasks' own requests stay, such as to give the letter alone.
        processes: Processes, one for each GPU.
        batch_size: Questions at once in each process.
        max_new_tokens: Most tokens of a reply; 2048 in the released evaluation.
        limit: Questions of each task, to try it out; such results are refused by `read_results`.
        python: Interpreter of the environment with lmms-eval and this package; None is the one that runs.

    Raises:
        UserError: A benchmark has no task, or an argument cannot be put into a command line of lmms-eval.
    """
    names = [b.name for b in BENCHMARKS.values() if b.task] if benchmarks is None else list(benchmarks)
    chosen = [_benchmark(name) for name in names]
    without = [f"{b.name} ({b.note})" for b in chosen if b.task is None]
    if without or not chosen:
        raise UserError(f"no task of lmms-eval for: {'; '.join(without) or 'an empty list of benchmarks'}")
    arguments: dict[str, Any] = {"pretrained": checkpoint, **(model_args or {})}
    extra: list[str] = []
    if thinking:
        if model not in ("qwen2_5_vl", "qwen3_vl"):
            raise UserError(
                f"lmms-eval cannot add a suffix to the questions for model={model!r}: pass thinking=False, or "
                "one of qwen2_5_vl, qwen3_vl."
            )
        arguments["reasoning_prompt"] = rf"\n\n{THINK_SUFFIX}"  # lmms-eval makes line ends of these itself
        extra.append("--force_simple")
    if limit is not None:
        extra += ["--limit", str(limit)]
    launcher = ("-m", "accelerate.commands.launch", "--num_processes", str(processes))
    return [
        *(python or sys.executable, *(launcher if processes > 1 else ())),
        *("-m", "critique_rl.benchmarks.policy" if thinking else "lmms_eval"),
        *("--model", model, "--model_args", _joined(arguments)),
        *("--tasks", ",".join(b.task for b in chosen if b.task), "--batch_size", str(batch_size)),
        *("--gen_kwargs", f"max_new_tokens={max_new_tokens},temperature=0"),
        *("--log_samples", "--output_path", str(output), *extra),
    ]


def _joined(arguments: Mapping[str, Any]) -> str:
    """Arguments as lmms-eval splits them: at commas outside of quotes and brackets, with no way to escape one."""
    for name, value in arguments.items():
        text = str(value)
        if any(sign in text for sign in ",'\"") or any(
            text.count(a) != text.count(b) for a, b in ("{}", "[]")
        ):
            raise UserError(
                f"{name}={text!r} cannot be passed to lmms-eval, which splits its arguments at commas: no "
                "comma, quotation mark or open bracket; rename the folder, or link to it."
            )
    return ",".join(f"{name}={value}" for name, value in arguments.items())


SELF_SCORED = tuple(b.name for b in BENCHMARKS.values() if b.task and not b.asks_model)
"""Those that lmms-eval measures without asking another model."""

LOG = "lmms_eval.log"
SCORES = "scores.json"


def check_installed(python: str | None = None) -> None:
    """See that an interpreter has lmms-eval and this package.

    Raises:
        UserError: It does not run, or lacks one of them.
    """
    program = python or sys.executable
    asked = "from importlib.util import find_spec as f;"
    asked += "print(*(n for n in ('lmms_eval', 'critique_rl') if not f(n)), sep=' and no ')"
    try:
        found = subprocess.run([program, "-c", asked], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise UserError(f"evaluation.policy_benchmarks.python: {program} does not run: {error}") from error
    if found.stdout.strip():
        raise UserError(
            f"evaluation.policy_benchmarks: {program} has no {found.stdout.strip()}. Install "
            "'critique_rl[lmms-eval]' there, name the interpreter of another environment with "
            "`evaluation.policy_benchmarks.python`, or leave these benchmarks out with "
            "`--set evaluation.policy_benchmarks=null`."
        )


def measure(checkpoint: str | Path, output: Path, benchmarks: Sequence[str], **settings: Any) -> None:
    """Have lmms-eval measure a checkpoint in processes of its own, and keep the scores in `output/scores.json`.

    What an earlier, interrupted call left is removed: lmms-eval starts over.

    Args:
        checkpoint: Path or hub id of whole weights.
        output: Folder for scores, results files, replies and the log.
        benchmarks: Names of the paper's benchmarks.
        settings: Further arguments of `command`.

    Raises:
        UserError: lmms-eval fails; the message ends as its log does. Or it leaves a benchmark out.
    """
    inside = output / "lmms_eval"
    shutil.rmtree(inside, ignore_errors=True)
    inside.mkdir(parents=True)
    # A launcher inside of a launched process takes the outer one's place among the processes for its own.
    plain = {k: v for k, v in os.environ.items() if not k.startswith(_LAUNCHER)}
    log = output / LOG
    with log.open("w", encoding="utf-8") as file:
        ran = command(checkpoint, inside, benchmarks=benchmarks, **settings)
        code = subprocess.run(ran, stdout=file, stderr=subprocess.STDOUT, env=plain).returncode
    if code:
        end = "\n  ".join(log.read_text("utf-8", errors="replace").strip().splitlines()[-5:])
        raise UserError(
            f"lmms-eval stopped with exit code {code}; all it said is in {log}, at its end:\n  {end}"
        )
    scores = read_results(inside)
    missing = [name for name in benchmarks if name not in scores]
    if missing:
        raise UserError(f"{inside}: lmms-eval wrote no result of {', '.join(missing)}; see {log}.")
    chosen = {name: scores[name] for name in benchmarks}
    (output / SCORES).write_text(json.dumps(chosen, indent=1) + "\n", encoding="utf-8")


def read_scores(output: Path) -> dict[str, float]:
    """What `measure` kept, as fractions of 1 by name."""
    return dict(json.loads((output / SCORES).read_text("utf-8")))


_LAUNCHER = (
    *("RANK", "LOCAL_", "WORLD_SIZE", "GROUP_", "ROLE_", "MASTER_", "TORCHELASTIC_"),
    *("ACCELERATE_", "FSDP_", "DEEPSPEED_"),
)


def with_averages(scores: Mapping[str, float]) -> dict[str, float]:
    """Scores of a table: benchmarks, then categories and all, each average named by how many it is over."""
    names = [name for name in HEADLINE if name in scores]
    means = averages({n: scores[n] for n in names}, leave_out=[n for n in HEADLINE if n not in scores])
    counts = {c: sum(BENCHMARKS[n].category == c for n in names) for c in means["categories"]}
    found = {f"{c}, {counts[c]}": v for c, v in means["categories"].items()}
    overall = means["policy"] if means["headline"] is None else means["headline"]
    return {**scores, **found, f"average of {len(names)} benchmarks": overall}


# --- boxed answers ------------------------------------------------------------------------------------


# --- results ------------------------------------------------------------------------------------------


if __name__ == "__main__":
    main()
