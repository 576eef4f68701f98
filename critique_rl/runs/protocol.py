"""TODO docstring."""

from __future__ import annotations

from dataclasses import fields

from critique_rl.config.data import LengthConfig
from critique_rl.config.evaluation import Course, ProtocolConfig
from critique_rl.evaluation.protocol import Protocol
from critique_rl.prompts import PromptSet
from critique_rl.types import Sampling, child_seed


def protocol_of(p: ProtocolConfig, prompts: PromptSet, lengths: LengthConfig, seed: int) -> Protocol:
    """The protocol of an evaluation with one seed."""
    return Protocol(
        prompts,
        response=Sampling(lengths.response, p.response_temperature),
        critique=Sampling(lengths.critique, p.critique_temperature),
        refinement=Sampling(lengths.refinement, p.refinement_temperature),
        seed=child_seed(seed, "evaluation"),
        **{field.name: getattr(p, field.name) for field in fields(Course)},
    )
