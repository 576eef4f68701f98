"""Measure how the cost of a Stage II step grows, whether memory stays flat, and how long a start takes.

    python experiments/growth.py
    python experiments/growth.py --shapes tiny --curves k pool --repeats 5

A curve varies one size of the step and leaves the others as in `BASE`. Each point builds our trainer, makes one
step that is not timed, then `--repeats` with other rows. `exponent` is the slope of a straight line through the
logarithms of size and best time: 1 is proportional, 0 is independent. A completion length counts as the tokens
that were written, since critiques may end before their limit. `small` has random weights.

Memory is the resident size after each of `--steps` RL steps of one training of `tiny`; the slope is that of the
second half. A start is timed from the command, in new processes. Writes `results/bench/growth.json` and a PNG
beside it.
"""

from __future__ import annotations

import argparse
import itertools
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from bench import RESULTS, Work, ours, some_rows
from datasets import Dataset
from stepclock import TINY, Side, random_weights, resident
from transformers import TrainerCallback

from critique_rl.reports.pictures import colours, panels, plain, save
from critique_rl.reports.provenance import origin

BASE: dict[str, int] = {"k": 4, "prompts": 4, "new_tokens": 16, "pool": 64}
CURVES: dict[str, tuple[int, ...]] = {
    "k": (2, 4, 8, 16),
    "prompts": (2, 4, 8, 16),
    "new_tokens": (4, 8, 16, 32, 64),
    "pool": (64, 256, 1024, 4096),
}
AXES = {
    "k": "critiques of a prompt",
    "prompts": "prompts of a step",
    "new_tokens": "tokens of a critique",
    "pool": "rows of the pool",
}
SMALL = {
    **{"hidden_size": 512, "intermediate_size": 1408, "num_hidden_layers": 4, "vocab_size": 8192},
    **{"num_attention_heads": 8, "num_key_value_heads": 2, "tie_word_embeddings": True},
}
START = """
import json, sys, time
stamps = {"interpreter": time.monotonic()}
from critique_rl.cli import main
stamps["import of the command"] = time.monotonic()
from critique_rl import TransformersActor
from critique_rl.types import Sampling
stamps["import of models"] = time.monotonic()
actor = TransformersActor(sys.argv[1])
stamps["load"] = time.monotonic()
actor.generate([[{"role": "user", "content": "1 + 1"}]], Sampling(max_tokens=1))
stamps["first token"] = time.monotonic()
print(json.dumps(stamps))
"""


class Resident(TrainerCallback):
    """Notes the resident bytes after each step."""

    def __init__(self) -> None:
        self.values: list[int] = []

    def on_step_end(self, *_: Any, **__: Any) -> None:
        """Note the bytes."""
        self.values.append(resident())


def point(work: Work, sizes: Mapping[str, int], rows: Dataset, repeats: int, folder: Path) -> dict[str, Any]:
    """Seconds of steps of one size, their tokens and phases, and of the making of the trainer."""
    pool = rows.select([i % len(rows) for i in range(sizes["pool"])])
    step = {name: value for name, value in sizes.items() if name != "pool"}
    began = time.perf_counter()
    side = Side(partial(ours, replace(work, **step)), pool, folder)  # type: ignore[arg-type]
    built = time.perf_counter() - began
    turns = []
    for turn in range(repeats + 1):
        first = turn * sizes["prompts"]
        turns.append(side.turn([(first + i) % len(pool) for i in range(len(pool))]))
    seconds = [turn["seconds"] for turn in turns[1:]]
    best = min(turns[1:], key=lambda turn: turn["seconds"])
    texts = {name: said["tokens"] / said["rows"] for name, said in best["texts"].items()}
    return {
        **{"sizes": dict(sizes), "best": min(seconds), "all": seconds, "phases": best["phases"]},
        **{"tokens": texts, "peak_bytes": best["peak_bytes"], "make_trainer": built},
    }


def exponent(sizes: Sequence[float], values: Sequence[float]) -> float:
    """Slope of the straight line through the logarithms.

    >>> round(exponent([1, 2, 4], [3, 12, 48]), 6)
    2.0
    """
    return float(np.polyfit(np.log(sizes), np.log(values), 1)[0])


def curve(name: str, values: Sequence[int], work: Work, rows: Dataset, repeats: int) -> dict[str, Any]:
    """Points of one curve, and its exponent."""
    points = []
    for value in values:
        sizes = {**BASE, name: value}
        sizes["pool"] = max(sizes["pool"], (repeats + 1) * sizes["prompts"])
        with tempfile.TemporaryDirectory() as folder:
            points.append(point(work, sizes, rows, repeats, Path(folder)))
        print(f"  {name} {value}: {points[-1]['best']:.3f} s", flush=True)
    xs = [p["tokens"]["critiques"] if name == "new_tokens" else p["sizes"][name] for p in points]
    best = [p["best"] for p in points]
    made = exponent(xs, [p["make_trainer"] for p in points])  # reading the pool is a part of the start
    return {"x": xs, "seconds": best, "exponent": exponent(xs, best), "of_making": made, "points": points}


