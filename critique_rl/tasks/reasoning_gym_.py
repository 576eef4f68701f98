"""Any data set of reasoning-gym by name: problems drawn by a generator, nothing is downloaded.

Source: https://github.com/open-thought/reasoning-gym, licence Apache-2.0; needs the extra `procedural`.
An item of a generator, with the metadata left out:

    {"question": "Work out 12 - 5 + 4.", "answer": "11"}

reasoning-gym seeds item `i` with `seed + i`, so that neighbouring seeds share nearly all their items. Here
the generator's seed is hashed, duplicates are dropped and the split of a problem is a hash of its text:
whatever the seeds are, no test problem can be a training problem.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping
from typing import Any, get_args

from critique_rl.tasks.base import DataError, Task, check_fractions, split_problems
from critique_rl.tasks.published import make_problem
from critique_rl.types import GradedKind, Problem, UserError, child_seed, nearest, problem_id

SPLITS = {"train": 0.7, "validation": 0.1, "test": 0.2}
DRAWS_PER_PROBLEM = 10
"""Draws after which a generator counts as exhausted, per problem that was asked for."""

MATH_ANSWERS = frozenset({"complex_arithmetic", "polynomial_multiplication"})
"""Data sets with one right answer up to equivalence of expressions, which is how `math` grades."""

_NUMBER = re.compile(r"[-+]?\d+(\.\d+)?(/\d+|e[-+]?\d+)?")
_YES_NO = re.compile(r"yes|no|true|false", re.IGNORECASE)


def load(
    *,
    source: str | None,
    split: str,
    seed: int,
    dataset: str | None = None,
    size: int = 1000,
    config: Mapping[str, Any] | None = None,
    splits: Mapping[str, float] | None = None,
    kind: GradedKind | None = None,
) -> list[Problem]:
    """Draw `size` distinct problems and keep those of one split.

    Args:
        source: Must be `None`: the problems are generated.
        split: The split to keep.
        seed: Seed of the draw.
        dataset: Name in reasoning-gym, e.g. `chain_sum`.
        size: Distinct problems over all splits together.
        config: Fields of the data set's own config, e.g. `{"min_terms": 2}`; not its seed and size.
        splits: Share of each split, by default 70 / 10 / 20 % train / validation / test.
        kind: How to grade. By default `number` or `yes_no` if every answer is one, `math` for the data sets
            of `MATH_ANSWERS`; anything else is refused, because several answers may be right or a
            comparison of mathematical values would not do them justice.
    """
    if source is not None:
        raise DataError("task reasoning_gym is generated: remove `source`")
    if kind is not None and kind not in get_args(GradedKind):
        raise DataError(f"kind: found {kind!r}. {nearest(str(kind), get_args(GradedKind))}")
    if isinstance(size, bool) or not isinstance(size, int) or size < 1:
        raise DataError(f"size: found {size!r}, expected a whole number above 0")
    fractions = SPLITS if splits is None else splits
    check_fractions(fractions)
    if split not in fractions:
        raise DataError(f"task reasoning_gym: no split {split!r}. {nearest(split, fractions)}")
    if dataset is None:
        raise DataError("task reasoning_gym: give the option `dataset`, e.g. 'chain_sum'")
    generate = _generator(dataset, dict(config or {}), size * DRAWS_PER_PROBLEM, seed)
    items = _draw(generate, dataset, size)
    kind = kind or _kind(dataset, [answer for _, answer in items])
    problems = [
        make_problem(
            dataset=f"reasoning_gym/{dataset}", question=question, solution="", answer=answer, kind=kind
        )
        for question, answer in items
    ]
    return split_problems(problems, fractions=fractions, salt="reasoning_gym")[split]


def _generator(dataset: str, config: dict[str, Any], size: int, seed: int) -> Callable[[int], dict[str, Any]]:
    try:
        from reasoning_gym.factory import DATASETS, create_dataset
    except ImportError as error:
        raise UserError("task reasoning_gym needs an extra: pip install 'critique_rl[procedural]'") from error
    if dataset not in DATASETS:
        raise DataError(f"task reasoning_gym: no data set {dataset!r}. {nearest(dataset, DATASETS)}")
    known = {field.name for field in dataclasses.fields(DATASETS[dataset][1])} - {"seed", "size"}
    for name in config:
        if name not in known:
            raise DataError(f"config of {dataset}: no field {name!r}. {nearest(name, known)}")
    own_seed = child_seed(seed, "reasoning_gym", dataset)
    try:
        return create_dataset(dataset, seed=own_seed, size=size, **config).__getitem__
    except (AssertionError, ValueError, TypeError) as error:  # how the configs' validate() refuses
        raise DataError(f"config of {dataset}: {type(error).__name__}: {error}") from error


def _draw(generate: Callable[[int], dict[str, Any]], dataset: str, size: int) -> list[tuple[str, str]]:
    """Draw until there are `size` distinct questions, each with its answer."""
    items: dict[str, tuple[str, str]] = {}
    for i in range(size * DRAWS_PER_PROBLEM):
        item = generate(i)
        question, answer = item["question"], item["answer"]
        if not isinstance(answer, str) or not answer.strip():
            raise DataError(
                f"{dataset}, item {i}: found answer {answer!r}, expected text; it cannot be graded"
            )
        items.setdefault(problem_id(question), (question, answer.strip()))
        if len(items) == size:
            return list(items.values())
    raise DataError(
        f"{dataset}: only {len(items)} distinct problems in {size * DRAWS_PER_PROBLEM} draws, expected "
        f"{size}; lower `size` or widen `config`"
    )


def _kind(dataset: str, answers: list[str]) -> GradedKind:
    if all(_NUMBER.fullmatch(answer) for answer in answers):
        return "number"
    if all(_YES_NO.fullmatch(answer) for answer in answers):
        return "yes_no"
    if dataset in MATH_ANSWERS:
        return "math"
    example = next((answer for answer in answers if not _NUMBER.fullmatch(answer)), "")
    raise DataError(
        f"{dataset}: answers like {example[:60]!r} are not all numbers, nor all yes or no; choose how to "
        f"grade them by the option `kind` ({', '.join(get_args(GradedKind))}) or take another data set"
    )


TASK = Task(
    name="reasoning_gym",
    about="Any generator of reasoning-gym, named by the option `dataset`.",
    kinds=("number", "yes_no", "math"),
    load=load,
    hub=None,
    licence="Apache-2.0",
)
