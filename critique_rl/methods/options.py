"""Options of a stage as a report reads them: the value in the configuration, or the default of its method."""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Callable, Mapping
from typing import Any

from critique_rl.config.methods import METHODS

CRITIC_ONLY = (
    "refinement_reward",
    "combination",
    "beta_1",
    "signed_dis",
    "oracle_noise",
    "balanced_rollouts",
    "response_source",
    "response_temperature",
    "refinement_temperature",
)
"""Fields of a trainer without effect where no critic is trained."""


def option(stage: Mapping[str, Any], key: str) -> Any:
    """An option of a stage that a result file holds, or its default; None if the method has no such option."""
    return stage["trainer"].get(key, defaults(stage["method"]).get(key))


def defaults(method: str) -> dict[str, Any]:
    """Defaults of a method's options, or with `sft` of supervised training; empty where they have no dataclass."""
    info = METHODS.get(method)
    place = "trl:SFTConfig" if method == "sft" else info.options if info else None
    if place is None:
        return {}
    module, _, name = place.partition(":")
    fields = dataclasses.fields(getattr(importlib.import_module(module), name))
    return {f.name: f.default for f in fields if f.default is not dataclasses.MISSING}


def rollout_size(get: Callable[[str], Any], processes: int) -> int:
    """Critiques that all processes of a training draw at once; `get` gives its options."""
    size: int = get("generation_batch_size") or get("per_device_train_batch_size") * processes * (
        get("steps_per_generation") or get("gradient_accumulation_steps")
    )
    return size
