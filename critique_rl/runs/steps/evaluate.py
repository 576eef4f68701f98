"""The step that measures one row on one task; and the one place where episodes become a result row's metrics."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from critique_rl.config.reading import as_dict
from critique_rl.evaluation.episodes import read_episodes, unknown_replies
from critique_rl.evaluation.scaling import Measure, by_round
from critique_rl.evaluation.summary import summarise
from critique_rl.records import rank_of_ranks
from critique_rl.runs.context import Context
from critique_rl.runs.cost import Cost, hours
from critique_rl.runs.folder import RECORDS, Artifact, Measurement, RunFolder, read_marker
from critique_rl.runs.kind import Plan, Recipe, StepKind
from critique_rl.runs.problems import protocol_of
from critique_rl.runs.step import Step
from critique_rl.runs.steps.cold_start import check_loading
from critique_rl.runs.steps.pairs import pair_values

if TYPE_CHECKING:
    from critique_rl.actors import Actor


class EvaluateKind(StepKind):
    """Episodes of one measurement: response, critique, refinement and grade of each problem."""

    command = "evaluate"
    all_ranks = True

    def artifacts(self, folder: RunFolder, seed: int | None) -> Iterable[Artifact]:
        """A critic of pairs also needs samples of its own and of the actor."""
        if seed is None:
            return []
        pairwise = [m for m in folder.measurements if folder.judges_pairs(m)]
        own = [folder.sampled(m) for m in pairwise]
        held_out = [folder.sampled(m, "no_critic") for m in pairwise]
        by_name: dict[str, Measurement] = {}
        for m in (*folder.measurements, *own, *held_out):
            by_name.setdefault(m.step(seed), m)
        return [folder.artifact(name, m, seed) for name, m in by_name.items()]

    def plan(self, artifact: Artifact, plan: Plan) -> Recipe:
        """Where replies are scored, the pool gives the scale of the ratings."""
        m, seed = artifact.subject, artifact.seed
        inputs = ["actor", *(plan.pool_step(seed) if plan.config.scorer is not None else [])]
        if m.stage != "no_critic":
            inputs.append(plan.model_step(m.row, seed))
        settings = {"task": as_dict(m.task), "protocol": as_dict(m.protocol), "actor": m.actor}
        return Recipe({**settings, **plan.loading(m.row), **plan.texts, "seed": seed}, inputs)

    def check(self, context: Context) -> None:
        """Check the settings of the rows' models by name."""
        check_loading(context.config.evaluation.critic, "evaluation.critic", leave_out=("model", "tokenizer"))

    def make(self, step: Step, context: Context) -> None:
        """It goes on after the last record; each process evaluates its share of the problems."""
        from critique_rl.actors import make_actor
        from critique_rl.evaluation.protocol import evaluate

        folder, m, seed = context.folder, step.subject, step.seed
        assert seed is not None
        rank, ranks = rank_of_ranks()
        roles = folder.roles(m.row)
        trained = context.model(m.row, seed) if roles else None
        if trained is not None and "actor" in roles:
            actor: Actor = trained
        else:
            actor = context.actor() if m.actor is None else make_actor(m.actor)
        episodes = evaluate(
            context.problems(m.task),
            actor,
            trained if "critic" in roles else None,
            protocol_of(m.protocol, context.prompts, context.config.lengths, seed),
            records=folder.records(seed, m),
            rater=context.rater(seed),
            on_progress=context.display.advance,
            on_turn=context.display.turn,
            rank=rank,
            ranks=ranks,
        )
        if unknown := unknown_replies(episodes):
            context.display.note(unknown)

    def rows(self, folder: RunFolder, seeds: Sequence[int]) -> Iterable[dict[str, Any]]:
        """With several rounds, the share of right refinements after each."""
        for m in folder.measurements:
            rounds = by_round(range(1, m.protocol.rounds + 1)) if m.protocol.rounds > 1 else None
            yield measured_row(folder, m, seeds, by_problem=rounds)

    def cost(self, folder: RunFolder, artifact: Artifact, size: Callable[[str], int | None]) -> Cost:
        m, spent = artifact.subject, hours(artifact.directory)
        tokens = sum(episode.tokens or 0 for episode in read_episodes(artifact.directory / RECORDS))
        settings = (read_marker(artifact.directory) or {}).get("settings", {})
        paths = [str(settings.get("actor") or folder.actor_path)]
        paths += [folder.model_path(m.row, artifact.seed)] if folder.roles(m.row) else []
        sizes = [size(path) for path in paths]
        flops = None if None in sizes else 2.0 * max(n for n in sizes if n is not None) * tokens
        return Cost("evaluation", self.command, 1, 0, tokens, flops, spent)


def measured_row(
    folder: RunFolder,
    m: Measurement,
    seeds: Sequence[int],
    *,
    by_problem: Measure | None = None,
    round_number: int = 0,
) -> dict[str, Any]:
    """Metrics of one measurement over seeds, from its records.

    Args:
        folder: Folder of the run.
        m: The measurement.
        seeds: Seeds of the run.
        by_problem: Further metrics of all rounds of the episodes.
        round_number: Round of which the protocol's own metrics are, from 0.

    Returns:
        `row`, `dataset`, `metrics` as `summarise` gives them, `records`, and under `further` the names of metrics
        that `by_problem` or the judgement of pairs adds.
    """
    paths = [folder.records(seed, m) for seed in seeds]
    episodes = [read_episodes(path) for path in paths]
    further: list[dict[str, Any]] = [{} for _ in seeds]
    if folder.judges_pairs(m):
        further = [dict(pair_values(folder, m, seed)) for seed in seeds]
    if by_problem is not None:
        further = [{**known, **by_problem(of_seed)} for known, of_seed in zip(further, episodes, strict=True)]
    of_round = [[e for e in of_seed if e.round == round_number] for of_seed in episodes]
    return {
        "row": m.row,
        "dataset": m.task.title,
        "metrics": summarise(of_round, further),
        "records": [str(path) for path in paths],
        "further": list(further[0]) if further else [],
    }
