"""Rehearse a run on several machines: two "nodes" on this one train what one process trains.

    python experiments/rehearsal.py
    python experiments/rehearsal.py --output runs/rehearsal --rl-steps 5

Pool, both stages, evaluation and report of `tiny` run twice, with the actor behind `transformers serve`: in one
process, and in two that torchrun starts as machines 0 and 1, on 127.0.0.1 and 127.0.0.2, with gloo. The global
batch is the same, and each optimizer step takes a whole rollout, since each process draws the order of its part.
Records must be equal, and weights within `TOLERANCE`. A table shows both; the exit code is 1 where they differ.
It needs `pip install "transformers[serving]"`.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[1]
TINY = ROOT / "experiments" / "configs" / "tiny.yaml"
ACTOR = ROOT / "critique_rl" / "assets" / "tiny" / "actor"
TOLERANCE = 1e-3
"""Norm of the difference of all weights over that of their change by the training. Sums in float32 have another
order, and AdamW divides by the size of a gradient: where that is close to 0, single weights differ more."""
ROLLOUT = 32
STAGES = ("stage1", "stage2")
PATIENCE = 600.0
"""Seconds after which a process that has not answered or ended is given up."""


def main() -> int:
    """Make both runs and compare them."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, default=Path("runs/rehearsal"), help="folder, made anew")
    parser.add_argument("--rl-steps", type=int, default=2, help="RL steps of each stage")
    given = parser.parse_args()
    shutil.rmtree(given.output, ignore_errors=True)
    given.output.mkdir(parents=True)
    started = time.monotonic()
    with served(given.output / "server.log") as url:
        spent = {}
        for name, machines in (("one", 1), ("two", 2)):
            config = written_config(given.output, name, machines, url, given.rl_steps)
            spent[name] = launch(config, machines, given.output / f"{name}.log")
    rows = compared(given.output / "one", given.output / "two")
    print(table(rows))
    seconds = ", ".join(f"{name} {value:.0f} s" for name, value in spent.items())
    print(f"\n{seconds}, in all {time.monotonic() - started:.0f} s; tolerance of weights {TOLERANCE:g}")
    return 0 if all(row[-1] == "equal" for row in rows) else 1


# -- the two runs -------------------------------------------------------------------------------------------


def written_config(folder: Path, name: str, machines: int, url: str, rl_steps: int) -> Path:
    """`tiny` with little data and one optimizer step for a pass over a rollout."""
    config: dict[str, Any] = yaml.safe_load(TINY.read_text(encoding="utf-8"))
    config |= {"name": f"rehearsal-{name}", "output": str(folder / name), "threads": 1}
    # `transformers serve` lists no model that is no download, so the model is named.
    config["actor"] = {"backend": "openai", "base_url": url, "model": str(ACTOR)}
    config["train"][0]["options"] = {"size": 2000}
    config["pool"] = {"problems": 32, "samples": 1, "temperature": 0.0, "balanced": False}
    config["stages"] = {stage: config["stages"][stage] for stage in STAGES}
    for stage in config["stages"].values():
        stage["trainer"] |= {
            "rl_steps": rl_steps,
            "generation_batch_size": ROLLOUT,
            "per_device_train_batch_size": ROLLOUT // machines,
        }
    task = {**config["evaluation"]["tasks"][0], "limit": 12, "options": {"size": 2000}}
    config["evaluation"] = {"rows": ["no_critic", *STAGES], "tasks": [task]}
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")
    return path


def launch(config: Path, machines: int, log: Path) -> float:
    """Run a configuration on so many "machines" of one process each; returns the seconds.

    Raises:
        RuntimeError: A process failed; the message has the end of its log.
    """
    command = ["-m", "critique_rl.cli", "run", str(config)]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
        "OMP_NUM_THREADS": "1",
        "GLOO_SOCKET_IFNAME": "lo",
        "HF_HUB_OFFLINE": "1",
    }
    began, processes = time.monotonic(), []
    with log.open("w", encoding="utf-8") as output:
        try:
            port = str(free_port())
            for rank in range(machines):
                started = [] if machines == 1 else torchrun(rank, machines, port)
                processes.append(
                    subprocess.Popen(
                        [sys.executable, *started, *command], stdout=output, stderr=output, env=environment
                    )
                )
            codes = [process.wait(timeout=PATIENCE) for process in processes]
        finally:
            for process in processes:
                process.kill()
    if any(codes):
        raise RuntimeError(f"{config} ended with {codes}: {log.read_text(encoding='utf-8')[-3000:]}")
    return time.monotonic() - began


def torchrun(rank: int, machines: int, port: str) -> list[str]:
    """Arguments of Python that start machine `rank`, as one would on a machine of its own."""
    return [
        *("-m", "torch.distributed.run", f"--nnodes={machines}", f"--node_rank={rank}", "--nproc_per_node=1"),
        *("--master_addr=127.0.0.1", f"--master_port={port}", f"--local_addr=127.0.0.{rank + 1}"),
    ]


