"""The step in which lmms-eval measures the policy of a row, in processes of its own."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Sequence
from typing import Any

from critique_rl.adapters import is_adapter
from critique_rl.benchmarks import policy
from critique_rl.config.reading import as_dict
from critique_rl.config.run import RunConfig
from critique_rl.evaluation.intervals import t_interval
from critique_rl.runs.context import Context
from critique_rl.runs.folder import Artifact, RunFolder
from critique_rl.runs.kind import Plan, Recipe, StepKind
from critique_rl.runs.step import Step
from critique_rl.types import UserError

LMMS_EVAL_SPEED = ("python", "processes", "batch_size")
"""Options of lmms-eval that change where and how fast it works, not its scores."""


class PolicyBenchmarksKind(StepKind):
    """Scores of one row's policy; see `critique_rl.benchmarks.policy`."""

    command = "evaluate"

    def artifacts(self, folder: RunFolder, seed: int | None) -> Iterable[Artifact]:
        rows = folder.policies if seed is not None else []
        return [folder.artifact(f"seed{seed}/benchmarks/{row}", row, seed) for row in rows]

    def plan(self, artifact: Artifact, plan: Plan) -> Recipe:
        options = lmms_eval_options(plan.config)
        settings = {key: value for key, value in options.items() if key not in LMMS_EVAL_SPEED}
        return Recipe({"policy_benchmarks": settings}, (plan.model_step(artifact.subject, artifact.seed),))

    def check(self, context: Context) -> None:
        """Check that lmms-eval is installed and can be asked for these benchmarks of these models."""
        folder, config = context.folder, context.config
        if not folder.policies:
            return
        options = lmms_eval_options(config)
        policy.command(folder.model_path("actor"), folder.directory, **options)
        policy.check_installed(options["python"])
        if "no_critic" in folder.policies and not config.loads_actor:
            raise UserError(
                "evaluation.policy_benchmarks: lmms-eval loads the actor itself and cannot ask a server; give "
                "`actor` a model, or leave no_critic out of `evaluation.rows`."
            )

    def make(self, step: Step, context: Context) -> None:
        """An interrupted measurement begins anew. Adapters are merged for it."""
        from critique_rl.training.checkpoints import merge_adapter

        folder, row = context.folder, step.subject
        path = folder.actor_path if row == "no_critic" else folder.model_path(row, step.seed)
        merged = step.directory / "merged"
        if is_adapter(path):
            path = merge_adapter(path, merged)
        policy.measure(path, step.directory, **lmms_eval_options(context.config))
        shutil.rmtree(merged, ignore_errors=True)

    def rows(self, folder: RunFolder, seeds: Sequence[int]) -> Iterable[dict[str, Any]]:
        """A data set is a benchmark, a category, or all."""
        for row in folder.policies:
            places = [folder.policy_scores(seed, row) for seed in seeds]
            scores = [policy.with_averages(policy.read_scores(place)) for place in places]
            for name in scores[0]:
                metrics = {"acc": t_interval([of_seed[name] for of_seed in scores])}
                paths = [str(place / policy.SCORES) for place in places]
                yield {"row": row, "dataset": name, "metrics": metrics, "records": paths}


def lmms_eval_options(config: RunConfig) -> dict[str, Any]:
    """Arguments of `policy.command`, with the benchmarks by name and the run's limits on images."""
    options = config.evaluation.policy_benchmarks
    assert options is not None
    named = {"benchmarks": options.benchmarks or list(policy.SELF_SCORED)}
    return as_dict(options) | named | {"model_args": config.pixel_limits | options.model_args}
