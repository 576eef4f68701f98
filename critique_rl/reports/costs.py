"""Cost of a run: tokens, floating-point operations as an estimate, hours of wall clock, summed by part."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from typing import Any

from critique_rl.runs.cost import Cost
from critique_rl.runs.folder import RunFolder, read_marker
from critique_rl.runs.sizes import parameters
from critique_rl.runs.steps import STEP_KINDS

__all__ = ["HOW", "Cost", "costs", "parameters"]

HOW = (
    "Tokens are logged, prompts included. Trained: tokens of the rollouts, times the passes over each. Generated: "
    "tokens that critic and actor read and write. Of runs by several processes, those of the actor in training "
    "are of one process. FLOPs are an estimate, with N the weights of the model: 6 N for each token that is "
    "trained on, 2 N for each token that is generated and, in RL, 2 N for each token of a rollout whose "
    "log-probabilities are taken again, once for the model that drew it and once for the reference of a KL. Hours "
    "are of wall clock, summed over steps: those that ran beside each other count each. A dash is for what was "
    "not recorded."
)


def costs(folder: RunFolder) -> list[Cost]:
    """Cost of each part of a finished run, in the order of its steps; shipped artifacts cost nothing."""
    size = functools.cache(parameters)  # one model is read once
    parts: dict[tuple[str, str], list[Cost]] = {}
    for seed in (None, *folder.config.seeds):
        for kind in STEP_KINDS.values():
            for artifact in kind.artifacts(folder, seed):
                if read_marker(artifact.directory) is not None:
                    cost = kind.cost(folder, artifact, size)
                    parts.setdefault((cost.part, cost.kind), []).append(cost)
    return [_sum(part, kind, of_part) for (part, kind), of_part in parts.items()]


def _sum(part: str, kind: str, costs: Iterable[Cost]) -> Cost:
    costs = list(costs)

    def total(name: str) -> Any:
        values = [getattr(cost, name) for cost in costs]
        return None if None in values else sum(values)

    return Cost(part, kind, *map(total, ("steps", "trained", "generated", "flops", "hours")))
