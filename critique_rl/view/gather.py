"""Reads the folder of a run, an evaluation or a trainer; writes nothing there, the run may still be at work."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from critique_rl.benchmarks.judging import PairJudgement
from critique_rl.critic_data import PreferencePair, pairs_of_responses
from critique_rl.evaluation.episodes import Episode
from critique_rl.evaluation.summary import summarise
from critique_rl.prompts import PROMPT_SETS
from critique_rl.records import Record, read_object, read_records
from critique_rl.runs.folder import COMPLETIONS, MARKER, RECORDS, ROWS, STATE, rollouts
from critique_rl.tasks import TASKS, load_task
from critique_rl.types import UserError, child_seed, problem_id
from critique_rl.view.entries import Entry, FirstError, of_episode, of_judgement, of_training, read_settings
from critique_rl.vision.images import as_url

REPORT = "report.json"
_LEAVE_OUT = "Move it elsewhere, and `view` shows what else is there."
JUDGEMENTS = "pairs.jsonl"
_SEED = re.compile(r"seed\d+")


@dataclass(frozen=True)
class Source:
    """Episodes of one evaluation or one training.

    Attributes:
        run: Number of its run on the page.
        key: Its folder, relative to that of the run.
        label: Heading for people.
        training: Whether a trainer has recorded them.
        entries: The episodes that are shown, perhaps not all.
        total: Number of episodes.
    """

    run: int
    key: str
    label: str
    training: bool
    entries: Sequence[Entry]
    total: int


@dataclass(frozen=True)
class Curve:
    """Log of one training.

    Attributes:
        run: Number of its run on the page.
        stage: Label of the stage.
        part: Its folder, relative to that of the run, which tells seeds apart.
        rows: The log, one mapping per RL step.
    """

    run: int
    stage: str
    part: str
    rows: Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Table:
    """Metrics of one run.

    Attributes:
        run: Number of its run on the page.
        origin: Source of its numbers, for people.
        rows: `method`, `dataset`, `metrics`, as in a result file.
    """

    run: int
    origin: str
    rows: Sequence[Mapping[str, Any]]


@dataclass
class Gathered:
    """Content of a page.

    Attributes:
        names: Names of the runs.
        sources: Episodes.
        curves: Logs of trainings.
        tables: Metrics.
        notes: What is left out, and why.
    """

    names: Sequence[str]
    sources: list[Source] = field(default_factory=list)
    curves: list[Curve] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def gather(folders: Sequence[Path], *, limit: int) -> Gathered:
    """Read one run or part of a run, or two to compare; at most `limit` episodes of each.

    Raises:
        UserError: A folder is missing or holds nothing to show, or a file cannot be read.
    """
    names = [_name(folder) for folder in folders]
    if len(set(names)) < len(names):
        names = [str(folder) for folder in folders]
    gathered, tasks = Gathered(names), _Tasks()
    for number, folder in enumerate(folders):
        _gather_run(gathered, tasks, number, folder, limit)
    gathered.notes += tasks.notes
    return gathered


def _gather_run(gathered: Gathered, tasks: _Tasks, run: int, folder: Path, limit: int) -> None:
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; give a run, a part of one, or the output of `eval`.")
    labels = _labels(folder)

    def add(place: Path, entries: list[Entry], recorded: int, *, training: bool) -> None:
        seed, name, rest = _named(place)
        parts = [labels.get(name, name), rest, seed, "training" if training else ""]
        label = ", ".join(filter(None, parts))
        gathered.sources.append(Source(run, _key(place, folder), label, training, entries, recorded))

    records = _found(folder, RECORDS, labels)
    steps = {path.parent: _steps(path.parent, gathered.notes) for path in _found(folder, COMPLETIONS, labels)}
    states = _found(folder, STATE, labels)
    judged = {path.parent: _read(path, PairJudgement) for path in _found(folder, JUDGEMENTS, labels)}
    if not (records or judged or any(steps.values()) or states or (folder / REPORT).exists()):
        raise UserError(
            f"{folder} holds no {RECORDS}, {COMPLETIONS} or {STATE}: give a folder that `critique-rl run` or "
            "`eval` has written."
        )
    episodes = {path.parent: _read(path, Episode) for path in records}
    pairs_of = functools.cache(_pairs)  # all rows of a task judge the same pairs
    pairs = {place: pairs_of(_samples(place)) for place in judged}
    for place, known in pairs.items():
        if any(j.pair not in known for j in judged[place]):
            note = "judgements are left out, their pairs are not in the run"
            gathered.notes.append(f"{_key(place, folder)}: {note}")
            del judged[place]
    for path in states:
        rows = [row for row in read_object(path, _LEAVE_OUT).get("log_history", []) if "reward" in row]
        if rows:
            stage = path.parent.resolve().name
            gathered.curves.append(Curve(run, labels.get(stage, stage), _key(path.parent, folder), rows))
    sizes = {place: len(records_there) for place, records_there in (episodes | judged).items()}
    sizes |= {place: sum(files.values()) for place, files in steps.items() if files}
    shares = _shares(sizes, limit)
    for place, recorded in episodes.items():
        first_error = tasks.first_error(read_settings(place / MARKER))
        drawn = _drawn(recorded, [e.id for e in recorded], shares[place])
        entries = [of_episode(e, first_error) for e in drawn]
        add(place, entries, len(recorded), training=False)
    for place, judgements in judged.items():
        asked = _drawn(judgements, [j.pair for j in judgements], shares[place])
        entries = [of_judgement(j, pairs[place][j.pair]) for j in asked]
        add(place, entries, len(judgements), training=False)
    for place, files in steps.items():
        if files:
            first_error = tasks.first_error(read_settings(place.parent / "pool" / MARKER))
            add(
                place,
                _training(files, shares[place], first_error, gathered.notes),
                sizes[place],
                training=True,
            )
    total = sum(sizes.values())
    if total > limit:
        gathered.notes.append(f"{gathered.names[run]}: {limit} of {total} episodes; see --limit")
    table = _table(run, folder, labels, episodes)
    if table is not None:
        gathered.tables.append(table)


# -- paths and labels ----------------------------------------------------------------------------------------


def _found(folder: Path, name: str, labels: Mapping[str, str]) -> list[Path]:
    """Files or folders of a name below a folder, in the order of the run's stages; checkpoints are left out."""
    order = {stage: place for place, stage in enumerate(labels)}

    def rank(path: Path) -> tuple[int, tuple[str, ...]]:
        return order.get(_named(path.parent)[1], len(order)), path.parts  # `test` before `test-empty`

    paths = [p for p in folder.rglob(name) if not any(part.startswith("checkpoint-") for part in p.parts)]
    return sorted(paths, key=rank)