def memory(work: Work, rows: Dataset, steps: int) -> dict[str, Any]:
    """Resident bytes after each RL step of one training, and their slope over the second half."""
    noted = Resident()
    with tempfile.TemporaryDirectory() as folder:
        sizes = {name: value for name, value in BASE.items() if name != "pool"}
        step = replace(work, rl_steps=steps, **sizes)  # type: ignore[arg-type]
        side = Side(partial(ours, step), rows, Path(folder), rl_steps=steps)
        side.trainer.add_callback(noted)
        side.turn(range(len(rows)))
    half = noted.values[len(noted.values) // 2 :]
    slope = float(np.polyfit(range(len(half)), half, 1)[0])
    shown = noted.values[:: max(1, steps // 100)]
    return {
        "steps": steps,
        "bytes_per_step": slope,
        "first": noted.values[0],
        "last": half[-1],
        "some": shown,
    }


def start(actor: str, repeats: int) -> dict[str, Any]:
    """Seconds from the command to the first token by part, and of `critique-rl --help`; the fastest of some."""
    runs: list[dict[str, float]] = []
    helps: list[float] = []
    for _ in range(repeats):
        began = time.monotonic()  # the clock of the machine: the process that starts reads the same
        command = [sys.executable, "-c", START, actor]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        stamps = json.loads(done.stdout.splitlines()[-1])
        ends = [began, *stamps.values()]
        runs.append(dict(zip(stamps, (b - a for a, b in itertools.pairwise(ends)), strict=True)))
        began = time.monotonic()
        subprocess.run([sys.executable, "-m", "critique_rl.cli", "--help"], capture_output=True, check=True)
        helps.append(time.monotonic() - began)
    best = min(runs, key=lambda run: sum(run.values()))
    return {"first_token": sum(best.values()), "parts": best, "help": min(helps), "repeats": repeats}


def draw(content: Mapping[str, Any], path: Path) -> None:
    """Draw the curves on logarithmic axes, memory over steps and the parts of a start."""
    shapes, names = content["shapes"], list(CURVES)
    figure, axes = panels(2, 3, (13, 7))
    colour = colours(shapes)
    for axis, name in zip(axes, names, strict=False):
        drawn = {shape: curves[name] for shape, curves in shapes.items() if name in curves}
        axis.set_visible(bool(drawn))
        axis.set(xscale="log", yscale="log", xlabel=AXES[name], ylabel="seconds of a step")
        for shape, found in drawn.items():
            xs, seconds = found["x"], found["seconds"]
            axis.plot(xs, seconds, color=colour[shape], label=shape, marker="o")
            axis.annotate(f" {found['exponent']:.2f}", (xs[-1], seconds[-1]), color=colour[shape])
            axis.set_xticks(xs, [f"{x:.4g}" for x in xs])
            axis.set_xticks([], minor=True)
    found = content["memory"]
    every = max(1, found["steps"] // 100)
    megabytes = [value / 2**20 for value in found["some"]]
    axes[4].plot([1 + every * i for i in range(len(megabytes))], megabytes, color=colour["tiny"])
    slope = found["bytes_per_step"] / 1024
    axes[4].set(xlabel="RL step of tiny", ylabel="resident MiB", title=f"{slope:+.1f} KiB a step")
    parts = content["start"]["parts"]
    axes[5].barh(list(parts), list(parts.values()), color=colour["tiny"])
    axes[5].invert_yaxis()
    axes[5].set(xlabel="seconds", title="command to first token")
    for axis in axes:
        plain(axis)
    save(figure, axes, path, dpi=110)


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    add = parser.add_argument
    add("--shapes", nargs="+", choices=("tiny", "small"), default=["tiny", "small"])
    add("--curves", nargs="+", choices=tuple(CURVES), default=list(CURVES))
    add("--points", type=int, default=5, help="most points of a curve")
    add("--repeats", type=int, default=3, help="timed steps of a point, and starts")
    add("--steps", type=int, default=300, help="RL steps of the training whose memory is noted")
    add("--threads", type=int, default=1)
    add("--output", type=Path, default=RESULTS / "growth.json", help="result file")
    return parser.parse_args()


def main() -> None:
    """Measure, write the result file and draw it."""
    given = arguments()
    torch.set_num_threads(given.threads)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    most = max(BASE["pool"], (given.repeats + 1) * max(CURVES["prompts"][: given.points]))
    rows = some_rows(most)
    shapes: dict[str, dict[str, Any]] = {}
    embedded = Work(str(TINY / "sft"), str(TINY / "actor"), device=device)
    with tempfile.TemporaryDirectory() as folder:
        for shape in given.shapes:
            print(shape, flush=True)
            small = None if shape == "tiny" else random_weights(folder, **SMALL)
            work = embedded if small is None else replace(embedded, critic=small, actor=small)
            shapes[shape] = {
                name: curve(name, CURVES[name][: given.points], work, rows, given.repeats)
                for name in given.curves
            }
    config = {"base": BASE, "small": SMALL, "repeats": given.repeats, "threads": given.threads}
    content = {
        "config": {**config, "alike": embedded.alike()},
        **origin(),
        "device": device,
        "shapes": shapes,
    }
    content |= {"memory": memory(embedded, rows, given.steps), "start": start(embedded.actor, given.repeats)}
    given.output.parent.mkdir(parents=True, exist_ok=True)
    given.output.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    draw(content, given.output.with_suffix(".png"))
    for shape, curves in shapes.items():
        print(shape, {name: round(found["exponent"], 2) for name, found in curves.items()})
    slope, begin = content["memory"]["bytes_per_step"], content["start"]["first_token"]
    print(f"memory {slope:+.0f} bytes a step; first token after {begin:.2f} s")


if __name__ == "__main__":
    main()
