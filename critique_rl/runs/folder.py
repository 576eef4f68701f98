"""A run's folder as it is read: where each artifact is, and what the records in it say.

`RunFolder` never plans, trains or loads a model. Reports, cards, tables, the viewer and notebooks take only this.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path
from typing import Any

from critique_rl.adapters import holds_model
from critique_rl.config.data import TaskConfig
from critique_rl.config.evaluation import BenchmarkConfig, ProtocolConfig
from critique_rl.config.methods import METHODS
from critique_rl.config.run import RunConfig
from critique_rl.manifest import is_description
from critique_rl.records import read_object
from critique_rl.types import UserError

MARKER = "step.json"
"""File that says with which settings a step was made, whether it is finished, the seconds that it took, and in the
end its files."""
RECORDS = "records.jsonl"
"""Episodes of an evaluation, one JSON object a line."""
STATE = "trainer_state.json"
"""Log of a training; trainers write it last."""
COMPLETIONS = "completions"
"""Folder of a training with a file for the rollouts of each RL step."""
ROWS = {"no_critic": "No critic", "sft": "SFT critic"}
"""Labels of the rows that are no stage."""


@dataclass(frozen=True)
class Measurement:
    """One row of a table on one task.

    Attributes:
        row: `no_critic`, `sft`, the name of a stage, or `STAGE@STEP` for the critic that a stage keeps after an RL
            step.
        task: Problems that are asked.
        protocol: How they are asked.
        name: Tells the protocol from another with the same row and task; part of the folder's name.
        actor: Another actor than the run's, as `make_actor` takes it: a path, a hub id or a URL.
    """

    row: str
    task: TaskConfig
    protocol: ProtocolConfig
    name: str = ""
    actor: str | None = None

    @property
    def stage(self) -> str:
        """The row without an RL step."""
        return self.row.partition("@")[0]

    def step(self, seed: int | None) -> str:
        """Name of the step that measures it with one seed."""
        name = "-".join(filter(None, (self.task.title, self.task.split, self.name)))
        return f"seed{seed}/evaluate/{self.row}/{name}"


@dataclass(frozen=True)
class Artifact:
    """The output of one step.

    Attributes:
        name: Name of the step, as on the command line: `seed0/stage1`.
        directory: Folder that holds it.
        subject: The row, stage, measurement or benchmark that it is about; None where the name says it.
        seed: Seed of the run that it belongs to; None where all seeds share it.
    """

    name: str
    directory: Path
    subject: Any = None
    seed: int | None = None


class RunFolder:
    """The folder of a run, and the part of it that a table is about.

    Args:
        config: Configuration of the run.
        from_scratch: Make the cold-start models even if the package ships them.
        measurements: Rows to measure; None takes all rows on all tasks of the configuration.
        judged: Rows that benchmarks measure; None takes all.

    Attributes:
        directory: The folder.
        shipped: Folder of the cold-start models that the package ships; None where the run makes them.
        benchmarks: Rows with the reward benchmarks that they judge.
        policies: Rows that lmms-eval measures.

    Raises:
        UserError: The package does not ship the models that the configuration names.
    """

    def __init__(
        self,
        config: RunConfig,
        *,
        from_scratch: bool = False,
        measurements: Sequence[Measurement] | None = None,
        judged: Sequence[str] | None = None,
    ) -> None:
        self.config, self.directory = config, config.directory
        self.shipped: Path | None = None
        if config.cold_start.shipped and not from_scratch:
            self.shipped = shipped_directory(config.cold_start.shipped)
        evaluation = config.evaluation
        rows = evaluation.rows or list(self.labels())
        if measurements is None:
            measurements = [
                Measurement(row, t, evaluation.protocol) for t in evaluation.tasks for row in rows
            ]
        self.measurements = list(measurements)
        judging = rows if judged is None else judged
        self.benchmarks = [(row, b) for b in evaluation.benchmarks for row in judging]
        asks_lmms_eval = evaluation.policy_benchmarks is not None
        self.policies = [row for row in judging if asks_lmms_eval and self.is_policy(row)]

    # -- rows and models ----------------------------------------------------------------------------------

    def labels(self) -> dict[str, str]:
        """Label of each row of the result table."""
        return ROWS | {name: stage.label for name, stage in self.config.stages.items()}

    def tasks(self) -> list[TaskConfig]:
        """Tasks of the measurements, each once."""
        tasks = [m.task for m in self.measurements]
        return [task for i, task in enumerate(tasks) if task not in tasks[:i]]

    def roles(self, row: str) -> tuple[str, ...]:
        """Roles of a row's model in the protocol: `critic`, `actor`, both or, for `no_critic`, neither."""
        name = row.partition("@")[0]
        if name == "no_critic":
            return ()
        return METHODS[self.config.stages[name].method].roles if name in self.config.stages else ("critic",)

    def is_policy(self, row: str) -> bool:
        """Whether the model of a row answers questions."""
        return row == "no_critic" or "actor" in self.roles(row)

    def model_path(self, name: str, seed: int | None = None) -> str:
        """Directory of the actor, the SFT critic or, with a seed, the critic of a stage or of `STAGE@STEP`."""
        if name in ("actor", "sft"):
            return str((self.shipped or self.directory) / name)
        stage, at, step = name.partition("@")
        directory = self.directory / f"seed{seed}" / stage
        return str(directory / f"rl_step-{step}" if at else directory)

    @property
    def actor_path(self) -> str:
        """Weights of the actor: as the configuration names them, or in the folder."""
        return str(self.config.actor.get("model") or self.model_path("actor"))

    # -- pairs --------------------------------------------------------------------------------------------

    def judges_pairs(self, m: Measurement) -> bool:
        """Whether the model of a row is also measured as a critic of pairs: a policy, with its own samples."""
        return self.config.evaluation.pairwise is not None and self.is_policy(m.row) and not m.name

    def sampled(self, m: Measurement, row: str | None = None) -> Measurement:
        """The same task with several samples of each problem, by the model of the row, or of another row."""
        options = self.config.evaluation.pairwise
        assert options is not None
        limits = [n for n in (m.task.limit, options.problems) if n is not None]
        return replace(
            m,
            row=row or m.row,
            task=replace(m.task, limit=min(limits, default=None)),
            protocol=ProtocolConfig(samples=options.samples, response_temperature=options.temperature),
            name="sampled",
        )

    # -- files --------------------------------------------------------------------------------------------

    def records(self, seed: int, m: Measurement) -> Path:
        """Episodes of one measurement."""
        return self.directory / m.step(seed) / RECORDS

    def pool_table(self, seed: int) -> Path:
        """The response pool of one seed, as `datasets` saves it."""
        return self.directory / f"seed{seed}" / "pool" / "table"

    def pair_judgements(self, seed: int, m: Measurement) -> Path:
        """Folder of a row's judgements of pairs."""
        return self.directory / f"seed{seed}" / "judge" / m.row / f"{m.task.title}-{m.task.split}"

    def benchmark_records(self, seed: int, row: str, benchmark: BenchmarkConfig) -> Path:
        """Judgements of one row on one reward benchmark."""
        return self.directory / f"seed{seed}" / "judge" / row / benchmark.name / "pairs.jsonl"

    def policy_scores(self, seed: int, row: str) -> Path:
        """Folder of a row's scores by lmms-eval."""
        return self.directory / f"seed{seed}" / "benchmarks" / row

    def history(self, seed: int, stage: str) -> list[dict[str, Any]]:
        """Log of a stage, one entry per RL step; empty where the method keeps none."""
        log = training_state(Path(self.model_path(stage, seed))).get("log_history", ())
        return [entry for entry in log if "critic/parse_rate" in entry]

    def artifact(self, name: str, subject: Any = None, seed: int | None = None) -> Artifact:
        """The artifact of a step of that name."""
        return Artifact(name, self.directory / name, subject, seed)


