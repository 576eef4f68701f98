"""Random draws of the actor in this process: one stream for each sequence, none from torch's global generator."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from transformers import LogitsProcessor

from critique_rl.types import Sampling


class SeededSampler(LogitsProcessor):
    """Draws each next token with temperature and nucleus, from one random stream per sequence.

    `torch.multinomial` draws for the whole batch from the global generator. The draw of one sequence would depend
    on its neighbours, and the trainer's randomness on the actor. Here sequence `b` at step `t` inverts its
    cumulative distribution at a uniform number that depends on `(seeds[b], t)` only.

    Args:
        seeds: One seed per sequence of the batch.
        sampling: Temperature, nucleus and number of tokens.
        prompt_width: Padded length of the prompts, in tokens.
    """

    def __init__(self, seeds: Sequence[int], sampling: Sampling, prompt_width: int) -> None:
        if sampling.temperature <= 0:
            raise ValueError(f"temperature must be positive, got {sampling.temperature}")
        self._temperature = sampling.temperature
        self._top_p = sampling.top_p
        self._prompt_width = prompt_width
        self._uniform_BT = torch.stack(
            [torch.rand(sampling.max_tokens, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
        )

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        """Replace the scores (B, V) by 0 for the drawn token and -inf for all others."""
        step = input_ids.shape[1] - self._prompt_width
        tempered_BV = scores.float() / self._temperature
        probabilities_BV, tokens_BV = tempered_BV.softmax(-1).sort(-1, descending=True)
        cumulative_BV = probabilities_BV.cumsum(-1)
        # The nucleus ends with the token that reaches top_p; the draw is uniform over its mass.
        last_B1 = (cumulative_BV < self._top_p).sum(-1, keepdim=True).clamp(max=scores.shape[-1] - 1)
        target_B1 = self._uniform_BT[:, step, None].to(scores.device) * cumulative_BV.gather(-1, last_B1)
        # `minimum` is for GPUs: their parallel cumsum may dip by a rounding error and mislead the search.
        rank_B1 = torch.searchsorted(cumulative_BV, target_B1, right=True).minimum(last_B1)
        drawn_BV = torch.full_like(scores, -torch.inf).scatter_(-1, tokens_BV.gather(-1, rank_B1), 0.0)
        return drawn_BV  # type: ignore[return-value]
