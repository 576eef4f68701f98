"""The step that draws the response pool D_RL of a seed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from critique_rl.config.reading import as_dict
from critique_rl.runs.context import Context
from critique_rl.runs.cost import Cost, time_alone
from critique_rl.runs.folder import Artifact, RunFolder
from critique_rl.runs.kind import Plan, Recipe
from critique_rl.runs.step import Step
from critique_rl.types import Sampling


class PoolKind:
    """Responses of the actor to train problems, graded; see `critique_rl.pool`."""

    command = "pool"
    trains = False

    def artifacts(self, folder: RunFolder, seed: int | None) -> Iterable[Artifact]:
        """See `StepKind.artifacts`; a run without train problems has no pool."""
        drawn = seed is not None and folder.config.train
        return [folder.artifact(f"seed{seed}/pool", seed=seed)] if drawn else []

    def plan(self, artifact: Artifact, plan: Plan) -> Recipe:
        """See `StepKind.plan`."""
        return Recipe({**plan.data, "pool": as_dict(plan.config.pool), "seed": artifact.seed}, ("actor",))

    def check(self, context: Context) -> None:
        """Nothing beyond the checks of problems and models."""

    def make(self, step: Step, context: Context) -> None:
        """See `StepKind.make`; it goes on after the last round of responses."""
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

    def rows(self, folder: RunFolder, seeds: Sequence[int]) -> Iterable[dict[str, Any]]:
        """No rows."""
        return ()

    def cost(self, folder: RunFolder, artifact: Artifact, size: Callable[[str], int | None]) -> Cost:
        """See `StepKind.cost`; the tokens of a pool are not recorded."""
        return time_alone(self.command, artifact)