def _name(folder: Path) -> str:
    """Name of a run, followed by that of its part where the folder is a part of a run."""
    parts = folder.resolve().parts
    seeds = [i for i, part in enumerate(parts) if _SEED.fullmatch(part)]
    return "/".join(parts[seeds[-1] - 1 :] if seeds else parts[-1:])


def _key(place: Path, folder: Path) -> str:
    return place.relative_to(folder).as_posix()


def _named(place: Path) -> tuple[str, str, str]:
    """Seed, row or stage, and task, from the path of a step; empty texts where the folder is no step of a run."""
    parts = place.resolve().parts
    seed = next((part for part in reversed(parts[-4:]) if _SEED.fullmatch(part)), "").replace("seed", "seed ")
    if "evaluate" in parts[-3:]:
        return seed, parts[-2], parts[-1]
    if "judge" in parts[-3:]:
        return seed, parts[-2], f"pairs of {parts[-1]}"
    return seed, parts[-1], ""


def _labels(folder: Path) -> dict[str, str]:
    """Labels of rows and stages, from the report of the run that the folder belongs to."""
    for place in (folder, *folder.resolve().parents[:4]):
        if (place / REPORT).exists():
            stages = read_object(place / REPORT, _LEAVE_OUT).get("config", {}).get("stages", {})
            return ROWS | {name: stage["label"] for name, stage in stages.items()}
    return dict(ROWS)


# -- episodes ------------------------------------------------------------------------------------------------


def _read(path: Path, cls: type[Record]) -> list[Record]:
    """Records of a file, which stays as it is: a line without an end is still being written and left out."""
    return read_records(path, cls, mend=False)


def _samples(place: Path) -> Path | None:
    """Records of the actor's samples that the pairs of a step are made of; None for the pairs of a benchmark."""
    inputs = read_settings(place / MARKER).get("inputs", {})
    name = next((name for name in inputs if "/evaluate/no_critic/" in name), None)
    return None if name is None else place.resolve().parents[3] / name / RECORDS


def _pairs(samples: Path | None) -> dict[str, PreferencePair]:
    """Pairs of right and wrong samples, by identity."""
    rows = [asdict(e) for e in _read(samples, Episode)] if samples is not None and samples.exists() else []
    return {p.id: p for p in pairs_of_responses(rows)} if rows else {}


def _drawn(records: Sequence[Record], problems: Sequence[str], most: int) -> list[Record]:
    """At most `most` records, in their order, drawn by a hash of their problem, so alike in all files."""
    if len(records) <= most:
        return list(records)
    ranked = sorted(range(len(records)), key=lambda i: (child_seed(0, "view", problems[i]), i))
    return [records[i] for i in sorted(ranked[:most])]


