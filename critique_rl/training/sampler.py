"""Which rows a rollout holds, and in which order."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from trl.trainer.utils import RepeatSampler

from critique_rl.types import UserError, child_seed


class EpochSampler(RepeatSampler):
    """trl's sampler, with the order of an epoch drawn from the seed and the epoch's number.

    trl draws all epochs from one generator: a run resumed in a later epoch would repeat the order of the first.

    Args:
        seed: Seed of all epochs.
        epoch: Returns the number of the epoch that begins.
        settings: Arguments of `RepeatSampler`.
    """

    def __init__(self, *, seed: int, epoch: Callable[[], int], **settings: Any) -> None:
        super().__init__(seed=seed, **settings)
        self.base_seed, self.epoch = seed, epoch

    def __iter__(self) -> Iterator[int]:
        if self.shuffle:
            self.generator.manual_seed(child_seed(self.base_seed, "epoch", self.epoch()))
        return iter(super().__iter__())


class BalancedSampler(EpochSampler):
    """An order in which right and wrong responses alternate, so that a rollout has as many of both.

    Of 8 responses that are drawn at random 4 +- 1.4 are right. Each surplus makes r_dis favour one verdict,
    whatever the critic has read. Rows of the larger class that have no partner are left out of an epoch; which
    ones, differs from epoch to epoch.

    Args:
        labels: Whether the response of each row is right.
        settings: Arguments of `EpochSampler`. A rollout of an odd number of responses has a surplus of one.

    Raises:
        UserError: A class has too few rows for one rollout.
    """

    def __init__(self, labels: Sequence[bool], **settings: Any) -> None:
        super().__init__(**{**settings, "shuffle": False})  # it draws its own order
        self.labels = labels
        right = sum(labels)
        self.num_samples = 2 * min(right, len(labels) - right)
        if self.num_samples < self.batch_size:
            raise UserError(
                f"{right} right and {len(labels) - right} wrong responses do not fill a balanced rollout of "
                f"{self.batch_size}: add rows, or set balanced_rollouts=False."
            )

    def __iter__(self) -> Iterator[int]:
        seed = child_seed(self.base_seed, "epoch", self.epoch())
        order = torch.randperm(len(self.labels), generator=torch.Generator().manual_seed(seed)).tolist()
        right = (row for row in order if self.labels[row])
        wrong = (row for row in order if not self.labels[row])
        alternating = [row for pair in zip(right, wrong, strict=False) for row in pair]
        return (alternating[i] for i in super().__iter__())
