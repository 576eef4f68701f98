"""The step that draws the response pool D_RL of a seed."""

from __future__ import annotations

from collections.abc import Iterable

from critique_rl.config.reading import as_dict
from critique_rl.runs.context import Context
from critique_rl.runs.folder import Artifact, RunFolder
from critique_rl.runs.kind import Plan, Recipe, StepKind
from critique_rl.runs.step import Step
from critique_rl.types import Sampling


class PoolKind(StepKind):
    """Responses of the actor to train problems, graded; see `critique_rl.pool`."""

    command = "pool"

    def artifacts(self, folder: RunFolder, seed: int | None) -> Iterable[Artifact]:
        """A run without train problems has no pool."""
        drawn = seed is not None and folder.config.train
        return [folder.artifact(f"seed{seed}/pool", seed=seed)] if drawn else []

    def plan(self, artifact: Artifact, plan: Plan) -> Recipe:
        return Recipe({**plan.data, "pool": as_dict(plan.config.pool), "seed": artifact.seed}, ("actor",))

    def make(self, step: Step, context: Context) -> None:
        """It goes on after the last round of responses."""
        from critique_rl.pool import collect_pool

        config = context.config
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
        )
        pool.save_to_disk(str(context.folder.pool_table(step.seed)))
