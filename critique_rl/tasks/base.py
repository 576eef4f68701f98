"""Common parts of all tasks: the task object, the error class, and splits by problem identity."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from critique_rl.types import AnswerKind, Problem, UserError, child_seed, nearest

logger = logging.getLogger(__name__)

FRACTIONS = {"train": 0.7, "validation": 0.1, "test": 0.2}
"""Shares of the splits of a generated task."""


class DataError(UserError):
    """Unusable data; the message names the file, the row and the field."""


@dataclass(frozen=True)
class Task:
    """One data set.

    Attributes:
        name: Name in the registry.
        about: One line that describes the problems.
        kinds: Ways to grade the answers.
        load: `load(*, source, split, seed, **options)` returns all problems of one split; see `load_task`.
        licence: Licence of the data.
        hub: Hugging Face repository; `None` for local or generated data.
        first_error: For tasks with known steps: returns the index of the first wrong step of a response,
            `None` if all steps are right.
    """

    name: str
    about: str
    kinds: tuple[AnswerKind, ...]
    load: Callable[..., list[Problem]]
    licence: str
    hub: str | None = None
    first_error: Callable[[Problem, str], int | None] | None = None


def unique(problems: Sequence[Problem], origin: str) -> list[Problem]:
    """Keep the first problem of each identity and log the number of dropped ones."""
    first: dict[str, Problem] = {}
    conflicts = 0
    for problem in problems:
        conflicts += first.setdefault(problem.id, problem).answer != problem.answer
    dropped = len(problems) - len(first)
    if dropped:
        message = "%s: dropped %d of %d problems as duplicates, %d of them with another answer than the first"
        logger.warning(message, origin, dropped, len(problems), conflicts)
    return list(first.values())


def check_generated(task: str, source: str | None, split: str, fractions: Mapping[str, float]) -> None:
    """Raise `DataError` if a generated task has a source, wrong fractions or an unknown split."""
    check_fractions(fractions)
    if source is not None:
        raise DataError(f"task {task} is generated: remove `source`.")
    if split not in fractions:
        raise DataError(f"task {task}: no split {split!r}. {nearest(split, fractions)}")


def first_difference(gold: Sequence[str], lines: Sequence[str]) -> int | None:
    """Find the index of the first gold line that `lines` lacks or changes; None if there is none."""
    return next((i for i, line in enumerate(gold) if i >= len(lines) or lines[i] != line), None)


def check_fractions(fractions: Mapping[str, float]) -> None:
    """Raise `DataError` unless the fractions are positive numbers that sum to one."""
    if not isinstance(fractions, Mapping) or not fractions:
        raise DataError(f"splits: found {fractions!r}, expected names with fractions, e.g. {{'train': 1.0}}")
    for name, fraction in fractions.items():
        if isinstance(fraction, bool) or not isinstance(fraction, int | float) or not fraction > 0:
            raise DataError(f"splits: fraction of {name!r} is {fraction!r}, expected a number above 0")
    if not math.isclose(sum(fractions.values()), 1.0, abs_tol=1e-6):
        raise DataError(f"splits: {dict(fractions)} sum to {sum(fractions.values())}, expected 1")


def split_of(problem_id: str, fractions: Mapping[str, float], salt: str) -> str:
    """Name the split of a problem, which depends only on its identity.

    The alphabetical order of the names counts, so the order in a config does not matter.
    """
    point = child_seed(0, "split", salt, problem_id) / 2**31  # uniform in [0, 1)
    edge = 0.0
    for name in sorted(fractions):
        edge += fractions[name]
        if point < edge:
            return name
    return max(fractions)  # the fractions may sum to just below 1


def split_problems(
    problems: Sequence[Problem], *, fractions: Mapping[str, float], salt: str
) -> dict[str, list[Problem]]:
    """Partition problems by a hash of their identity.

    Adding or reordering problems never moves another problem. The sizes are therefore random: a fraction
    `f` of `n` problems gives `f n` with a standard deviation of `sqrt(f (1 - f) n)`.

    Args:
        problems: Problems to partition; each split keeps their order.
        fractions: Share of each split; the shares sum to 1.
        salt: Another salt gives an independent partition.
    """
    check_fractions(fractions)
    parts: dict[str, list[Problem]] = {name: [] for name in fractions}
    for problem in problems:
        parts[split_of(problem.id, fractions, salt)].append(problem)
    return parts


def subsample(problems: Sequence[Problem], limit: int | None, seed: int) -> list[Problem]:
    """Draw at most `limit` problems by seed, in their original order; `None` keeps all.

    The problems are ranked by a hash of seed and identity. So the draw is not a prefix, a smaller limit draws a
    subset of a larger one, and the order of the problems does not matter.
    """
    if limit is None:
        return list(problems)
    if isinstance(limit, bool) or not isinstance(limit, int) or limit < 1:
        raise DataError(f"limit: found {limit!r}, expected a whole number above 0, or none for all problems")
    by_rank = sorted(problems, key=lambda problem: (child_seed(seed, "limit", problem.id), problem.id))
    chosen = {problem.id for problem in by_rank[:limit]}
    return [problem for problem in problems if problem.id in chosen]


def drop_overlap(problems: Sequence[Problem], held_out: Sequence[Problem]) -> list[Problem]:
    """Drop the problems that are also in `held_out`, for instance test problems from the train split."""
    forbidden = {problem.id for problem in held_out}
    kept = [problem for problem in problems if problem.id not in forbidden]
    dropped = len(problems) - len(kept)
    if dropped:
        logger.warning("dropped %d of %d problems that are also in held-out data", dropped, len(problems))
    return kept
