"""TODO docstring."""

from __future__ import annotations

from typing import NamedTuple


class Place(NamedTuple):
    """Where a baseline is.

    Attributes:
        module: Its module.
        attribute: The object there; None is the module itself.
        roles: What the trained model is in the protocol.
        images: Whether it is made for questions with images.
        by_rl: Whether it is RL by our trainer: takes an adapter, and keeps models on the way.
    """

    module: str
    attribute: str | None = None
    roles: tuple[str, ...] = ("critic",)
    images: bool = False
    by_rl: bool = False


PLACES = {
    "star": Place("self_training", "STAR"),
    "critic_cot": Place("self_training", "CRITIC_COT"),
    "self_refine": Place("self_training", "SELF_REFINE", ("actor", "critic")),
    "super_correct": Place("super_correct"),
    "actor_rl": Place("actor_rl", roles=("actor",), images=True, by_rl=True),
    "score": Place("score", roles=("actor", "critic")),
    "pairwise_critic": Place("pairwise_critic", roles=("actor",), images=True, by_rl=True),
    "mixed": Place("mixed", roles=("actor",), images=True, by_rl=True),
    "label_sft": Place("label_sft", roles=("actor",), images=True),
}
"""Names of baselines, each with what a configuration may know of it without importing it."""
