"""A judge made from a model: its prompt, and the reading of its reply."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from critique_rl.actors.base import Actor
from critique_rl.actors.identity import identity_of
from critique_rl.pairwise_rewards import parse_preference
from critique_rl.prompts import PAPER, PromptSet
from critique_rl.self_critique.knockout import Comparison, Ruling
from critique_rl.types import Generation, Sampling


class ActorJudge:
    """A judge made from a model, asked greedily; for self-critique give the actor that wrote the candidates.

    Args:
        actor: The model. The payload of a comparison is passed to it as an image, see `types.Message`.
        prompts: Prompt set; LLaVA-Critic-R1 uses `thinking`.
        thinking: Whether a reply without `</think>` is unparsed, as in training. Thoughts that a server takes out
            of its replies are put back, so that both kinds of servers are read alike.
        max_tokens: Most tokens of a reply.

    Attributes:
        name: Name of the actor with a hash of all settings that change its answers, so that records of another
            prompt are refused.
        identity: Which model the actor is; records of another one are refused.
    """

    def __init__(
        self, actor: Actor, *, prompts: PromptSet = PAPER, thinking: bool = False, max_tokens: int = 2048
    ) -> None:
        self.identity = identity_of(actor)
        self._actor, self._prompts, self._thinking, self._max_tokens = actor, prompts, thinking, max_tokens
        content = repr((prompts.pairwise_prompt("question", "first", "second"), thinking, max_tokens))
        self.name = f"{actor.name}, prompt {hashlib.sha256(content.encode()).hexdigest()[:8]}"

    def __call__(self, asked: Sequence[Comparison]) -> list[Ruling]:
        """Judge all comparisons in one call of the actor."""
        to_prompt = self._prompts.pairwise_prompt
        prompts = [to_prompt(c.question, c.first, c.second, image=c.payload) for c in asked]
        replies = self._actor.generate(prompts, Sampling(self._max_tokens))
        return [self._ruling(reply) for reply in replies]

    def _ruling(self, reply: Generation) -> Ruling:
        if reply.text is None:
            return Ruling(None, tokens=None)
        text = reply.text
        if reply.thought and "</think>" not in text:
            closed = "\n</think>\n\n" if text else ""  # a thought that used up all tokens was never closed
            text = f"<think>\n{reply.thought}{closed}{text}"
        return Ruling(parse_preference(text, thinking=self._thinking), text, reply.tokens)
