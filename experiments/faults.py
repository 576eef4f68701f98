"""Kill runs at random moments and damage their files: all must come out as if nothing had happened, or be named.

    python experiments/faults.py --jobs 2

A small form of `experiments/configs/tiny.yaml`, with a value model, a pairwise critic and self-training, runs once
unbroken. Then it runs again and again, each time with SIGKILL at random moments, spread over all steps, and
started anew until it is done. Weights, optimizers, random states, records, logs and report rows must be bit for
bit those of the unbroken run; only times may differ. Last, single files of finished and of interrupted steps are
damaged, one a case: the damage must be named, or mended without a difference.

The result file holds one entry a run and a damage. The exit code is 1 if one of them came out silently other.
Reward benchmarks and lmms-eval are left out: they need other data, or another package.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from pyarrow import parquet

from critique_rl.cli.commands import main as command
from critique_rl.config.reading import as_dict
from critique_rl.config.run import load_config
from critique_rl.markdown import table
from critique_rl.records import checksum_of
from critique_rl.reports.provenance import result
from critique_rl.runs.folder import read_marker
from critique_rl.runs.process import guarded
from critique_rl.runs.run import Run
from critique_rl.types import UserError, child_seed

ROOT = Path(__file__).resolve().parent.parent
CONFIG = ROOT / "experiments" / "configs" / "tiny.yaml"
CPU = "use_cpu: true, bf16: false, gradient_checkpointing: false"
BATCH = "generation_batch_size: 16, per_device_train_batch_size: 16"
PASS = f"sft: {{{CPU}, learning_rate: 5.0e-3, per_device_train_batch_size: 16, num_train_epochs: 4}}"
ITERATION = f"iterations: 1, balanced: false, sft: {{{CPU}, num_train_epochs: 1}}"
PAIRS = f"rl_steps: 2, checkpoint_rl_steps: 1, num_generations: 4, generation_batch_size: 8, {CPU}"
RL = f"num_generations: 4, {BATCH}, learning_rate: 1.0e-3, save_total_limit: 3, {CPU}"
TASK = "name: modular_chain, options: {steps: 1, size: 105}"
SMALL = (
    "name=faults",
    "threads=1",
    f"train=[{{{TASK}}}]",
    "cold_start.base.solver={wrong_facts: 0.5, conviction: 0.5}",
    f"cold_start.base.passes=[{{reasoning: 80, critiques: 100, refinements: 240, {PASS}}}]",
    "cold_start.teacher.solver={wrong_facts: 0.5, conviction: 0.6}",
    *(f"cold_start.{name}" for name in ("reasoning=60", "refinements=40", "critiques=80")),
    *(f"cold_start.{name}_sft.per_device_train_batch_size=20" for name in ("actor", "critic")),
    "pool={problems: 40, samples: 2, temperature: 1.0, balanced: false}",
    "lengths={response: 20, critique: 32, refinement: 20}",
    f"stages.stage1={{label: Stage I, checkpoint_rl_steps: 1, trainer: {{rl_steps: 4, {RL}}}}}",
    "stages.stage2={label: Stage I+II, start: stage1, checkpoint_rl_steps: 1, "
    f"trainer: {{rl_steps: 3, refinement_reward: r_refine, advantage: gae, {RL}}}}}",
    f"stages.r_refine_only={{label: STaR, method: star, trainer: {{{ITERATION}}}}}",
    f"stages.critic={{label: Critic RL, method: pairwise_critic, start: actor, trainer: {{{PAIRS}}}}}",
    "evaluation={protocol: {response_temperature: 0.7, critique_temperature: 1.0}, "
    f"tasks: [{{{TASK}, split: test, limit: 16}}], pairwise: {{samples: 4, problems: 20, pairs: 8}}}}",
)
"""Settings over tiny.yaml: all kinds of steps, each as small as it gets."""
TIMES = (
    "time/",
    "step_time",
    "train_runtime",
    "train_samples_per_second",
    "train_steps_per_second",
    "train_loss",
)
"""Starts of what a log holds about one start of the process: times, and the mean loss since."""
COMPARED = ("*.safetensors", "*.pt", "*.pth", "*.jsonl", "*.arrow", "*.parquet", "trainer_state.json")


# -- starts and kills -----------------------------------------------------------------------------------------


def words(output: Path, seed: int) -> list[str]:
    """The command that runs, and goes on."""
    settings = [
        word for setting in (*SMALL, f"output={output}", f"seeds=[{seed}]") for word in ("--set", setting)
    ]
    return ["run", str(CONFIG), "--from-scratch", "--quiet", *settings]


def start(output: Path, seed: int) -> subprocess.Popen[str]:
    """Start a process of its own that runs, or goes on."""
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    environment = {**os.environ, "PYTHONPATH": path, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    given = [sys.executable, "-m", "critique_rl.cli", *words(output, seed)]
    return subprocess.Popen(
        given, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=environment
    )


def working(folder: Path) -> bool:
    """Whether a step is at work, or was when it was killed."""
    with contextlib.suppress(UserError):
        marker = read_marker(folder)
        return marker is not None and not marker["finished"]
    return False


def killed(output: Path, seed: int, step: str, rng: random.Random, seconds: float) -> str | None:
    """Start, and kill within a step, at times while it saves a checkpoint; returns the step that was at work.

    None if the run was done before. `seconds` is what the step took in the unbroken run.
    """
    folder, saving = output / step, rng.random() < 0.5
    before = set(folder.glob("checkpoint-*"))
    with start(output, seed) as process:
        while not working(folder) and process.poll() is None:
            time.sleep(0.002)
        delay = time.monotonic() + rng.uniform(0, seconds)
        while time.monotonic() < delay and process.poll() is None:
            if saving and set(folder.glob("checkpoint-*")) - before:
                time.sleep(rng.uniform(0, 0.05))
                break
            time.sleep(0.001)
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
        _, error = process.communicate()
    if process.returncode == 0:
        return None
    if process.returncode != -signal.SIGKILL:
        raise UserError(f"a start that was to be killed in {step} ended with {process.returncode}: {error}")
    return next(
        (m.parent.relative_to(output).as_posix() for m in markers(output) if working(m.parent)), "between"
    )


def markers(output: Path) -> list[Path]:
    """Markers of all steps."""
    return sorted(output.rglob("step.json"))


def broken_run(output: Path, whole: Path, seed: int, steps: Sequence[str], number: int) -> dict[str, Any]:
    """One run with a kill in each of some steps, in their order; says where, and what differs in the end."""
    rng = random.Random(child_seed(seed, "kills", number))
    hit = []
    for step in steps:
        marker = read_marker(whole / step)
        assert marker is not None
        hit.append(killed(output, seed, step, rng, marker["seconds"]))
    with start(output, seed) as process:
        error = process.communicate()[1]
    found = [f"exit code {process.returncode}: {error}"] if process.returncode else differences(whole, output)
    shutil.rmtree(output)
    return {"run": number, "killed_in": [step for step in hit if step], "differences": found}


# -- comparison -----------------------------------------------------------------------------------------------


def differences(whole: Path, other: Path) -> list[str]:
    """Names of what differs between two runs, but for times."""
    names = {
        p.relative_to(folder) for folder in (whole, other) for kind in COMPARED for p in folder.rglob(kind)
    }
    found = [str(name) for name in sorted(names) if not same(whole, other, name)]
    reports = [json.loads((folder / "report.json").read_text("utf-8")) for folder in (whole, other)]
    return found + ([] if reports[0]["rows"] == reports[1]["rows"] else ["rows of report.json"])


def same(whole: Path, run: Path, name: Path) -> bool:
    """Whether two files of two runs hold the same, but for times and for the name of the run's folder."""
    one, other = whole / name, run / name
    if not (one.exists() and other.exists()):
        return False
    if one.suffix == ".parquet":
        return bool(parquet.read_table(one).equals(parquet.read_table(other)))
    if one.name == "trainer_state.json":
        return logged(one) == logged(other)
    # A pool names its actor by its path; names of folders are of one length.
    contents = [
        path.read_bytes().replace(f"/{run.name}/".encode(), f"/{whole.name}/".encode())
        for path in (one, other)
    ]
    return contents[0] == contents[1]


