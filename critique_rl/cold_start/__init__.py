"""Supervised fine-tuning of actor and critic, who writes its texts, and the models made on the spot.

May import training, evaluation and what is below them."""

from typing import Any

from critique_rl.moved import find

_HOMES = (
    "cold_start.sft",
    "training.config",
)


def __getattr__(name: str) -> Any:
    return find(name, __name__, _HOMES)
