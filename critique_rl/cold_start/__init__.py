"""The cold start: supervised fine-tuning of actor and critic, its teachers, and tiny models without a download.

May import training, evaluation and what is below them."""

from typing import Any

from critique_rl.moved import find


def __getattr__(name: str) -> Any:
    return find(name, __name__, ("cold_start.sft", "training.config"))