def logged(path: Path) -> list[dict[str, Any]]:
    """Log of a training without times."""
    log = json.loads(path.read_text("utf-8"))["log_history"]
    return [{k: repr(v) for k, v in entry.items() if not k.startswith(TIMES)} for entry in log]


# -- damages --------------------------------------------------------------------------------------------------


def flipped(content: bytes) -> bytes:
    """The content with one bit turned in its middle."""
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 4]) + content[middle + 1 :]


def without_lines(content: bytes) -> bytes:
    """The content without the first third of its lines."""
    lines = content.splitlines(True)
    return b"".join(lines[len(lines) // 3 :])


DAMAGES: dict[str, Callable[[bytes], bytes | None]] = {
    "cut": lambda content: content[: len(content) // 2],
    "empty": lambda content: b"",
    "missing": lambda content: None,
    "bit flip": flipped,
    "garbled": lambda content: b"{}\n",
}
LINES: dict[str, Callable[[bytes], bytes | None]] = {
    "lines missing": without_lines,
    "a line doubled": lambda content: content + content.splitlines(True)[0],
}
FINISHED = {
    "records of an evaluation": "evaluate/stage1/modular_chain-test/records.jsonl",
    "judgements of pairs": "judge/critic/modular_chain-test/pairs.jsonl",
    "round of the pool": "pool/rounds/0.jsonl",
    "table of the pool": "pool/table/data-00000-of-00001.arrow",
    "weights of a critic": "stage1/model.safetensors",
    "log of a training": "stage1/trainer_state.json",
    "marker of a step": "pool/step.json",
}
"""Files of finished steps, below the folder of the seed."""
CHECKPOINT = (
    *("model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth"),
    *("trainer_state.json", "manifest.json"),
)
"""Files of a checkpoint."""


def cases() -> Iterator[tuple[str, str, str, bool]]:
    """Kind of file, its place below the folder of the seed, the damage, and whether its step was interrupted."""
    for kind, place in FINISHED.items():
        for damage in (*DAMAGES, *(LINES if place.endswith(".jsonl") else ())):
            yield kind, place, damage, False
    for name in CHECKPOINT:
        for damage in DAMAGES:
            yield "newest checkpoint", f"stage1/checkpoint-8/{name}", damage, True
    for damage in (*DAMAGES, *LINES):
        yield "records of an evaluation", FINISHED["records of an evaluation"], damage, True


def damaged(whole: Path, output: Path, seed: int, case: tuple[str, str, str, bool]) -> dict[str, Any]:
    """Outcome of one damage."""
    kind, place, damage, interrupted = case
    shutil.copytree(whole, output)
    path = output / f"seed{seed}" / place
    if interrupted:
        interrupt(next(m.parent for m in markers(output) if m.parent in path.parents))
    content = (DAMAGES | LINES)[damage](path.read_bytes())
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    shown = io.StringIO()
    given = [word for word in words(output, seed) if word != "--quiet"]
    with contextlib.redirect_stderr(shown), contextlib.redirect_stdout(io.StringIO()):
        code = command(given)
    text = " ".join(shown.getvalue().split())
    named = path.name.partition(".")[0] in text and "Traceback" not in text
    if code == 0:
        found = differences(whole, output)
        outcome = "silently other" if found else "mended, named" if named else "mended"
    else:
        found, outcome = [], "refused, named" if code == 2 and named else "failed"
    shutil.rmtree(output)
    state = "interrupted" if interrupted else "finished"
    return {
        "file": kind,
        "name": path.name,
        "state": state,
        "damage": damage,
        "outcome": outcome,
        "said": text[-400:],
    } | ({"differences": found} if found else {})


def interrupt(step: Path) -> None:
    """Turn a finished step into one that was killed before its last files."""
    marker = json.loads((step / "step.json").read_text("utf-8"))
    del marker["files"]
    (step / "step.json").write_text(json.dumps(marker | {"finished": False}), "utf-8")
    for name in ("model.safetensors", "trainer_state.json"):
        (step / name).unlink(missing_ok=True)
    for path in step.glob("records.jsonl"):  # their checksums go once all records are there
        sums = map(checksum_of, path.read_bytes().split(b"\n")[:-1])
        path.with_name(f"{path.name}.sums").write_text("".join(sums))


# -- the whole ------------------------------------------------------------------------------------------------


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=30, help="runs that are killed")
    parser.add_argument("--kills", type=int, default=2, help="kills of each run")
    parser.add_argument("--damages", type=int, help="damages, drawn by seed; all if left out")
    parser.add_argument("--seed", type=int, default=0, help="seed of the runs, the moments and the draw")
    parser.add_argument("--jobs", type=int, default=1, help="runs at the same time")
    parser.add_argument("--folder", help="where runs are made and removed; a temporary one if left out")
    results = ROOT / "experiments" / "results" / "faults.json"
    parser.add_argument("--output", type=Path, default=results, help="the result file")
    return parser.parse_args()


def plan(whole: Path, runs: int, kills: int, seed: int) -> list[list[str]]:
    """Steps in which each run is killed: all steps in turn, and each run's in their order."""
    config = load_config(str(CONFIG), [*SMALL, f"output={whole}", f"seeds=[{seed}]"])
    steps = [step.name for step in Run(config, from_scratch=True).steps()]
    rng, drawn = random.Random(child_seed(seed, "steps")), list[str]()
    while len(drawn) < runs * kills:
        drawn += rng.sample(steps, len(steps))
    parts = [drawn[i * kills : (i + 1) * kills] for i in range(runs)]
    return [sorted(part, key=steps.index) for part in parts]


def faults(given: argparse.Namespace, folder: Path) -> int:
    """Run, kill, damage, and write the result file."""
    began, whole = time.monotonic(), folder / "whole"
    with start(whole, given.seed) as process:
        error = process.communicate()[1]
    if process.returncode:
        raise UserError(f"the unbroken run ended with {process.returncode}: {error}")
    planned = plan(whole, given.runs, given.kills, given.seed)

    def one(number: int) -> dict[str, Any]:
        outcome = broken_run(folder / f"r{number:04}", whole, given.seed, planned[number], number)
        hit, found = ", ".join(outcome["killed_in"]), len(outcome["differences"])
        sys.stderr.write(f"run {number}: killed in {hit}; {found} differences\n")
        return outcome

    with ThreadPoolExecutor(given.jobs) as pool:
        kills = list(pool.map(one, range(given.runs)))
    chosen = list(cases())
    if given.damages is not None:
        chosen = random.Random(child_seed(given.seed, "damages")).sample(
            chosen, min(given.damages, len(chosen))
        )
    damages = [damaged(whole, folder / "other", given.seed, case) for case in chosen]
    config = load_config(str(CONFIG), [*SMALL, f"seeds=[{given.seed}]"])
    content = result(as_dict(config), [given.seed], []) | {"kills": kills, "damages": damages}
    content["seconds"] = round(time.monotonic() - began)
    given.output.write_text(
        json.dumps(content, indent=1, ensure_ascii=False).replace(str(folder), ".") + "\n", "utf-8"
    )
    bad = [d for d in damages if d["outcome"] in ("silently other", "failed")]
    sys.stdout.write(f"{summary(kills, damages)}\n\nresults: {given.output}\n")
    return 1 if bad or any(run["differences"] for run in kills) else 0


def summary(kills: Sequence[dict[str, Any]], damages: Sequence[dict[str, Any]]) -> str:
    """Tables of kills by step, and of damages by file."""
    hit = [step for run in kills for step in run["killed_in"]]
    same_runs = sum(not run["differences"] for run in kills)
    lines = [[step, str(hit.count(step))] for step in sorted(set(hit))]
    by_file: dict[tuple[str, ...], dict[str, str]] = {}
    for d in damages:
        by_file.setdefault((d["file"], d["name"], d["state"]), {})[d["damage"]] = d["outcome"]
    columns = [*DAMAGES, *LINES]
    rows = [[*key, *(outcomes.get(name, "") for name in columns)] for key, outcomes in by_file.items()]
    return "\n\n".join(
        [
            f"{same_runs} of {len(kills)} runs are identical after {len(hit)} kills:",
            table(["step that was killed", "kills"], lines),
            table(["file", "name", "step", *columns], rows),
        ]
    )


def main() -> int:
    """Try all faults."""
    given = arguments()
    with tempfile.TemporaryDirectory(dir=given.folder) as temporary:
        return faults(given, Path(temporary))


if __name__ == "__main__":
    sys.exit(guarded(main))
