"""A study: all runs of one preset, and the rows of the tables and figures that are measured in them.

All scripts of a preset share one folder of runs: a critic that two tables need is trained once. Seeds run in
parallel processes. A row that a preset cannot serve is reported as not run, with the reason.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from critique_rl.config.data import TaskConfig
from critique_rl.config.evaluation import ProtocolConfig
from critique_rl.config.run import EXPERIMENTS, RunConfig, load_config
from critique_rl.config.training import StageConfig
from critique_rl.display import Display
from critique_rl.evaluation.episodes import Episode, read_episodes
from critique_rl.evaluation.intervals import ByProblem
from critique_rl.evaluation.localisation import localisation
from critique_rl.evaluation.scaling import Measure, means_by_problem
from critique_rl.evaluation.uptake import uptake
from critique_rl.methods.arms import arms, pairwise_arms, with_ancestors
from critique_rl.reports.results import by_dataset
from critique_rl.runs.folder import Measurement, RunFolder
from critique_rl.runs.run import Run
from critique_rl.runs.steps import STEP_KINDS
from critique_rl.runs.steps.evaluate import measured_row
from critique_rl.tasks import TASKS
from critique_rl.training.metrics import GROUPS, logged_curves
from critique_rl.types import child_seed

if TYPE_CHECKING:
    from critique_rl.reports.model_card import Measured

MAIN = ProtocolConfig()
"""The paper's main protocol: everything greedy, one critique, one refinement."""

COMPARED = {
    "No critic": "no_critic",
    "SFT critic": "sft",
    "Retroformer": "retroformer",
    "CTRL": "ctrl",
    "Critique-RL": "stage2",
}
"""The methods that the paper compares in most of its tables, with their arms."""


def sampled(samples: int, temperature: float = 0.7) -> ProtocolConfig:
    """The protocol of scaling curves and Pass@K: chains drawn at one temperature (paper: 0.7)."""
    return ProtocolConfig(
        response_temperature=temperature,
        critique_temperature=temperature,
        refinement_temperature=temperature,
        samples=samples,
    )


@dataclass(frozen=True)
class Row:
    """One row of a table, for each of its tasks.

    Attributes:
        method: Name in the table.
        arm: `no_critic`, `sft`, the name of an arm, or `ARM@STEP`.
        protocol: Protocol of the measurement.
        name: Tells the protocol from others of the same arm.
        tasks: Tasks of the measurement; None takes the preset's evaluation tasks.
        by_problem: Further metrics of its episodes.
        round: Round that is measured, from 0; `by_problem` gets the episodes of all rounds.
        actor: Another actor than the preset's, as `make_actor` takes it.
        x: Step or coefficient, where a method has several rows.
    """

    method: str
    arm: str
    protocol: ProtocolConfig = MAIN
    name: str = ""
    tasks: tuple[TaskConfig, ...] | None = None
    by_problem: Callable[[Sequence[Episode]], ByProblem] | None = None
    round: int = 0
    actor: str | None = None
    x: float | None = None

    def on(self, task: TaskConfig) -> Measurement:
        """The measurement of this row on one task."""
        return Measurement(self.arm, task, self.protocol, self.name, self.actor)


@dataclass(frozen=True)
class NotRun:
    """A row that is missing, and why.

    Attributes:
        method: Name in the table.
        dataset: Data set of the measurement.
        reason: Why it is not run.
    """

    method: str
    dataset: str
    reason: str


@dataclass(frozen=True)
class Table:
    """Table or figure of one script.

    Attributes:
        rows: Its rows in order.
        not_run: Rows that this preset cannot serve.
        columns: Metrics in the table.
        bars: Metrics drawn as bars, where there are no lines or curves.
        lines: Metrics drawn as lines over K (`NAME_at_1`, `NAME_at_2`, ...) or over the rows' `x`.
        x_label: Heading of that axis.
        curves: Arms whose training is drawn, by label; several arms of one label follow each other.
        example: Pairs of episodes to show.
        study: Study with the runs, if not that of the preset itself.
    """

    rows: Sequence[Row]
    not_run: Sequence[NotRun] = ()
    columns: Sequence[str] = ("acc_refine", "delta", "delta_ci", "delta_ic", "acc_dis", "acc_dis_balanced")
    bars: Sequence[str] = ("acc_refine", "acc_dis")
    lines: Sequence[str] = ()
    x_label: str | None = None
    curves: Mapping[str, Sequence[str]] = field(default_factory=dict)
    example: Example | None = None
    study: Study | None = None


@dataclass(frozen=True)
class Example:
    """Pairs of episodes of one problem and seed to show side by side.

    Attributes:
        first: Method of one row.
        second: Method of another, with the same actor and protocol.
        holds: Whether a pair is one that the figure is about.
        about: Caption of such a pair.
        most: Most pairs to show.
    """

    first: str
    second: str
    holds: Callable[[Episode, Episode], bool]
    about: str
    most: int = 3


