"""Reads what a run, an evaluation or a trainer has written; writes nothing there, it may still be at work."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from critique_rl.benchmarks import PairJudgement
from critique_rl.critic_data import PreferencePair, pairs_of_responses
from critique_rl.evaluation.episodes import Episode
from critique_rl.evaluation.summary import summarise
from critique_rl.prompts import PROMPT_SETS
from critique_rl.records import Record
from critique_rl.runs.folder import MARKER, RECORDS, ROWS, STATE
from critique_rl.tasks import TASKS, load_task
from critique_rl.types import UserError, child_seed, problem_id
from critique_rl.view.entries import Entry, FirstError, of_episode, of_judgement, of_training, read_settings
from critique_rl.vision.images import as_url

COMPLETIONS, REPORT = "completions", "report.json"
JUDGEMENTS = "pairs.jsonl"
_SEED = re.compile(r"seed\d+")


@dataclass(frozen=True)
class Source:
    """Episodes of one evaluation or one training.

    Attributes:
        run: Which of the runs of the page.
        key: Its folder below that of the run.
        label: For people.
        training: Whether a trainer has recorded them.
        entries: Its episodes, perhaps not all.
        total: How many there are.
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
        run: Which of the runs of the page.
        stage: Label of the stage.
        part: Its folder below that of the run, which tells seeds apart.
        rows: What was logged, one mapping per RL step.
    """

    run: int
    stage: str
    part: str
    rows: Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Table:
    """Metrics of one run.

    Attributes:
        run: Which of the runs of the page.
        origin: Where its numbers come from.
        rows: `method`, `dataset`, `metrics`, as in a result file.
    """

    run: int
    origin: str
    rows: Sequence[Mapping[str, Any]]


@dataclass
class Gathered:
    """All that a page shows; `notes` say what it could not find.

    Attributes:
        names: Of the runs.
        sources: Episodes.
        curves: Logs of trainings.
        tables: Metrics.
        notes: For the person who asked.
    """

    names: Sequence[str]
    sources: list[Source] = field(default_factory=list)
    curves: list[Curve] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def gather(folders: Sequence[Path], *, limit: int) -> Gathered:
    """Read runs, or parts of them.

    Args:
        folders: One run, or two to compare.
        limit: Most episodes of each.

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
    records = _found(folder, RECORDS, labels)
    steps = {path.parent: _steps(path.parent) for path in _found(folder, COMPLETIONS, labels)}
    states = _found(folder, STATE, labels)
    judged = {path.parent: _read(path, PairJudgement) for path in _found(folder, JUDGEMENTS, labels)}
    if not (records or judged or any(steps.values()) or states or (folder / REPORT).exists()):
        raise UserError(
            f"{folder} holds no {RECORDS}, {COMPLETIONS} or {STATE}: give a folder that `critique-rl run` or "
            "`eval` has written."
        )
    episodes = {path.parent: _read(path, Episode) for path in records}
    sampled = {place: _samples(place) for place in judged}
    # All rows of a task judge the same ones.
    pairs_of = {path: _pairs(path) for path in set(sampled.values())}
    pairs = {place: pairs_of[path] for place, path in sampled.items()}
    for place, known in pairs.items():
        if any(j.pair not in known for j in judged[place]):
            gathered.notes.append(
                f"{_key(place, folder)}: judgements are left out, their pairs are not in the run"
            )
            del judged[place]
    for path in states:
        rows = [row for row in _json(path).get("log_history", []) if "reward" in row]
        if rows:
            gathered.curves.append(Curve(run, _label(path.parent, labels), _key(path.parent, folder), rows))
    sizes = {place: len(recorded) for place, recorded in (episodes | judged).items()}
    sizes |= {place: sum(found.values()) for place, found in steps.items() if found}
    shares = _shares(sizes, limit)
    for place, found in episodes.items():
        first_error = tasks.first_error(read_settings(place / MARKER))
        entries = [of_episode(e, first_error) for e in _drawn(found, [e.id for e in found], shares[place])]
        gathered.sources.append(_source(run, folder, place, labels, entries, len(found), training=False))
    for place, of in judged.items():
        entries = [
            of_judgement(j, pairs[place][j.pair]) for j in _drawn(of, [j.pair for j in of], shares[place])
        ]
        gathered.sources.append(_source(run, folder, place, labels, entries, len(of), training=False))
    for place, files in steps.items():
        if files:
            first_error = tasks.first_error(read_settings(place.parent / "pool" / MARKER))
            entries = _training(files, shares[place], first_error)
            gathered.sources.append(_source(run, folder, place, labels, entries, sizes[place], training=True))
    if sum(sizes.values()) > limit:
        gathered.notes.append(
            f"{gathered.names[run]}: {limit} of {sum(sizes.values())} episodes; see --limit"
        )
    table = _table(run, folder, labels, episodes)
    if table is not None:
        gathered.tables.append(table)


