"""The step in which a row's model judges the pairs of a reward benchmark, in both orders."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

from critique_rl.benchmarks import PairJudgement, evaluate_benchmark, grouped_by_item, load_reward_benchmark
from critique_rl.config.reading import as_dict
from critique_rl.evaluation.summary import summarise
from critique_rl.records import read_records
from critique_rl.runs.context import Context
from critique_rl.runs.folder import Artifact, RunFolder
from critique_rl.runs.kind import Plan, Recipe, StepKind
from critique_rl.runs.step import Step


class RewardBenchmarksKind(StepKind):
    """Judgements of one reward benchmark by the model of one row; see `critique_rl.benchmarks`."""

    command = "judge"

    def artifacts(self, folder: RunFolder, seed: int | None) -> Iterable[Artifact]:
        asked = folder.benchmarks if seed is not None else []
        return [
            folder.artifact(f"seed{seed}/judge/{row}/{benchmark.name}", (row, benchmark), seed)
            for row, benchmark in asked
        ]

    def plan(self, artifact: Artifact, plan: Plan) -> Recipe:
        row, benchmark = artifact.subject
        settings = {"benchmark": as_dict(benchmark), **plan.texts, **plan.loading(row), "seed": artifact.seed}
        return Recipe(settings, (plan.model_step(row, artifact.seed),))

    def make(self, step: Step, context: Context) -> None:
        """It goes on after the last judgement."""
        from critique_rl.self_critique import ActorJudge

        (row, benchmark), seed = step.subject, step.seed
        assert seed is not None
        records = context.folder.benchmark_records(seed, row, benchmark)
        result = evaluate_benchmark(
            load_reward_benchmark(benchmark.name, benchmark.origin, image_root=benchmark.image_root),
            ActorJudge(
                context.model(row, seed),
                prompts=context.prompts,
                thinking=benchmark.thinking,
                max_tokens=context.config.lengths.critique,
            ),
            seed=seed,
            records=records,
            name=f"{row}, seed {seed}",
            on_progress=context.display.advance,
        )
        summary = json.dumps(result.summary, indent=1, ensure_ascii=False) + "\n"
        records.with_name("summary.json").write_text(summary, encoding="utf-8")

    def rows(self, folder: RunFolder, seeds: Sequence[int]) -> Iterable[dict[str, Any]]:
        """A data set is a benchmark."""
        for row, benchmark in folder.benchmarks:
            paths = [folder.benchmark_records(seed, row, benchmark) for seed in seeds]
            values = [grouped_by_item(read_records(path, PairJudgement)) for path in paths]
            metrics = summarise([[] for _ in seeds], values)
            yield {
                "row": row,
                "dataset": benchmark.name,
                "metrics": metrics,
                "records": [str(path) for path in paths],
            }