@dataclass
class Study:
    """All runs of one preset.

    Attributes:
        preset: Name of a configuration.
        config: The configuration.
        seeds: Seeds of every row.
        jobs: Seeds that run in parallel.
        overrides: Settings that replace those of the configuration.
        arms: All critics by name.
    """

    preset: str
    config: RunConfig
    seeds: Sequence[int]
    jobs: int = 1
    overrides: Sequence[str] = ()
    arms: dict[str, StageConfig] = field(init=False)

    def __post_init__(self) -> None:
        self.arms = pairwise_arms(self.config) if self.pairwise else arms(self.config)

    @property
    def pairwise(self) -> bool:
        """Whether the preset belongs to LLaVA-Critic-R1, which has its own folder of tables."""
        return "critic" in self.config.stages

    @property
    def scripts(self) -> Path:
        """Folder of the scripts and of the paper's numbers."""
        return EXPERIMENTS / "llava_critic_r1" if self.pairwise else EXPERIMENTS

    def variant(self, name: str) -> Study | None:
        """The study of configuration `PRESET-NAME`: another task, the same models; None where there is none."""
        path = EXPERIMENTS / "configs" / f"{self.preset}-{name}.yaml"
        return study_of(path, self.preset, self.seeds, self.jobs, self.overrides) if path.exists() else None

    def run(self, rows: Sequence[Row], seeds: Sequence[int]) -> Run:
        """The run of some rows and seeds: their arms, the arms that these start from, and their measurements."""
        quiet = len(self.seeds) > 1 and self.jobs > 1
        config, selection = self._selected(rows, seeds)
        return Run(config, display=Display(quiet=quiet), **selection)

    def execute(self, rows: Sequence[Row], seeds: Sequence[int], kinds: Sequence[str] | None = None) -> None:
        """Make what some rows and seeds lack, with a card for each checkpoint; see `Run.execute`."""
        from critique_rl.reports.model_card import write_new  # slow to import

        run = self.run(rows, seeds)
        run.execute(kinds, after_step=lambda step: write_new(run.folder, step))

    def folder(self, rows: Sequence[Row]) -> RunFolder:
        """The folder of some rows and all seeds, for what reads their results."""
        config, selection = self._selected(rows, self.seeds)
        return RunFolder(config, **selection)

    def _selected(self, rows: Sequence[Row], seeds: Sequence[int]) -> tuple[RunConfig, dict[str, Any]]:
        """Configuration of some rows and seeds, and its measurements and judged rows."""
        wanted = [row.arm.partition("@")[0] for row in rows]
        stages = with_ancestors(self.arms, wanted)
        # The rows of the configuration name its own stages.
        evaluation = replace(self.config.evaluation, rows=None)
        config = replace(self.config, stages=stages, seeds=list(seeds), evaluation=evaluation)
        measurements = [row.on(task) for row in rows for task in self.tasks(row)]
        return config, {
            "measurements": [m for i, m in enumerate(measurements) if m not in measurements[:i]],
            "judged": list(dict.fromkeys(row.arm for row in rows)),
        }

    def served(self, rows: Sequence[Row]) -> tuple[list[Row], list[NotRun]]:
        """Rows whose arm the preset can make, and the other rows with the reason."""
        known = [row for row in rows if row.arm.partition("@")[0] in ("no_critic", "sft", *self.arms)]
        evaluation = self.config.evaluation
        where = [t.title for t in evaluation.tasks] or [b.name for b in evaluation.benchmarks]
        reason = "the preset has no problems to train on"
        missing = [NotRun(row.method, name, reason) for row in rows if row not in known for name in where]
        return known, missing

    def tasks(self, row: Row) -> Sequence[TaskConfig]:
        """Tasks of a row."""
        return self.config.evaluation.tasks if row.tasks is None else row.tasks

    def sampled_tasks(self) -> tuple[TaskConfig, ...]:
        """The evaluation tasks, each with the number of problems that scaling curves use."""
        most, tasks = self.config.evaluation.sampled_problems, self.config.evaluation.tasks
        return tuple(tasks if most is None else [replace(task, limit=most) for task in tasks])

    def unfinished(self, rows: Sequence[Row], seed: int) -> bool:
        """Whether a step that the rows need is missing for a seed."""
        return any(not step.finished() for step in self.run(rows, [seed]).steps())

    def results(self, rows: Sequence[Row]) -> list[dict[str, Any]]:
        """Rows of a result file, from the records, by data set.

        A second row of the same method adds its `by_problem` metrics to the first.
        """
        folder = self.folder(rows)
        benchmarked = [
            {key: row[key] for key in ("row", "dataset", "metrics", "records")}
            for kind in ("reward_benchmarks", "policy_benchmarks")
            for row in STEP_KINDS[kind].rows(folder, self.seeds)
        ]
        by_key: dict[tuple[str, str, float | None], dict[str, Any]] = {}
        for row in rows:
            x = {} if row.x is None else {"x": row.x}
            for task in self.tasks(row):
                measured = measured_row(
                    folder, row.on(task), self.seeds, by_problem=row.by_problem, round_number=row.round
                )
                key = (task.title, row.method, row.x)
                if key in by_key and measured["further"]:
                    further = {name: measured["metrics"].get(name) for name in measured["further"]}
                    by_key[key]["metrics"] |= {k: v for k, v in further.items() if v is not None}
                    by_key[key]["records"] += measured["records"]
                else:
                    named = {"method": row.method, "dataset": task.title}
                    by_key[key] = named | {k: measured[k] for k in ("metrics", "records")} | x
            for of_benchmark in benchmarked:
                if of_benchmark["row"] == row.arm:
                    named = {k: v for k, v in of_benchmark.items() if k != "row"}
                    by_key[named["dataset"], row.method, row.x] = {"method": row.method} | named | x
        return by_dataset(list(by_key.values()))

    def measured(self, rows: Sequence[Row], results: Sequence[Mapping[str, Any]]) -> list[Measured]:
        """Rows of a result file for the cards of their checkpoints: those of the main protocol and own actor."""
        by_key = {(r["method"], r["dataset"], r.get("x")): r["metrics"] for r in results}
        return [
            (row.arm, task, by_key[row.method, task.title, row.x])
            for row in rows
            for task in self.tasks(row)
            if row.protocol == MAIN and row.actor is None and row.round == 0
        ]

    def curves(self, wanted: Mapping[str, Sequence[str]]) -> dict[str, list[dict[str, list[float | None]]]]:
        """Training logs by label and seed: for each metric a list over RL steps, rounded to three digits."""
        folder = self.folder([Row(label, arm) for label, arms in wanted.items() for arm in arms])
        curves: dict[str, list[dict[str, list[float | None]]]] = {}
        for label, names in wanted.items():
            curves[label] = []
            for seed in self.seeds:
                log = [entry for name in names for entry in folder.history(seed, name)]
                curves[label].append(logged_curves(log))
        return curves

    def examples(self, wanted: Example, rows: Sequence[Row]) -> list[dict[str, Any]]:
        """Pairs of episodes that the example asks for, drawn by a hash of their problem, and their number."""
        folder, by_method = self.folder(rows), {row.method: row for row in rows}
        first, second = by_method[wanted.first], by_method[wanted.second]
        pairs: list[tuple[int, Episode, Episode]] = []
        for seed in self.seeds:
            for task in self.tasks(first):
                others = {e.id: e for e in read_episodes(folder.records(seed, second.on(task)))}
                for e in read_episodes(folder.records(seed, first.on(task))):
                    if e.id in others and wanted.holds(e, others[e.id]):
                        pairs.append((seed, e, others[e.id]))
        pairs.sort(key=lambda pair: child_seed(0, "example", pair[1].id, pair[0]))
        return [
            {
                "about": wanted.about,
                "id": one.id,
                "seed": seed,
                "of": len(pairs),
                "episodes": [
                    {"method": method, **asdict(e)}
                    for method, e in ((wanted.first, one), (wanted.second, other))
                ],
            }
            for seed, one, other in pairs[: wanted.most]
        ]


