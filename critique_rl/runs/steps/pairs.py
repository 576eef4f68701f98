"""The step in which a policy judges pairs: held-out ones of the actor, and its own samples by knock-out."""

from __future__ import annotations

from collections.abc import Iterable

from critique_rl.benchmarks.pairs import PairEvaluation
from critique_rl.config.reading import as_dict
from critique_rl.evaluation.episodes import read_episodes
from critique_rl.evaluation.intervals import ByProblem
from critique_rl.runs.context import Context
from critique_rl.runs.folder import Artifact, Measurement, RunFolder
from critique_rl.runs.kind import Plan, Recipe, StepKind
from critique_rl.runs.step import Step
from critique_rl.types import child_seed


class PairsKind(StepKind):
    """Judgements of pairs by the model of one row; see `critique_rl.benchmarks.pairs`."""

    command = "judge"

    def artifacts(self, folder: RunFolder, seed: int | None) -> Iterable[Artifact]:
        if seed is None:
            return []
        pairwise = [m for m in folder.measurements if folder.judges_pairs(m)]
        places = [(folder.pair_judgements(seed, m).relative_to(folder.directory), m) for m in pairwise]
        return [folder.artifact(place.as_posix(), m, seed) for place, m in places]

    def plan(self, artifact: Artifact, plan: Plan) -> Recipe:
        """The samples that it judges are its inputs."""
        m, seed = artifact.subject, artifact.seed
        settings = {"pairwise": as_dict(plan.config.evaluation.pairwise), **plan.texts, "seed": seed}
        samples = (plan.folder.sampled(m, "no_critic"), plan.folder.sampled(m))
        return Recipe(settings, list(dict.fromkeys(sample.step(seed) for sample in samples)))

    def make(self, step: Step, context: Context) -> None:
        """It goes on after the last judgement."""
        m, seed = step.subject, step.seed
        assert seed is not None
        pair_evaluation(context.folder, m, seed).run(
            context.model(m.row, seed),
            context.prompts,
            context.config.lengths.critique,
            context.display.advance,
        )


def pair_evaluation(folder: RunFolder, m: Measurement, seed: int) -> PairEvaluation:
    """The judgement of pairs by a row's model; its samples must have been drawn."""
    options = folder.config.evaluation.pairwise
    assert options is not None
    return PairEvaluation(
        options,
        name=f"{m.row}, seed {seed}",
        held_out=read_episodes(folder.records(seed, folder.sampled(m, "no_critic"))),
        own=read_episodes(folder.records(seed, folder.sampled(m))),
        seed=child_seed(seed, "pairs"),
        directory=folder.pair_judgements(seed, m),
    )


def pair_values(folder: RunFolder, m: Measurement, seed: int) -> ByProblem:
    """Metrics of a row as a critic of pairs, by pair or problem, from its judgements.

    Raises:
        UserError: Judgements are missing.
    """
    return pair_evaluation(folder, m, seed).values()
