"""The response pool D_RL: responses of the frozen actor to train questions, graded once, before RL.

The released code samples ten responses a question and stores them with their correctness; how the training
set is then made from them was not released. Ours is deduplicated and, unless switched off, balanced.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from datasets import Dataset

from critique_rl.actors.base import Actor
from critique_rl.grading.replies import grade_replies, items
from critique_rl.grading.scoring import Scorer, ScoreRange, train_range
from critique_rl.prompts import PromptSet
from critique_rl.records import written_once
from critique_rl.types import Problem, Sampling, UserError, child_seed


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
) -> Dataset:
    """Sample, grade and select responses.

    Args:
        problems: Train questions.
        actor: The frozen actor.
        prompts: Prompt set.
        samples: Responses drawn for each question.
        sampling: How they are drawn; its seed is replaced.
        balanced: Keep as many wrong as right responses within each data set. With an unbalanced pool the
            cheapest way to raise r_dis is to always give the majority's verdict.
        seed: Seed of the draw and of the selection.
        rounds: Directory to which each round of sampling is written and from which it is read back, so that an
            interrupted collection goes on; None keeps all in memory.
        scorer: Scores the responses to problems of kind `score`; None grades them.
        on_progress: Called with the number of finished and of all rounds of sampling.

    Returns:
        Rows id, dataset, question, answer, kind, response, response_correct, actor, temperature, sample,
        pool_seed, and image if a problem has one, in shuffled order. Equal responses to one problem appear once;
        responses that cannot be graded are left out. With a scorer response_score and response_rating take the
        place of response_correct.

    Raises:
        UserError: No response could be graded; `balanced`, and all are right or all are wrong; or all have the
            same score.
    """

    pictured = any(p.image is not None for p in problems)

    def draw(sample: int) -> list[dict[str, Any]]:
        """One response to each question."""
        seeded = replace(sampling, seed=child_seed(seed, "pool", sample))
        asked = [prompts.reasoning_prompt(p.question, image=p.image) for p in problems]
        generations = actor.generate(asked, seeded)
        # A response cut at the token limit is kept: it is wrong, and the critic will meet such ones.
        responses = [prompts.reasoning_prefill + g.text for g in generations]
        judged: Sequence[float | None]
        judged = scorer.score(items(problems, responses)) if scorer else grade_replies(problems, responses)
        return [
            {
                "id": p.id,
                "dataset": p.dataset,
                "question": p.question,
                "answer": p.answer,
                "kind": p.kind,
                "response": y,
                "response_correct" if scorer is None else "response_score": o,
                "actor": actor.name,
                "temperature": sampling.temperature,
                "sample": sample,
                "pool_seed": seed,
                **({"image": p.image} if pictured else {}),
            }
            for p, y, o in zip(problems, responses, judged, strict=True)
            if o is not None and y.strip()
        ]

    rows: dict[tuple[str, str], dict[str, Any]] = {}
    for sample in range(samples):
        drawn = (
            draw(sample)
            if rounds is None
            else written_once(rounds / f"{sample}.jsonl", partial(draw, sample))
        )
        for row in drawn:
            rows.setdefault((row["id"], row["response"]), row)
        if on_progress is not None:
            on_progress(sample + 1, samples)
    selected = list(rows.values())
    if not selected:
        raise UserError("the response pool is empty: no response could be graded.")
    if scorer is not None:
        scale = score_range(selected)
        selected = [{**row, "response_rating": scale.rating(row["response_score"])} for row in selected]
    elif balanced:
        try:
            selected = select_balanced(selected, seed=seed)
        except UserError as error:
            raise UserError(
                f"pool: {error} Draw more samples, choose another actor, or set `pool.balanced: false`."
            ) from error
    random.Random(child_seed(seed, "pool order")).shuffle(selected)
    return Dataset.from_list(selected)


def score_range(pool: Iterable[Mapping[str, Any]]) -> ScoreRange:
    """What takes scores to ratings, from the responses of a pool: no data that is measured moves it.

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
        kept = min(len(right), len(wrong))
        selected += rng.sample(right, kept) + rng.sample(wrong, kept)
    return selected
