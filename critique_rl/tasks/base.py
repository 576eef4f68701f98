"""What every task shares: the task object, its errors, and splits by the identity of a problem alone."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from critique_rl.types import AnswerKind, Problem, UserError, child_seed

logger = logging.getLogger(__name__)


class DataError(UserError):
    """Data that cannot be used; the message names the file, the row and the field."""


@dataclass(frozen=True)
class Task:
    """One data set.

    Attributes:
        name: Name in the registry.
        about: One line on what the problems are.
        kinds: How its answers can be graded.
        load: `load(*, source, split, seed, **options)`, every problem of one split; see `load_task`.
        hub: Hugging Face repository, `None` for a procedural task.
        licence: Licence of the data.
        first_error: For tasks whose steps are known: index of the first wrong step of a response, `None` if
            there is none.
    """

    name: str
    about: str
    kinds: tuple[AnswerKind, ...]
    load: Callable[..., list[Problem]]
    hub: str | None
    licence: str
    first_error: Callable[[Problem, str], int | None] | None = None


def unique(problems: Sequence[Problem], origin: str) -> list[Problem]:
    """Keep the first problem of each identity and log how many were dropped."""
    first: dict[str, Problem] = {}
    conflicts = 0
    for problem in problems:
        kept = first.setdefault(problem.id, problem)
        conflicts += kept.answer != problem.answer
    dropped = len(problems) - len(first)
    if dropped:
        message = (
            "%s: dropped %d of %d problems as duplicates, %d of them with another answer than the one kept"
        )
        logger.warning(message, origin, dropped, len(problems), conflicts)
    return list(first.values())


def check_fractions(fractions: Mapping[str, float]) -> None:
    """Raise unless the fractions are positive numbers that sum to one."""
    if not isinstance(fractions, Mapping) or not fractions:
        raise DataError(f"splits: found {fractions!r}, expected names with fractions, e.g. {{'train': 1.0}}")
    for name, fraction in fractions.items():
        if isinstance(fraction, bool) or not isinstance(fraction, int | float) or not fraction > 0:
            raise DataError(f"splits: fraction of {name!r} is {fraction!r}, expected a number above 0")
    if not math.isclose(sum(fractions.values()), 1.0, abs_tol=1e-6):
        raise DataError(f"splits: {dict(fractions)} sum to {sum(fractions.values())}, expected 1")


def split_of(problem_id: str, fractions: Mapping[str, float], salt: str) -> str:
    """Name the split that a problem belongs to: a function of its identity, so nothing else can move it.

    The names are laid out in alphabetical order, so that two configs that list them differently agree.
    """
    point = child_seed(0, "split", salt, problem_id) / 2**31  # uniform in [0, 1)
    names = sorted(fractions)
    edge = 0.0
    for name in names:
        edge += fractions[name]
        if point < edge:
            return name
    return names[-1]  # the fractions may sum to just below 1


def split_problems(
    problems: Sequence[Problem], *, fractions: Mapping[str, float], salt: str
) -> dict[str, list[Problem]]:
    """Partition problems by a hash of their identity.

    Adding rows or changing their order never moves another row. The sizes are therefore random: a fraction
    `f` of `n` problems gives `f n` with a standard deviation of `sqrt(f (1 - f) n)`.

    Args:
        problems: What to partition; the order is kept within each split.
        fractions: Share of each split; they sum to 1.
        salt: Another salt gives an independent partition.
    """
    check_fractions(fractions)
    parts: dict[str, list[Problem]] = {name: [] for name in fractions}
    for problem in problems:
        parts[split_of(problem.id, fractions, salt)].append(problem)
    return parts


def subsample(problems: Sequence[Problem], limit: int | None, seed: int) -> list[Problem]:
    """Draw at most `limit` problems by seed, in their original order; `None` keeps all.

    Each problem's rank is a hash of the seed and its identity, so the draw is no first-n prefix, a smaller
    limit gives a part of a larger one, and the order of the rows does not matter.
    """
    if limit is None:
        return list(problems)
    if isinstance(limit, bool) or not isinstance(limit, int) or limit < 1:
        raise DataError(f"limit: found {limit!r}, expected a whole number above 0, or none for all problems")
    by_rank = sorted(problems, key=lambda problem: (child_seed(seed, "limit", problem.id), problem.id))
    chosen = {problem.id for problem in by_rank[:limit]}
    return [problem for problem in problems if problem.id in chosen]


def drop_overlap(problems: Sequence[Problem], held_out: Sequence[Problem]) -> list[Problem]:
    """Drop the problems that are also in `held_out`, for instance from train those of a test set."""
    forbidden = {problem.id for problem in held_out}
    kept = [problem for problem in problems if problem.id not in forbidden]
    dropped = len(problems) - len(kept)
    if dropped:
        logger.warning("dropped %d of %d problems that are also in held-out data", dropped, len(problems))
    return kept
