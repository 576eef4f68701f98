"""Load one split of a published data set, from the hub or from local files."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path

from critique_rl.tasks.base import DataError, split_problems, unique
from critique_rl.tasks.rows import SUFFIXES, HubSplit, Row, read_rows
from critique_rl.types import AnswerKind, Problem, nearest, problem_id

FILE_WORDS = {
    "train": "train",
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
    "dev": "validation",
    "test": "test",
    "math500": "math500",
}
"""Words in a file's name that say which split it holds, e.g. `aqua_dev.json`."""


def make_problem(
    *, dataset: str, question: str, solution: str, answer: str, kind: AnswerKind, picture: str | None = None
) -> Problem:
    """Build a problem with the identity of its question, and of the picture that it refers to."""
    identity = problem_id(question, picture)
    return Problem(
        id=identity, dataset=dataset, question=question, solution=solution, answer=answer, kind=kind
    )


def load_published(
    parse: Callable[[Row], Problem | None],
    hub: Mapping[str, HubSplit],
    *,
    source: str | None,
    split: str,
    seed: int,
    splits: Mapping[str, float] | None = None,
    held_out: float = 0.1,
) -> list[Problem]:
    """Load every problem of one split; duplicates are dropped.

    Where the published data have no validation split, `validation` is a slice of train chosen by problem
    identity and `train` is the rest. The slice depends on nothing else, so the two never overlap.

    Args:
        parse: Turns a row into a problem, or into `None` to leave it out.
        hub: Where each published split is on the hub.
        source: `None` for the hub; a directory with one file per split; or one file, whose name says which
            split it holds. A file whose name does not say it holds test data, unless `splits` is given.
        split: The split to load.
        seed: Plays no part here; every task takes one.
        splits: For one file that serves every split: the share of each, e.g.
            `{"train": 0.8, "validation": 0.1, "test": 0.1}`, chosen by problem identity. Give the same
            mapping for every split that is loaded from that file.
        held_out: Share of train that is the validation slice, where validation is not published; the
            same for both splits. 0 takes all of train.
    """
    path = None if source is None else Path(source).expanduser()
    if path is not None and not path.exists():
        raise DataError(f"{path}: no such file or directory")
    if splits is not None:
        if path is None or path.is_dir():
            raise DataError(
                f"splits: only for a single local file; {source or 'the hub'} has its own train and test data"
            )
        return _take(split_problems(_read(parse, path), fractions=splits, salt="splits"), split, str(path))

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


def _read(parse: Callable[[Row], Problem | None], origin: Path | HubSplit) -> list[Problem]:
    parsed = [parse(row) for row in read_rows(origin)]
    return unique([problem for problem in parsed if problem is not None], str(origin))


def _take(parts: Mapping[str, list[Problem]], split: str, origin: str) -> list[Problem]:
    if split not in parts:
        raise DataError(f"{origin}: no split {split!r} in `splits`. {nearest(split, parts)}")
    if not parts[split]:
        raise DataError(f"{origin}: split {split!r} is empty, the file has too few problems for its share")
    return parts[split]


def _files_by_split(path: Path) -> dict[str, Path]:
    """Map splits to files: of a directory those whose names say it, of a single file its own."""
    if path.is_file():
        name = _split_named_by(path) or "test"
        return {name: path, "test": path} if name == "math500" else {name: path}
    files = sorted(file for file in path.iterdir() if file.suffix in SUFFIXES)
    if not files:
        raise DataError(f"{path}: the directory has no {', '.join(SUFFIXES)} file")
    found: dict[str, Path] = {}
    for file in files:
        split = _split_named_by(file)
        if split in found:
            names = f"{found[split].name}, {file.name}"
            raise DataError(
                f"{path}: more than one file for split {split!r}: {names}; let `source` be one file"
            )
        if split is not None:
            found[split] = file
    if not found:
        names = ", ".join(file.name for file in files)
        raise DataError(f"{path}: no file name says its split, expected e.g. train.jsonl; found {names}")
    return found


def _split_named_by(path: Path) -> str | None:
    """Name the split that a file's name mentions, if it is one alone.

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
