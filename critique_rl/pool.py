"""The response pool D_RL: responses of the frozen actor to train questions, sampled and graded before RL.

The released code samples ten responses per question and stores them with their correctness. It does not say how
the training set is selected from them. Here the pool is deduplicated and, by default, balanced.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from datasets import Dataset

from critique_rl.actors.base import Actor
from critique_rl.grading.replies import grade_replies, items, where_replied
from critique_rl.grading.scoring import Scorer, ScoreRange, train_range
from critique_rl.prompts import PromptSet
from critique_rl.records import rank_of_ranks, written_once
from critique_rl.types import Problem, Sampling, UserError, child_seed

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class PoolCounts:
    """What became of the responses that were drawn for a pool.

    Attributes:
        drawn: Responses drawn.
        ungraded: Left out since they were blank or could not be graded.
        duplicates: Left out since they repeat a response to the same problem.
        right: Distinct right responses; None where responses are scored.
        wrong: Distinct wrong responses; None where responses are scored.
        kept: Rows of the pool; balancing drops the surplus of right or wrong responses.
    """

    drawn: int
    ungraded: int
    duplicates: int
    right: int | None
    wrong: int | None
    kept: int

    def summary(self) -> str:
        """All counts in one line.

        >>> PoolCounts(76, 2, 4, 68, 2, 4).summary()
        '76 responses drawn: 2 ungraded, 4 duplicates, 68 right, 2 wrong; 4 kept'
        """
        graded = [] if self.right is None else [f"{self.right} right", f"{self.wrong} wrong"]
        parts = [f"{self.ungraded} ungraded", f"{self.duplicates} duplicates", *graded]
        return f"{self.drawn} responses drawn: {', '.join(parts)}; {self.kept} kept"


def collect_pool(
    problems: Sequence[Problem],
    actor: Actor,
    prompts: PromptSet,
    *,
    samples: int = 10,
    sampling: Sampling,
    balanced: bool = True,
    seed: int = 0,
    rounds: Path | None = None,
    scorer: Scorer | None = None,
    on_progress: Callable[[int, int], None] | None = None,
    on_counts: Callable[[PoolCounts], None] | None = None,
) -> Dataset:
    """Sample, grade and select responses.

    Several processes of a launch share the rounds of sampling, if `rounds` names a directory that all of them see.
    The rows are those of one process, and each process returns them.

    Args:
        problems: Train questions.
        actor: The frozen actor.
        prompts: Prompt set.
        samples: Responses drawn for each question.
        sampling: Sampling settings; the seed is replaced.
        balanced: Keep as many wrong as right responses within each data set. With an unbalanced pool the
            cheapest way to raise r_dis is to always give the majority's verdict.
        seed: Seed of the draw and of the selection.
        rounds: Directory for one file per round of sampling; an interrupted collection goes on from them. None
            keeps all in memory.
        scorer: Scores the responses to problems of kind `score`; None grades them.
        on_progress: Called with the number of finished rounds and of all rounds.
        on_counts: Called once with what became of the responses; by default they are logged.

    Returns:
        Rows id, dataset, question, answer, kind, response, response_correct, actor, temperature, sample,
        pool_seed, and image if a problem has one, in shuffled order. With a scorer response_score and
        response_rating replace response_correct. Equal responses to one problem appear once; responses that
        cannot be graded are left out.

    Raises:
        UserError: No response could be graded; `balanced`, and all are right or all are wrong; or all have the
            same score.
    """
    draw = partial(_draw_round, problems, actor, prompts, sampling, scorer, seed)
    drawn: dict[int, list[dict[str, Any]]] = {}
    rank, ranks = rank_of_ranks()
    for sample in sorted(range(samples), key=lambda sample: sample % ranks != rank):  # its own ones first
        make = partial(draw, sample)
        path = None if rounds is None else rounds / f"{sample}.jsonl"
        drawn[sample] = make() if path is None else written_once(path, make, writer=sample % ranks)
        if on_progress is not None:
            on_progress(len(drawn), samples)
    distinct: dict[tuple[str, str], dict[str, Any]] = {}
    for row in (row for sample in range(samples) for row in drawn[sample]):
        distinct.setdefault((row["id"], row["response"]), row)
    found, graded = list(distinct.values()), sum(map(len, drawn.values()))
    count = partial(_counts, found, drawn=samples * len(problems), graded=graded, scored=scorer is not None)
    try:
        pool = _select(found, scored=scorer is not None, balanced=balanced, seed=seed)
    except UserError as error:
        raise UserError(f"{error} {count(kept=0).summary()}.") from error
    (on_counts or _log)(count(kept=len(pool)))
    random.Random(child_seed(seed, "pool order")).shuffle(pool)
    return Dataset.from_list(pool)


def _log(counts: PoolCounts) -> None:
    logger.info("pool: %s", counts.summary())


def _counts(
    rows: Sequence[Mapping[str, Any]], *, drawn: int, graded: int, scored: bool, kept: int
) -> PoolCounts:
    right = sum(bool(row["response_correct"]) for row in rows) if not scored else None
    wrong = None if right is None else len(rows) - right
    return PoolCounts(drawn, drawn - graded, graded - len(rows), right, wrong, kept)


def _draw_round(
    problems: Sequence[Problem],
    actor: Actor,
    prompts: PromptSet,
    sampling: Sampling,
    scorer: Scorer | None,
    seed: int,
    sample: int,
) -> list[dict[str, Any]]:
    """Draw one response to each question; the rows of those that are not blank and can be graded."""
    has_images = any(p.image is not None for p in problems)
    chats = [prompts.reasoning_prompt(p.question, image=p.image) for p in problems]
    generations = actor.generate(chats, replace(sampling, seed=child_seed(seed, "pool", sample)))
    # A response cut at the token limit is kept: it is wrong, and the critic will meet such ones.
    responses = [g.after(prompts.reasoning_prefill) for g in generations]
    grades: Sequence[float | None] = grade_replies(problems, responses) if scorer is None else []
    if scorer is not None:
        grades = where_replied(scorer.score, items(problems, responses))
    return [
        {
            **{name: getattr(p, name) for name in ("id", "dataset", "question", "answer", "kind")},
            "response": response,
            "response_correct" if scorer is None else "response_score": grade,
            "actor": actor.name,
            "temperature": sampling.temperature,
            "sample": sample,
            "pool_seed": seed,
            **({"image": p.image} if has_images else {}),
        }
        for p, response, grade in zip(problems, responses, grades, strict=True)
        if grade is not None and response is not None and response.strip()
    ]


def _select(rows: list[dict[str, Any]], *, scored: bool, balanced: bool, seed: int) -> list[dict[str, Any]]:
    """Rate scored responses; balance graded ones if asked to."""
    if not rows:
        raise UserError("the response pool is empty: no response could be graded.")
    if scored:
        scale = score_range(rows)
        return [{**row, "response_rating": scale.rating(row["response_score"])} for row in rows]
    try:
        return select_balanced(rows, seed=seed) if balanced else rows
    except UserError as error:
        raise UserError(
            f"pool: {error} Draw more samples, choose another actor, or set `pool.balanced: false`."
        ) from error


def score_range(pool: Iterable[Mapping[str, Any]]) -> ScoreRange:
    """Range that maps scores to ratings, from the responses of a pool alone: test data never changes it.

    Raises:
        UserError: The responses' scores do not differ.
    """
    return train_range(row["response_score"] for row in pool)


def select_balanced(rows: Sequence[dict[str, Any]], *, seed: int) -> list[dict[str, Any]]:
    """Drop rows of the larger class at random, within each data set, until both classes are equal.

    Raises:
        UserError: There are no rows, or a data set has rows of one class only.
    """
    if not rows:
        raise UserError("nothing is left to balance.")
    selected: list[dict[str, Any]] = []
    for dataset in dict.fromkeys(row["dataset"] for row in rows):
        right = [r for r in rows if r["dataset"] == dataset and r["response_correct"]]
        wrong = [r for r in rows if r["dataset"] == dataset and not r["response_correct"]]
        if not right or not wrong:
            raise UserError(
                f"{len(right)} right and {len(wrong)} wrong responses for {dataset} cannot be balanced."
            )
        rng = random.Random(child_seed(seed, "pool balance", str(dataset)))
        size = min(len(right), len(wrong))
        selected += rng.sample(right, size) + rng.sample(wrong, size)
    return selected
