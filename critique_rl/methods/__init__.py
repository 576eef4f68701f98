"""The methods that Critique-RL is compared with, each trained with the same critic, data and budget.

Here are those that are no plain configuration of `CritiqueTrainer`; docs/baselines.md says what each of them
is, what the paper says of it and what is inferred.

>>> sorted(BASELINES)[:4]
['actor_rl', 'critic_cot', 'label_sft', 'mixed']
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from typing import Any, Protocol

from critique_rl.config.methods import PLACES
from critique_rl.methods.base import Inputs
from critique_rl.types import UserError, nearest

__all__ = ["BASELINES", "Baseline", "Inputs", "baseline"]


class Baseline(Protocol):
    """One method: a module, or an object, with these two functions."""

    def check(self, options: Mapping[str, Any]) -> None:
        """Refuse unknown and invalid options; cheap, before any work.

        Raises:
            UserError: It names the option and says what to do.
        """
        ...

    def train(self, inputs: Inputs) -> None:
        """Train and write model and tokenizer to `inputs.output`; called again, it goes on where it can."""
        ...


class _Registry(Mapping[str, Baseline]):
    """Names to baselines; a baseline's module is imported when it is asked for."""

    def __getitem__(self, name: str) -> Baseline:
        place = PLACES[name]
        found: Any = importlib.import_module(f"{__name__}.{place.module}")
        return found if place.attribute is None else getattr(found, place.attribute)

    def __iter__(self) -> Iterator[str]:
        return iter(PLACES)

    def __len__(self) -> int:
        return len(PLACES)


BASELINES: Mapping[str, Baseline] = _Registry()
"""Baselines by name, as `method` of a stage has it."""


def baseline(name: str) -> Baseline:
    """Look up a baseline.

    Raises:
        UserError: There is none of that name.
    """
    if name not in PLACES:
        raise UserError(f"no baseline '{name}'. {nearest(name, PLACES)}")
    return BASELINES[name]
