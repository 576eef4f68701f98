"""Numbers that go wrong while a training runs: what is not finite stops it, what is unhealthy is named."""

from __future__ import annotations

import logging
import math
from collections import Counter
from typing import Any

import torch
from transformers import TrainerCallback, TrainerState

from critique_rl.sharding import part_here
from critique_rl.training.metrics import LEVELS, level
from critique_rl.types import UserError

logger = logging.getLogger(__name__)

PATIENCE = 4
"""RL steps in a row outside of what is healthy after which the policy `stop` ends a training."""


def not_finite(model: torch.nn.Module, *, trained: bool = False) -> str:
    """Name of the first weight that holds NaN or infinity, of all or of those that are `trained`; else empty.

    Of weights that several processes share, each looks at its own parts.
    """
    named = [
        (name, part_here(p))
        for name, p in model.named_parameters()
        if p.is_floating_point() and (p.requires_grad or not trained)
    ]
    device = named[0][1].device
    # A sum is not finite if one weight is not, and much faster than a look at each; read once, at the end.
    sums = torch.stack([p.sum().to(device, torch.float32) for _, p in named])
    suspects = (named[i] for i in sums.isfinite().logical_not().nonzero().flatten().tolist())
    return next((name for name, p in suspects if not torch.isfinite(p).all()), "")


def require_finite(model: torch.nn.Module, what: str, advice: str) -> None:
    """Refuse a model with NaN or infinity in its weights.

    Raises:
        UserError: The message begins with `what` and ends in `advice`.
    """
    name = not_finite(model)
    if name:
        raise UserError(f"{what} holds NaN or infinity in its weights, first in {name}: {advice}")


class Watch(TrainerCallback):
    """Names each metric that leaves its healthy range, at the RL step where it happens.

    A metric that stays outside is named again after 2, 4, 8 ... RL steps in a row.

    Args:
        block: Optimizer steps of an RL step.
        limit: Most tokens of a critique.
        stop: Save a checkpoint and end the training after `PATIENCE` RL steps in a row outside.

    Attributes:
        stopped: Why the training was ended; empty if it was not.
    """

    def __init__(self, block: int, limit: int | None, *, stop: bool) -> None:
        self.block, self.limit, self.stop, self.stopped = block, limit, stop, ""
        self._in_a_row: Counter[str] = Counter()

    def on_log(self, args: Any, state: TrainerState, control: Any, **kwargs: Any) -> None:
        """Called by the trainer at every log."""
        last = state.log_history[-1]
        if "reward" not in last:
            return  # the log at the end of a training, or of an evaluation
        for metric, rule in LEVELS.items():
            value = last.get(metric)
            reason = "" if value is None else level(rule, float(value), self.limit)
            if not reason:
                self._in_a_row.pop(metric, None)
                continue
            self._in_a_row[metric] += 1
            times = self._in_a_row[metric]
            rl_step = state.global_step // self.block
            said = f"RL step {rl_step}: {metric} is {value:.4g} (healthy: {rule.healthy}): {reason}"
            if state.is_world_process_zero and math.log2(times).is_integer():
                logger.warning("%s%s", said, f"; {times} RL steps in a row" if times > 1 else "")
            if self.stop and times >= PATIENCE and not self.stopped:
                self.stopped = said
                control.should_save = control.should_training_stop = True