def _source(
    run: int,
    folder: Path,
    place: Path,
    labels: Mapping[str, str],
    entries: list[Entry],
    total: int,
    *,
    training: bool,
) -> Source:
    seed, name, rest = _named(place)
    parts = [labels.get(name, name), rest, seed, "training" if training else ""]
    return Source(run, _key(place, folder), ", ".join(filter(None, parts)), training, entries, total)


# -- where things are ----------------------------------------------------------------------------------------


def _found(folder: Path, name: str, labels: Mapping[str, str]) -> list[Path]:
    """Files or folders of a name below a folder, in the order of the run's stages; not those of checkpoints."""
    order = {stage: place for place, stage in enumerate(labels)}

    def rank(path: Path) -> tuple[int, tuple[str, ...]]:
        return order.get(_named(path.parent)[1], len(order)), path.parts  # `test` before `test-empty`

    found = [p for p in folder.rglob(name) if not any(part.startswith("checkpoint-") for part in p.parts)]
    return sorted(found, key=rank)


def _name(folder: Path) -> str:
    """Name of a run, and of its part if the folder is one."""
    parts = folder.resolve().parts
    seeds = [i for i, part in enumerate(parts) if _SEED.fullmatch(part)]
    return "/".join(parts[seeds[-1] - 1 :] if seeds else parts[-1:])


def _key(place: Path, folder: Path) -> str:
    return place.relative_to(folder).as_posix()


def _named(place: Path) -> tuple[str, str, str]:
    """Seed, row or stage, and what is measured, from the path of a step; empty where it is none of a run."""
    parts = place.resolve().parts
    seed = next((part for part in reversed(parts[-4:]) if _SEED.fullmatch(part)), "")
    if "evaluate" in parts[-3:]:
        return seed.replace("seed", "seed "), parts[-2], parts[-1]
    if "judge" in parts[-3:]:
        return seed.replace("seed", "seed "), parts[-2], f"pairs of {parts[-1]}"
    return seed.replace("seed", "seed "), parts[-1], ""


def _labels(folder: Path) -> dict[str, str]:
    """Labels of rows and stages, from the report of the run that the folder is, or is a part of."""
    for place in (folder, *folder.resolve().parents[:4]):
        if (place / REPORT).exists():
            stages = _json(place / REPORT).get("config", {}).get("stages", {})
            return ROWS | {name: stage["label"] for name, stage in stages.items()}
    return dict(ROWS)


def _label(place: Path, labels: Mapping[str, str]) -> str:
    return labels.get(place.resolve().name, place.resolve().name)


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read: {error}") from error
    if not isinstance(found, dict):
        raise UserError(f"{path} is not what critique-rl writes: an object was expected.")
    return found


# -- episodes ------------------------------------------------------------------------------------------------


def _read(path: Path, cls: type[Record]) -> list[Record]:
    """Whole lines of a file of records; its last one may be in the making, and is left alone."""
    records = []
    for number, line in enumerate(path.read_bytes().split(b"\n")[:-1], start=1):
        if line:
            try:
                records.append(cls(**json.loads(line)))
            except (ValueError, TypeError) as error:
                raise UserError(
                    f"{path}, line {number} is no {cls.__name__.lower()} record: {error}"
                ) from error
    return records


def _samples(place: Path) -> Path | None:
    """Records of the actor's samples, of which a step's pairs are; None of a benchmark, whose are elsewhere."""
    inputs = read_settings(place / MARKER).get("inputs", {})
    name = next((name for name in inputs if "/evaluate/no_critic/" in name), None)
    return None if name is None else place.resolve().parents[3] / name / RECORDS