def read_marker(directory: Path) -> dict[str, Any] | None:
    """Marker of the step that wrote a folder; None where there is none.

    Raises:
        UserError: The file is damaged.
    """
    marker = _object(directory / MARKER)
    if marker is None:
        return None
    files = marker.get("files")
    of_its_form = isinstance(marker.get("settings"), dict) and isinstance(marker.get("finished"), bool)
    if not of_its_form or not (files is None or is_description(files)):
        raise UserError(f"{directory / MARKER} is damaged: it is no marker of a step. {_remedy(directory)}")
    return marker


def training_state(directory: Path) -> dict[str, Any]:
    """State that a trainer left in its folder, with `log_history`; empty where there is none.

    Raises:
        UserError: The file is damaged.
    """
    return _object(directory / STATE) or {}


def rollouts(directory: Path) -> tuple[dict[Path, int], list[Path]]:
    """Files of the rollouts that a training has recorded, with their rows, and those that cannot be read.

    The newest may still be written.
    """
    import pyarrow as pa
    from pyarrow import parquet

    rows, unreadable = dict[Path, int](), []
    for path in sorted((directory / COMPLETIONS).glob("*.parquet")):
        try:
            rows[path] = parquet.read_table(path, columns=["step"]).num_rows
        except (OSError, pa.ArrowException):
            unreadable.append(path)
    return rows, unreadable


def _object(path: Path) -> dict[str, Any] | None:
    """A JSON object; None where there is no file."""
    try:
        return read_object(path, _remedy(path.parent))
    except FileNotFoundError:
        return None


def _remedy(directory: Path) -> str:
    return f"Delete {directory} to make that step anew."


def shipped_directory(name: str) -> Path:
    """Folder of cold-start models inside the package.

    Raises:
        UserError: There are no models.
    """
    directory = Path(str(files("critique_rl"))) / name
    if not holds_model(directory / "actor"):
        raise UserError(f"cold_start.shipped: no models at {directory}; run with --from-scratch.")
    return directory
