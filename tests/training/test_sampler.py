"""Rollouts with as many right as wrong responses: their order, what is left out, what is refused."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset

from critique_rl.training.sampler import BalancedSampler
from critique_rl.training.stages import Stage1Trainer
from critique_rl.types import UserError

LABELS = [True] * 5 + [False] * 15


def sampler(labels: list[bool], epoch: int = 0, **counts: int) -> BalancedSampler:
    settings = {"mini_repeat_count": 2, "batch_size": 4, "repeat_count": 3, **counts}
    return BalancedSampler(labels, seed=7, epoch=lambda: epoch, data_source=labels, shuffle=True, **settings)


def cut(order: list[Any], size: int) -> list[list[Any]]:
    assert len(order) % size == 0
    return [order[i : i + size] for i in range(0, len(order), size)]


def test_each_rollout_is_balanced_and_repeated_as_by_trl() -> None:
    order = list(balanced := sampler(LABELS))
    assert len(order) == len(balanced) == 2 * 4 * 2 * 3  # two whole rollouts; one pair is left over
    for passes in cut(order, 4 * 2 * 3):
        first, *others = cut(passes, 4 * 2)
        assert all(other == first for other in others)
        assert set(Counter(first).values()) == {2}
        assert Counter(LABELS[row] for row in first) == {True: 4, False: 4}


def test_an_epoch_has_each_row_once_and_the_next_has_others() -> None:
    first, again, second = (
        list(sampler(LABELS, epoch, mini_repeat_count=1, repeat_count=1)) for epoch in (0, 0, 1)
    )
    assert first == again  # a resumed run goes on in the order of its epoch
    assert len(set(first)) == len(first) and len(set(second)) == len(second)
    assert {row for row in first if not LABELS[row]} != {row for row in second if not LABELS[row]}


def test_a_class_that_fills_no_rollout_is_refused() -> None:
    with pytest.raises(UserError, match="1 right and 15 wrong responses do not fill a balanced rollout of 4"):
        sampler(LABELS[4:])


def test_the_trainer_draws_balanced_rollouts_if_asked_to(
    critic_dir: Path, pool: Dataset, config: Callable[..., Any]
) -> None:
    right = [i for i, correct in enumerate(pool["response_correct"]) if correct]
    wrong = [i for i, correct in enumerate(pool["response_correct"]) if not correct]
    skewed = pool.select(right[:4] * 2 + wrong[:2])

    def shares(**options: Any) -> set[int]:
        args = config(rl_steps=1, num_generations=4, generation_batch_size=16, **options)
        trainer = Stage1Trainer(critic_dir, args=args, train_dataset=skewed)
        truth = [skewed[i]["response_correct"] for i in trainer._get_train_sampler()]
        return {sum(rollout) for rollout in cut(truth, 16)}

    assert shares(balanced_rollouts=True) == {8}
    assert shares() != {8}