def _pairs(samples: Path | None) -> dict[str, PreferencePair]:
    """Pairs of right and wrong samples, by identity."""
    rows = [asdict(e) for e in _read(samples, Episode)] if samples is not None and samples.exists() else []
    return {p.id: p for p in pairs_of_responses(rows)} if rows else {}


def _drawn(records: Sequence[Record], of: Sequence[str], most: int) -> list[Record]:
    """At most so many, in their order: of the same problems, which `of` names, wherever there are equal ones."""
    if len(records) <= most:
        return list(records)
    ranked = sorted(range(len(records)), key=lambda i: (child_seed(0, "view", of[i]), i))
    return [records[i] for i in sorted(ranked[:most])]


def _shares(sizes: Mapping[Path, int], limit: int) -> dict[Path, int]:
    """How many of each may be shown: all of the small ones, and equally many of the others."""
    shares, left = {}, limit
    for done, (place, size) in enumerate(sorted(sizes.items(), key=lambda item: item[1])):
        shares[place] = min(size, max(1, left // (len(sizes) - done)))
        left -= shares[place]
    return shares


def _steps(place: Path) -> dict[Path, int]:
    """Rows of each file of completions of a training; a file in the making has none."""
    import pyarrow as pa
    from pyarrow import parquet

    rows = {}
    for path in sorted((place / COMPLETIONS).glob("*.parquet")):
        try:
            rows[path] = parquet.read_metadata(path).num_rows
        except (OSError, pa.ArrowInvalid):
            continue
    return rows


def _training(files: Mapping[Path, int], most: int, first_error: FirstError | None) -> list[Entry]:
    """At most so many completions: of whole files, spread over the training from its first to its last."""
    from pyarrow import parquet

    names = list(files)
    kept = max(1, min(len(names), most * len(names) // max(1, sum(files.values()))))
    chosen = [names[i * (len(names) - 1) // max(1, kept - 1)] for i in range(kept)]
    entries: list[Entry] = []
    for path in chosen:
        rows = parquet.read_table(path).to_pylist()
        for place, row in enumerate(rows):
            image = row.get("image")
            if image is not None and (path.parent / image).exists():
                row["image"] = str(path.parent / image)
            entries.append(of_training(row, place, first_error))
    return entries[:most]


class _Tasks:
    """First wrong steps, for tasks whose steps are known. A task is made once; one that cannot be is a note."""

    def __init__(self) -> None:
        self.known: dict[str, FirstError | None] = {}
        self.notes: list[str] = []

    def first_error(self, settings: Mapping[str, Any]) -> FirstError | None:
        """Of the task of a step with these settings; None where steps are not known."""
        tasks = settings.get("train") or [settings.get("task")]
        task = tasks[0]
        if len(tasks) > 1 or not task or task["name"] not in TASKS or TASKS[task["name"]].first_error is None:
            return None
        prompts = settings.get("prompts", {}).get("name")
        key = json.dumps([task, prompts], sort_keys=True)
        if key not in self.known:
            self.known[key] = self._made(task, prompts)
        return self.known[key]

    def _made(self, task: Mapping[str, Any], prompts: str | None) -> FirstError | None:
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
            found = of_task(problem, bare(response))
            return -1 if found is None else found

        return first_error


# -- metrics -------------------------------------------------------------------------------------------------


def _table(
    run: int, folder: Path, labels: Mapping[str, str], episodes: Mapping[Path, Sequence[Episode]]
) -> Table | None:
    """The table of the result file, or else what the records give."""
    if (folder / REPORT).exists():
        rows = _json(folder / REPORT).get("rows")
        if not isinstance(rows, list):
            raise UserError(f"{folder / REPORT} is no result file: it has no rows.")
        return Table(run, REPORT, rows)
    groups: dict[tuple[str, str], list[Sequence[Episode]]] = {}
    for place, found in episodes.items():
        first = [e for e in found if e.round == 0]
        if first:
            _, name, rest = _named(place)
            groups.setdefault((labels.get(name, name), rest), []).append(first)
    rows = [
        {"method": method, "dataset": rest or found[0][0].dataset, "metrics": summarise(found)}
        for (method, rest), found in groups.items()
    ]
    return Table(run, "worked out from the records; there is no report.json", rows) if rows else None
