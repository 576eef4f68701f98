"""Loading of one split of a published data set, from the hub or from local files."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from critique_rl.tasks.base import DataError, Task, split_problems, unique
from critique_rl.tasks.rows import SUFFIXES, HubSplit, Row, read_rows
from critique_rl.types import AnswerKind, Problem, nearest, problem_id

Parse = Callable[[Row], Problem | None]
FILE_WORDS = {split: split for split in ("train", "validation", "test", "math500")}
FILE_WORDS |= dict.fromkeys(("valid", "val", "dev"), "validation")
"""Splits by the word for them in a file name, e.g. `dev` in `aqua_dev.json`."""
PUBLISHED = "published"
"""Value of `splits` for the hub's splits."""


def make_problem(
    *, dataset: str, question: str, solution: str, answer: str, kind: AnswerKind, picture: str | None = None
) -> Problem:
    """Build a problem; its id is a hash of the question and of the picture that the question refers to."""
    return Problem(problem_id(question, picture), dataset, question, solution, answer, kind)


@dataclass(frozen=True)
class Part:
    """The rows of one split in a file that holds all splits.

    Attributes:
        path: The file.
        split: The split.
        split_of: Names the split of a row.
    """

    path: Path
    split: str
    split_of: Callable[[Row], str]

    def __str__(self) -> str:
        return f"{self.path} ({self.split})"

    def rows(self) -> list[Row]:
        """The rows of the split, in their order."""
        return [row for row in read_rows(self.path) if self.split_of(row) == self.split]


def published_task(
    name: str,
    parse: Parse,
    hub: Mapping[str, HubSplit],
    *,
    kind: AnswerKind,
    licence: str,
    about: str,
    split_of: Callable[[Row], str] | None = None,
) -> Task:
    """Build the task of a data set on the hub; `load_published` loads it."""
    load = partial(load_published, parse, hub, split_of=split_of)
    return Task(name, about, kinds=(kind,), load=load, licence=licence, hub=hub["test"].repo)


def load_published(
    parse: Parse,
    hub: Mapping[str, HubSplit],
    *,
    source: str | None,
    split: str,
    seed: int,
    splits: Mapping[str, float] | str | None = None,
    held_out: float = 0.1,
    split_of: Callable[[Row], str] | None = None,
) -> list[Problem]:
    """Load all problems of one split, without duplicates.

    If the published data have no validation split, `validation` is a slice of train and `train` is the rest.
    The slice depends only on problem identity, so the two never overlap.

    Args:
        parse: Turns a row into a problem, or into `None` to leave the row out.
        hub: Place of each published split on the hub.
        source: `None` for the hub; a directory with one file per split; or one file with the name of its split
            in the file name. Without such a name the file holds test data, unless `splits` is set.
        split: Name of the split to load.
        seed: Not used; every task has this parameter.
        splits: For one file that holds all splits: the share of each, e.g.
            `{"train": 0.8, "validation": 0.1, "test": 0.1}`. Problem identity decides the split. Use the same
            mapping for every split of that file. `published` takes the hub's splits from a file of all rows,
            where the task knows them.
        held_out: Share of train in the validation slice, if validation is not published. Use the same share for
            both splits; 0 takes all of train.
        split_of: Names the split that the hub has a row of such a file in; None where there is no such file.

    Raises:
        DataError: The source has no such split, an option is wrong, or a file or row cannot be read.
    """
    path = None if source is None else Path(source).expanduser()
    if path is not None and not path.exists():
        raise DataError(f"{path}: no such file or directory")
    available: Mapping[str, Path | HubSplit | Part]
    if splits is not None:
        if path is None or path.is_dir():
            raise DataError(
                f"splits: only for a single local file; {source or 'the hub'} has its own train and test data"
            )
        if not isinstance(splits, str):
            return _take(
                split_problems(_read(parse, path), fractions=splits, salt="splits"), split, str(path)
            )
        if splits != PUBLISHED or split_of is None:
            also = "" if split_of is None else f", or {PUBLISHED!r}"
            raise DataError(f"splits: found {splits!r}, expected the share of each split{also}")
        available = {name: Part(path, name, split_of) for name in hub}
    else:
        available = hub if path is None else _files_by_split(path)
    if split in available and (split != "train" or "validation" in available or held_out == 0):
        return _read(parse, available[split])
    if split in ("train", "validation") and "train" in available:
        if isinstance(held_out, bool) or not isinstance(held_out, int | float) or not 0 < held_out < 1:
            raise DataError(f"held_out: found {held_out!r}, expected a share between 0 and 1 for {split}")
        fractions = {"train": 1 - held_out, "validation": held_out}
        parts = split_problems(_read(parse, available["train"]), fractions=fractions, salt="held_out")
        return _take(parts, split, str(available["train"]))
    origin = path or next(iter(hub.values())).repo
    hint = "Name a file of that split, or cut one by the option `splits`, e.g. {'train': 0.9, 'test': 0.1}"
    raise DataError(f"{origin}: no split {split!r}. {nearest(split, available)} {hint}")


def _read(parse: Parse, origin: Path | HubSplit | Part) -> list[Problem]:
    rows = origin.rows() if isinstance(origin, Part) else read_rows(origin)
    parsed = [parse(row) for row in rows]
    return unique([problem for problem in parsed if problem is not None], str(origin))


def _take(parts: Mapping[str, list[Problem]], split: str, origin: str) -> list[Problem]:
    if split not in parts:
        raise DataError(f"{origin}: no split {split!r} in `splits`. {nearest(split, parts)}")
    if not parts[split]:
        raise DataError(f"{origin}: split {split!r} is empty, the file has too few problems for its share")
    return parts[split]


def _files_by_split(path: Path) -> dict[str, Path]:
    """Map splits to the files of a directory by file name, or to a single file."""
    if path.is_file():
        name = _split_named_by(path) or "test"
        return {name: path, "test": path} if name == "math500" else {name: path}
    files = sorted(file for file in path.iterdir() if file.suffix in SUFFIXES)
    if not files:
        raise DataError(f"{path}: the directory has no {', '.join(SUFFIXES)} file")
    by_split: dict[str, Path] = {}
    for file in files:
        split = _split_named_by(file)
        if split is not None and by_split.setdefault(split, file) != file:
            names = f"{by_split[split].name}, {file.name}"
            raise DataError(
                f"{path}: more than one file for split {split!r}: {names}; set `source` to one of them"
            )
    if not by_split:
        names = ", ".join(file.name for file in files)
        raise DataError(f"{path}: no file name says its split, expected e.g. train.jsonl; found {names}")
    return by_split


def _split_named_by(path: Path) -> str | None:
    """Name the split in a file name; None unless exactly one split is named. `math500` overrides the others.

    >>> _split_named_by(Path("aqua_dev.json"))
    'validation'
    >>> _split_named_by(Path("MATH-500_test.jsonl"))
    'math500'
    """
    stem = re.sub(r"math[-_ ]?500", "math500", path.stem.lower())
    named = {FILE_WORDS[word] for word in re.findall(r"[a-z0-9]+", stem) if word in FILE_WORDS}
    if "math500" in named:
        return "math500"
    return named.pop() if len(named) == 1 else None