@contextmanager
def served(log: Path) -> Iterator[str]:
    """URL of `transformers serve` with the actor.

    Raises:
        RuntimeError: The server does not start; the message has the end of its log.
    """
    program, port = shutil.which("transformers", path=str(Path(sys.executable).parent)), free_port()
    if program is None:
        raise RuntimeError('transformers serve is missing: pip install "transformers[serving]"')
    options = ["--device", "cpu", "--dtype", "float32", "--host", "127.0.0.1", "--port", str(port)]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    with log.open("w", encoding="utf-8") as output:
        process = subprocess.Popen(
            [program, "serve", str(ACTOR), *options], stdout=output, stderr=output, env=environment
        )
    try:
        deadline = time.monotonic() + PATIENCE
        while not answers(f"http://127.0.0.1:{port}/health"):
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"no server: {log.read_text(encoding='utf-8')[-3000:]}")
            time.sleep(0.5)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        process.kill()
        process.wait()


def answers(url: str) -> bool:
    """Whether a server answers."""
    try:
        urllib.request.urlopen(url, timeout=5).close()
    except (urllib.error.URLError, OSError):
        return False
    return True


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


# -- the comparison -----------------------------------------------------------------------------------------


def compared(one: Path, two: Path) -> list[list[str]]:
    """A row for the pool, each stage's rollouts and weights, each file of records, and the report."""
    rows = [row("pool", pool(one), pool(two))]
    for stage in STAGES:
        rows.append(row(f"{stage}, rewards by RL step", rewards(one, stage), rewards(two, stage)))
        rows.append(weights(one, two, stage))
    for path in sorted(one.rglob("records.jsonl")):
        name = path.relative_to(one)
        rows.append(row(str(name.parent), lines(path), lines(two / name)))
    rows.append(row("report", report(one), report(two)))
    return rows


def row(name: str, one: list[Any], two: list[Any]) -> list[str]:
    """Name, number of entries, how many differ, and the verdict."""
    differ = sum(a != b for a, b in zip(one, two, strict=False)) + abs(len(one) - len(two))
    return [name, f"{len(one)}", f"{differ} differ", "equal" if one and not differ else "NOT EQUAL"]


def pool(run: Path) -> list[Any]:
    """Rows of the response pool."""
    from datasets import load_from_disk

    (folder,) = {path.parent for path in (run / "seed0" / "pool").rglob("dataset_info.json")}
    return list(load_from_disk(str(folder), keep_in_memory=True))


def rewards(run: Path, stage: str) -> list[Any]:
    """Reward and length of the critiques of each RL step, over all processes, to 5 digits."""
    state = json.loads((run / "seed0" / stage / "trainer_state.json").read_text(encoding="utf-8"))
    names = ("reward", "completions/mean_length", "critic/acc_dis")
    return [
        [round(entry[name], 5) for name in names if name in entry]
        for entry in state["log_history"]
        if "reward" in entry
    ]


def lines(path: Path) -> list[Any]:
    """Records of an evaluation."""
    return (
        [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []
    )


def report(run: Path) -> list[Any]:
    """Rows of the result table."""
    found: list[Any] = json.loads((run / "report.json").read_text(encoding="utf-8"))["rows"]
    return found


def weights(one: Path, two: Path, stage: str) -> list[str]:
    """Norm of the difference of all weights, over that of their change by the training."""
    import torch

    start = ROOT / "critique_rl" / "assets" / "tiny" / "sft"
    trained, other, before = (
        tensors(path) for path in (*(run / "seed0" / stage for run in (one, two)), start)
    )
    change, differ = (
        torch.cat([(trained[name] - others[name]).flatten() for name in trained])
        for others in (before, other)
    )
    share = float(differ.norm() / change.norm())
    said = f"{share:.1e} of the change; a weight at most {float(differ.abs().max()):.0e}"
    return [f"{stage}, weights", f"{len(change):,}", said, "equal" if share <= TOLERANCE else "NOT EQUAL"]


def tensors(folder: Path) -> Mapping[str, Any]:
    """Weights of a model."""
    from safetensors.torch import load_file

    found: dict[str, Any] = {}
    for path in folder.glob("*.safetensors"):
        found |= load_file(str(path))
    return found


def table(rows: list[list[str]]) -> str:
    """Columns of one width each."""
    head = ["what", "entries", "difference", ""]
    widths = [max(len(cell[i]) for cell in [head, *rows]) for i in range(len(head))]
    return "\n".join(
        "  ".join(text.ljust(width) for text, width in zip(cells, widths, strict=True)).rstrip()
        for cells in [head, *rows]
    )


if __name__ == "__main__":
    sys.exit(main())
