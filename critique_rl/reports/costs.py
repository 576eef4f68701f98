"""What a run cost: tokens, floating-point operations as an estimate, hours of wall clock."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from critique_rl.config.reading import as_dict
from critique_rl.evaluation.episodes import read_episodes
from critique_rl.methods.base import FIRST
from critique_rl.reports.settings import setting
from critique_rl.runs.run import Run
from critique_rl.runs.step import MARKER, Step

HOW = (
    "Tokens are logged, prompts included. Trained: tokens of the rollouts, times the passes over each. Generated: "
    "tokens that critic and actor read and write. Of runs by several processes, those of the actor in training "
    "are of one process. FLOPs are an estimate, with N the weights of the model: 6 N for each token that is "
    "trained on, 2 N for each token that is generated and, in RL, 2 N for each token of a rollout whose "
    "log-probabilities are taken again, once for the model that drew it and once for the reference of a KL. Hours "
    "are of wall clock, summed over steps: those that ran beside each other count each. A dash is for what was "
    "not recorded."
)


@dataclass(frozen=True)
class Cost:
    """What a part of a run cost, summed over its steps.

    Attributes:
        part: Label of a stage, or kind of the step.
        kind: Kind of the steps, see `critique_rl.pipeline.KINDS`.
        steps: How many.
        trained: Tokens trained on; None where a step did not record them, as below.
        generated: Tokens read and written in generation.
        flops: Floating-point operations, estimated.
        hours: Of wall clock.
    """

    part: str
    kind: str
    steps: int
    trained: int | None
    generated: int | None
    flops: float | None
    hours: float | None


def costs(run: Run) -> list[Cost]:
    """Cost of each part of a finished run; without what the package shipped and what its pool drew.

    Args:
        run: The run; all of its steps are finished.
    """
    sizes: dict[str, int | None] = {}

    def size(path: str) -> int | None:
        if path not in sizes:
            sizes[path] = parameters(path)
        return sizes[path]

    parts: dict[tuple[str, str], list[Cost]] = {}
    for step in run.steps():
        if not (step.directory / MARKER).exists():  # shipped
            continue
        stage = step.directory.name
        if step.kind == "train":
            cost = _training(run, step, stage, size(str(step.directory)), size(run.actor_path))
        elif "/evaluate/" in step.name:  # what lmms-eval measures is of that kind, too, and has no records
            cost = _evaluation(run, step, size)
        elif step.kind in ("base", "actor", "sft"):
            cost = _supervised(step, step.kind, size(str(step.directory)))
        else:
            cost = Cost(step.kind, step.kind, 1, None, None, None, _hours(step))
        parts.setdefault((cost.part, cost.kind), []).append(cost)
    return [_sum(part, kind, of_part) for (part, kind), of_part in parts.items()]


def _training(run: Run, step: Step, name: str, n: int | None, actor: int | None) -> Cost:
    stage = run.config.stages[name]
    logs = [_state(place).get("log_history", []) for place in (step.directory / FIRST, step.directory)]
    log = [row for part in logs for row in part]
    rollouts = [row for row in log if "completions/mean_length" in row]
    if not rollouts:
        return _supervised(step, stage.label, n)
    passes, beta = (setting(as_dict(stage), key) for key in ("num_iterations", "beta"))
    drawn = int(sum(max((row.get("num_tokens") or 0 for row in part), default=0) for part in logs))
    refined = int(sum(row.get("tokens/actor") or 0 for row in rollouts))
    flops = None
    if n is not None and (actor is not None or not refined):
        again = 2 if beta else 1  # the model that drew the rollout, and the reference
        flops = n * drawn * (6.0 * passes + 2.0 + 2.0 * again) + 2.0 * (actor or 0) * refined
    hours = _hours(step)
    if hours is None:
        # An optimizer step's time is logged as the mean over those of an RL step. What the trainer says in the
        # end is of its last start alone.
        seconds = 0.0
        for part in logs:  # each counts its steps from 1
            before = 0
            for row in (row for row in part if "completions/mean_length" in row):
                seconds += (row["step"] - before) * (row.get("step_time") or 0.0)
                before = row["step"]
        hours = max([seconds, *(row["train_runtime"] for row in log if "train_runtime" in row)]) / 3600
    return Cost(stage.label, "train", 1, drawn * passes, drawn + refined, flops, hours)


def _supervised(step: Step, part: str, n: int | None) -> Cost:
    """A training whose log may be missing: then its tokens are not known."""
    state = _state(step.directory)
    seen = [row["num_tokens"] for row in state.get("log_history", ()) if row.get("num_tokens")]
    if not seen:
        return Cost(part, step.kind, 1, None, None, None, _hours(step))
    trained = int(max(seen))
    flops = state.get("total_flos") or (None if n is None else 6.0 * n * trained)  # transformers counts SFT's
    return Cost(part, step.kind, 1, trained, 0, flops, _hours(step))


def _evaluation(run: Run, step: Step, size: Any) -> Cost:
    tokens = sum(episode.tokens for episode in read_episodes(step.directory / "records.jsonl"))
    row, seed = step.directory.parent.name, int(step.name.partition("/")[0].removeprefix("seed"))
    given = step.settings.get("actor")
    paths = [str(given) if given else run.actor_path]
    paths += [run.model_path(row, seed)] if run.roles(row) else []
    sizes = [size(path) for path in paths]
    flops = None if None in sizes else 2.0 * max(n for n in sizes if n is not None) * tokens
    return Cost("evaluation", step.kind, 1, 0, tokens, flops, _hours(step))


def parameters(path: str) -> int | None:
    """Number of weights of a model, an adapter with those of its base; None where it cannot be told.

    Args:
        path: Directory, hub id or URL.
    """
    from safetensors import safe_open

    from critique_rl.runs.plan import parameter_count

    directory = Path(path)
    if "://" in path:
        return None
    if not directory.is_dir():
        return parameter_count(path)[0]
    count = 0
    for file in directory.glob("*.safetensors"):
        with safe_open(file, "pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118 - it is no mapping
                size = 1
                for length in tensors.get_slice(name).get_shape():
                    size *= length
                count += size
    adapter = directory / "adapter_config.json"
    if adapter.exists():
        base = json.loads(adapter.read_text(encoding="utf-8"))["base_model_name_or_path"]
        whole = parameters(str(base))
        return None if whole is None else whole + count
    return count or None


def _sum(part: str, kind: str, costs: Iterable[Cost]) -> Cost:
    costs = list(costs)

    def total(name: str) -> Any:
        values = [getattr(cost, name) for cost in costs]
        return None if None in values else sum(values)

    return Cost(
        part,
        kind,
        sum(cost.steps for cost in costs),
        *(total(name) for name in ("trained", "generated", "flops", "hours")),
    )


def _state(directory: Path) -> dict[str, Any]:
    path = directory / "trainer_state.json"
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.exists() else {}


def _hours(step: Step) -> float | None:
    """Hours that the step's marker holds; older ones hold none."""
    marker = json.loads((step.directory / MARKER).read_text(encoding="utf-8"))
    seconds = marker.get("seconds")
    return None if seconds is None else round(seconds / 3600, 4)