def _shares(sizes: Mapping[Path, int], limit: int) -> dict[Path, int]:
    """Number of episodes to show of each source: all of the small ones, equally many of the others."""
    shares, left = {}, limit
    for done, (place, size) in enumerate(sorted(sizes.items(), key=lambda item: item[1])):
        shares[place] = min(size, max(1, left // (len(sizes) - done)))
        left -= shares[place]
    return shares


def _steps(place: Path, notes: list[str]) -> dict[Path, int]:
    """Number of rows in each file of completions of a training; a note counts those that cannot be read."""
    rows, unreadable = rollouts(place)
    if unreadable:
        notes.append(
            f"{place}: {len(unreadable)} files of rollouts cannot be read, {unreadable[0].name} first"
        )
    return rows


def _training(
    files: Mapping[Path, int], most: int, first_error: FirstError | None, notes: list[str]
) -> list[Entry]:
    """At most `most` completions, from whole files that are spread over the training."""
    import pyarrow as pa
    from pyarrow import parquet

    names = list(files)
    kept = max(1, min(len(names), most * len(names) // max(1, sum(files.values()))))
    chosen = [names[i * (len(names) - 1) // max(1, kept - 1)] for i in range(kept)]
    entries: list[Entry] = []
    for path in chosen:
        try:
            rows = parquet.read_table(path).to_pylist()
        except (OSError, ValueError, pa.ArrowException) as error:
            notes.append(f"{path} is left out: {error}")
            continue
        for place, row in enumerate(rows):
            image = row.get("image")
            if image is not None and (path.parent / image).exists():
                row["image"] = str(path.parent / image)
            entries.append(of_training(row, place, first_error))
    return entries[:most]


class _Tasks:
    """First wrong steps, for tasks whose steps are known. A task is loaded once; a failure becomes a note."""

    def __init__(self) -> None:
        self.known: dict[str, FirstError | None] = {}
        self.notes: list[str] = []

    def first_error(self, settings: Mapping[str, Any]) -> FirstError | None:
        """Finds the first wrong step, for the task in a step's settings; None where steps are not known."""
        tasks = settings.get("train") or [settings.get("task")]
        task = tasks[0]
        if len(tasks) > 1 or not task or task["name"] not in TASKS or TASKS[task["name"]].first_error is None:
            return None
        prompts = settings.get("prompts", {}).get("name")
        key = json.dumps([task, prompts], sort_keys=True)
        if key not in self.known:
            self.known[key] = self._finder(task, prompts)
        return self.known[key]

    def _finder(self, task: Mapping[str, Any], prompts: str | None) -> FirstError | None:
        of_task = TASKS[task["name"]].first_error
        try:
            problems = load_task(
                task["name"], source=task["source"], split=task["split"], seed=task["seed"], **task["options"]
            )
        except (UserError, OSError) as error:
            self.notes.append(f"the truth about single steps is left out: {error}")
            return None
        known = {p.id: p for p in problems}
        bare = PROMPT_SETS[prompts].without_prefill if prompts in PROMPT_SETS else str
        assert of_task is not None

        def first_error(question: str, image: str | None, response: str) -> int | None:
            if image is not None and not image.startswith("data:"):
                image = as_url(image)
            problem = known.get(problem_id(question, image))
            if problem is None:
                return None
            step = of_task(problem, bare(response))
            return -1 if step is None else step

        return first_error


# -- metrics -------------------------------------------------------------------------------------------------


def _table(
    run: int, folder: Path, labels: Mapping[str, str], episodes: Mapping[Path, Sequence[Episode]]
) -> Table | None:
    """The table of the result file, or without one the metrics of the records."""
    if (folder / REPORT).exists():
        rows = read_object(folder / REPORT, _LEAVE_OUT).get("rows")
        if not isinstance(rows, list):
            raise UserError(f"{folder / REPORT} is no result file: it has no rows.")
        return Table(run, REPORT, rows)
    groups: dict[tuple[str, str], list[Sequence[Episode]]] = {}
    for place, recorded in episodes.items():
        first = [e for e in recorded if e.round == 0]
        if first:
            _, name, rest = _named(place)
            groups.setdefault((labels.get(name, name), rest), []).append(first)
    rows = [
        {"method": method, "dataset": rest or seeds[0][0].dataset, "metrics": summarise(seeds)}
        for (method, rest), seeds in groups.items()
    ]
    return Table(run, "worked out from the records; there is no report.json", rows) if rows else None
