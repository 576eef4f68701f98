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
import re
import shutil
import subprocess
import sys
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from critique_rl.prompts import THINK_SUFFIX
from critique_rl.reward_benchmarks import MM_RLHF_REWARDBENCH, VL_REWARDBENCH
from critique_rl.types import UserError, nearest

CHECKED_VERSION = "0.7.3"
"""Version of lmms-eval against whose registry and scorers the names and units below were checked."""

PERCEPTION, REASONING, CHART, VIDEO, REWARD, AGENT = CATEGORIES = (
    "Perception & General VQA",
    "Image Reasoning",
    "Chart Understanding",
    "Video Reasoning",
    "Visual RewardBench",
    "Agent",
)


@dataclass(frozen=True)
class Benchmark:
    """One benchmark of the paper.

    Attributes:
        name: Its name.
        category: One of `CATEGORIES`.
        task: What lmms-eval is asked for; None if it has no such task, or is not to be used for it.
        metric: The metric of the task that counts.
        percent: Whether lmms-eval gives that metric in percent; else it is a fraction of 1.
        parts: Tasks of whose metric the mean is taken, where `task` is a group without a number of its own.
        asks_model: Whether scoring asks another model behind an OpenAI-compatible address (OPENAI_API_KEY).
        headline: Whether it is among the 24 whose plain mean is the paper's headline average.
        note: In what the task is not the paper's protocol, or why there is none.
    """

    name: str
    category: str
    task: str | None
    metric: str = ""
    percent: bool = False
    parts: tuple[str, ...] = ()
    asks_model: bool = False
    headline: bool = True
    note: str = ""


_VIDEO_MMMU = ("video_mmmu_perception", "video_mmmu_comprehension", "video_mmmu_adaptation")
_NATIVE = "judged by critique_rl.reward_benchmarks in both orders"

BENCHMARKS: dict[str, Benchmark] = {
    b.name: b
    for b in (
        Benchmark("BLINK", PERCEPTION, "blink", "blink_acc"),
        Benchmark(
            "HallusionBench",
            PERCEPTION,
            "hallusion_bench_image",
            "aAcc",
            percent=True,
            asks_model=True,
            note="the paper does not say which of aAcc, qAcc and fAcc it reports",
        ),
        Benchmark("MMStar", PERCEPTION, "mmstar", "average"),
        Benchmark(
            "MMBench",
            PERCEPTION,
            "mmbench_en_dev_static",
            "gpt_eval_score",
            percent=True,
            note="dev split; the labels of the paper's test split are hidden, mmbench_en_test writes a submission",
        ),
        Benchmark(
            "MMVP",
            PERCEPTION,
            "mmvp",
            "mmvp_pair_accuracy",
            note="pairs as in MMVP's own score; the paper does not say whether it counts pairs or questions",
        ),
        Benchmark(
            "MMHal-Bench", PERCEPTION, None, note=f"no task in lmms-eval {CHECKED_VERSION}; needs a GPT judge"
        ),
        Benchmark("RealWorldQA", PERCEPTION, "realworldqa", "exact_match"),
        Benchmark(
            "MathVista",
            REASONING,
            "mathvista_testmini_format",
            "llm_as_judge_eval",
            percent=True,
            asks_model=True,
        ),
        Benchmark("MathVision", REASONING, "mathvision_testmini", "mathvision_standard_eval", percent=True),
        Benchmark("MathVerse", REASONING, "mathverse_testmini", "gpt_eval_score", asks_model=True),
        Benchmark(
            "MMMU", REASONING, "mmmu_val", "mmmu_acc", note="all images; the released script shows the first"
        ),
        Benchmark("EMMA-mini", REASONING, "emma-mini", "emma_score", asks_model=True),
        Benchmark("VLMsAreBlind", REASONING, "vlmsareblind", "accuracy"),
        Benchmark("V*", REASONING, "vstar_bench", "vstar_overall_acc", percent=True),
        Benchmark("VisuLogic", REASONING, "visulogic", "visulogic_acc"),
        Benchmark(
            "ZeroBench-sub",
            REASONING,
            None,
            note=f"lmms-eval {CHECKED_VERSION} has the main questions alone (zerobench), not the subquestions",
        ),
        Benchmark("ChartQA", CHART, "chartqa", "relaxed_overall"),
        Benchmark("OCRBench", CHART, "ocrbench", "ocrbench_accuracy"),
        Benchmark("AI2D", CHART, "ai2d", "exact_match"),
        Benchmark("CharXiv", CHART, "charxiv_val_reasoning", "reasoning_acc", asks_model=True),
        Benchmark("MMVU", VIDEO, "mmvu_val", "accuracy", percent=True, asks_model=True),
        Benchmark("VideoMMMU", VIDEO, "video_mmmu", "mmmu_acc", parts=_VIDEO_MMMU),
        Benchmark(
            VL_REWARDBENCH,
            REWARD,
            None,
            note=f"{_NATIVE}; lmms-eval's vl_rewardbench shows one order, samples and asks GPT-4o-mini",
        ),
        Benchmark(MM_RLHF_REWARDBENCH, REWARD, None, note=f"{_NATIVE}; no task in lmms-eval"),
        Benchmark("Agent 1", AGENT, None, headline=False, note="the paper's agent tasks are not known to us"),
        Benchmark("Agent 2", AGENT, None, headline=False, note="the paper's agent tasks are not known to us"),
    )
}
"""By name, in the order of the released scripts."""

HEADLINE = tuple(b.name for b in BENCHMARKS.values() if b.headline)
"""The 24 benchmarks whose plain mean is the paper's headline average; each weighs 1/24."""

POLICY = tuple(name for name in HEADLINE if BENCHMARKS[name].category != REWARD)
"""The 22 of them that measure the policy."""


def weight(name: str) -> float:
    """Weight of a benchmark in the headline average.

    Raises:
        UserError: There is no such benchmark.

    >>> weight("MMMU") * 24, weight("Agent 1")
    (1.0, 0.0)
    """
    return 1 / len(HEADLINE) if _benchmark(name).headline else 0.0


def _benchmark(name: str) -> Benchmark:
    if name not in BENCHMARKS:
        raise UserError(f"no benchmark {name!r} in the paper's list. {nearest(name, BENCHMARKS)}")
    return BENCHMARKS[name]


# --- the command --------------------------------------------------------------------------------------


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
        *("-m", "critique_rl.policy_benchmarks" if thinking else "lmms_eval"),
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


# --- results ------------------------------------------------------------------------------------------


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


if __name__ == "__main__":
    main()
