"""The step that draws the response pool D_RL of a seed."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict

from critique_rl.config.reading import as_dict
from critique_rl.records import is_first_process, write
from critique_rl.runs.context import Context
from critique_rl.runs.folder import Artifact, RunFolder
from critique_rl.runs.kind import Plan, Recipe, StepKind
from critique_rl.runs.step import Step
from critique_rl.types import Sampling

COUNTS = "counts.json"
"""File of a pool's step with what became of the responses, as `PoolCounts` says."""


class PoolKind(StepKind):
    """Responses of the actor to train problems, graded; see `critique_rl.pool`."""

    command = "pool"
    all_ranks = True

    def artifacts(self, folder: RunFolder, seed: int | None) -> Iterable[Artifact]:
        """A run without train problems has no pool."""
        drawn = seed is not None and folder.config.train
        return [folder.artifact(f"seed{seed}/pool", seed=seed)] if drawn else []

    def plan(self, artifact: Artifact, plan: Plan) -> Recipe:
        return Recipe({**plan.data, "pool": as_dict(plan.config.pool), "seed": artifact.seed}, ("actor",))

    def make(self, step: Step, context: Context) -> None:
        """It goes on with the rounds of responses that are missing; each process draws its share."""
        from critique_rl.pool import PoolCounts, collect_pool

        config, counts = context.config, list[PoolCounts]()
        assert step.seed is not None
        pool = collect_pool(
            context.train_problems(config.pool.problems, "pool"),
            context.actor(),
            context.prompts,
            samples=config.pool.samples,
            sampling=Sampling(config.lengths.response, config.pool.temperature),
            balanced=config.pool.balanced,
            seed=step.seed,
            rounds=step.directory / "rounds",
            scorer=context.scorer(),
            on_progress=context.display.advance,
            on_counts=counts.append,
        )
        if not is_first_process():
            return
        context.display.note(counts[0].summary())
        write(step.directory / COUNTS, json.dumps(asdict(counts[0]), indent=1) + "\n")
        pool.save_to_disk(str(context.folder.pool_table(step.seed)))
