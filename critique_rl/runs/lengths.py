"""Mean lengths of the texts of a run in tokens, from its problems, without a tokenizer."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

from critique_rl.config.data import LengthConfig
from critique_rl.prompts import PromptSet
from critique_rl.types import Conversation, Problem

CHARACTERS = 3.5
"""Characters of a token."""
PIXELS = 28 * 28
"""Pixels of a token, as Qwen-VL reads images."""
ASKED = 512
"""Assumed tokens of a question with its instructions, where no problem can be read."""
SAMPLED = 200
"""Most problems whose lengths are counted."""


class Tokens(NamedTuple):
    """Mean tokens of texts, and of the prompts that ask for a response, critique, refinement or preference."""

    response: float
    critique: float
    refinement: float
    asks_response: float
    asks_critique: float
    asks_refinement: float
    asks_preference: float
    pictured: bool


def token_counts(problems: Sequence[Problem], prompts: PromptSet, limits: LengthConfig) -> Tokens:
    """Mean tokens of some problems: responses are like the published solutions, critiques longer.

    Where no solution is published, texts are as long as their limits.
    """
    some = problems[:: max(1, len(problems) // SAMPLED)][:SAMPLED]
    solution = sum(len(p.solution) for p in some) / len(some) / CHARACTERS or math.inf
    response, refinement = min(solution, limits.response), min(solution, limits.refinement)
    critique = min(2.5 * solution + 40, limits.critique)
    y, c = ("x" * round(CHARACTERS * tokens) for tokens in (response, critique))
    pictures = [p.image for p in some if p.image is not None]
    seen = sum(map(_picture_tokens, pictures)) / len(some)

    def asks(write: Callable[..., Conversation], *texts: str) -> float:
        turns = [turn for p in some for turn in write(p.question, *texts)]
        return sum(len(turn["content"]) for turn in turns) / len(some) / CHARACTERS + seen

    return Tokens(
        response,
        critique,
        refinement,
        asks_response=asks(prompts.reasoning_prompt),
        asks_critique=asks(prompts.critique_prompt, y),
        asks_refinement=asks(prompts.refinement_prompt, y, c),
        asks_preference=asks(prompts.pairwise_prompt, y, y),
        pictured=bool(pictures),
    )


def assumed_counts(limits: LengthConfig, *, pictured: bool) -> Tokens:
    """Tokens where no problem can be read: every text is half as long as its limit."""
    response, critique, refinement = limits.response / 2, limits.critique / 2, limits.refinement / 2
    return Tokens(
        response,
        critique,
        refinement,
        asks_response=ASKED,
        asks_critique=ASKED + response,
        asks_refinement=ASKED + response + critique,
        asks_preference=ASKED + 2 * response,
        pictured=pictured,
    )


def _picture_tokens(image: str) -> float:
    from critique_rl.vision.images import image_size

    return math.prod(image_size(image)) / PIXELS