def other_actor(study: Study, preset: str, actor: str, tasks: Sequence[TaskConfig]) -> Table:
    """Critics of one preset with an actor that they were not trained with (Tables 5 and 6)."""
    if study.preset != preset:
        reason = f"needs the critics of preset {preset} and {actor}"
        return Table([], [NotRun(method, task.title, reason) for task in tasks for method in COMPARED])
    name = f"actor_{actor.rpartition('/')[2]}"
    return Table([Row(m, arm, tasks=tuple(tasks), name=name, actor=actor) for m, arm in COMPARED.items()])


def study_of(path: Path, preset: str, seeds: Sequence[int], jobs: int, overrides: Sequence[str]) -> Study:
    """The study of the configuration at a path, with its seeds and jobs."""
    given = [f"output=runs/tables/{path.stem}", f"seeds={json.dumps(list(seeds))}", *overrides]
    config = load_config(path, given)
    if config.threads is not None:
        # Sums of floats depend on the number of threads: so no result depends on --jobs.
        config = load_config(path, ["threads=1", *given])
    return Study(preset, config, config.seeds, jobs, overrides)


def localised(study: Study, task: TaskConfig) -> Measure:
    """Metrics of each problem on localisation, e.g. whether the first flagged step is the first wrong step.

    Only for a task whose steps are known (`Task.first_error`); see `critique_rl.evaluation.localisation`.
    """
    first_error = TASKS[task.name].first_error
    assert first_error is not None
    run = study.run([], study.seeds)
    problems = {p.id: p for p in run.context.problems(task)}
    return partial(
        _of_group, "steps", lambda e: localisation([e], problems, first_error, run.context.prompts)
    )


def taken_up(episodes: Sequence[Episode]) -> ByProblem:
    """Metrics of each problem on what the actor does with critiques; see `critique_rl.evaluation.uptake`."""
    return _of_group("uptake", lambda episode: uptake([episode]), episodes)


def _of_group(
    group: str, measure: Callable[[Episode], Mapping[str, float | None]], episodes: Sequence[Episode]
) -> ByProblem:
    """The metrics of a group, measured on each episode, as means by problem."""
    by_episode = [(episode.id, measure(episode)) for episode in episodes]
    return {
        name: means_by_problem((identity, values[name]) for identity, values in by_episode)
        for name in GROUPS[group]
    }
