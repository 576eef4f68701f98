"""Generated problems of any reasoning-gym data set, chosen by name. Nothing is downloaded.

Source: https://github.com/open-thought/reasoning-gym, licence Apache-2.0; needs the extra `procedural`.
An item of a generator, without its metadata:

    {"question": "Work out 12 - 5 + 4.", "answer": "11"}

reasoning-gym seeds item `i` with `seed + i`, so neighbouring seeds share nearly all items. This module hashes the
generator's seed, drops duplicates, and takes the split of a problem from a hash of its text. No seed can turn a
test problem into a training problem.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping
from typing import Any, get_args

from critique_rl.tasks.base import FRACTIONS, DataError, Task, check_generated, split_problems
from critique_rl.tasks.published import make_problem
from critique_rl.tasks.rows import is_missing
from critique_rl.types import GradedKind, Problem, UserError, child_seed, nearest, problem_id

DRAWS_PER_PROBLEM = 10
"""Most draws per requested problem; after them a generator counts as exhausted."""

MATH_ANSWERS = frozenset({"complex_arithmetic", "polynomial_multiplication"})
"""Data sets with one right answer up to equivalence of expressions; `math` grades them."""

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
        source: Must be `None`: the task is generated.
        split: Name of the split to keep.
        seed: Seed of the draw.
        dataset: Name in reasoning-gym, e.g. `chain_sum`.
        size: Distinct problems over all splits together.
        config: Fields of the data set's config, e.g. `{"min_terms": 2}`, except seed and size.
        splits: Share of each split, by default 70 / 10 / 20 % train / validation / test.
        kind: Way to grade. The default is `number` or `yes_no` if all answers have that form, and `math` for
            `MATH_ANSWERS`. Other data sets need an explicit kind, because several of their answers may be
            right, or comparing mathematical values may not suit them.

    Raises:
        UserError: The extra is not installed.
        DataError: An argument is wrong, or the generator has too few problems or an unusable answer.
    """
    if kind is not None and kind not in get_args(GradedKind):
        raise DataError(f"kind: found {kind!r}. {nearest(str(kind), get_args(GradedKind))}")
    if isinstance(size, bool) or not isinstance(size, int) or size < 1:
        raise DataError(f"size: found {size!r}, expected a whole number above 0")
    fractions = FRACTIONS if splits is None else splits
    check_generated("reasoning_gym", source, split, fractions)
    if dataset is None:
        raise DataError("task reasoning_gym: give the option `dataset`, e.g. 'chain_sum'")
    generate = _generator(dataset, dict(config or {}), size * DRAWS_PER_PROBLEM, seed)
    items = _draw(generate, dataset, size)
    kind = kind or _kind(dataset, [answer for _, answer in items])
    name = f"reasoning_gym/{dataset}"
    problems = [
        make_problem(dataset=name, question=question, solution="", answer=answer, kind=kind)
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
    except (AssertionError, ValueError, TypeError) as error:  # raised by the config's validate()
        raise DataError(f"config of {dataset}: {type(error).__name__}: {error}") from error


def _draw(generate: Callable[[int], dict[str, Any]], dataset: str, size: int) -> list[tuple[str, str]]:
    """Draw `size` pairs of question and answer with distinct questions."""
    items: dict[str, tuple[str, str]] = {}
    for i in range(size * DRAWS_PER_PROBLEM):
        item = generate(i)
        question, answer = item["question"], item["answer"]
        if not isinstance(answer, str) or not answer.strip() or is_missing(answer):
            raise DataError(f"{dataset}, item {i}: found answer {answer!r}, expected text that can be graded")
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
        f"{dataset}: answers like {example[:60]!r} are not all numbers, nor all yes or no; choose how to grade "
        f"them by the option `kind` ({', '.join(get_args(GradedKind))}) or take another data set"
    )


TASK = Task(
    name="reasoning_gym",
    about="Any generator of reasoning-gym, chosen by the option `dataset`.",
    kinds=("number", "yes_no", "math"),
    load=load,
    licence="Apache-2.0",
)
