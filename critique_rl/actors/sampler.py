"""Random draws of the actor in this process: one stream for each sequence, none from torch's global generator."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from transformers import LogitsProcessor

from critique_rl.types import Sampling

_CANDIDATES = (64, 1024)
"""Numbers of tokens, the most likely ones, among which a draw is looked for before all are sorted."""


class SeededSampler(LogitsProcessor):
    """Draws each next token with temperature and nucleus, from one random stream per sequence.

    `torch.multinomial` draws for the whole batch from the global generator. The draw of one sequence would depend
    on its neighbours, and the trainer's randomness on the actor. Here sequence `b` at step `t` inverts its
    cumulative distribution at a uniform number that depends on `(seeds[b], t)` only.

    Args:
        seeds: One seed per sequence of the batch.
        sampling: Temperature, nucleus and number of tokens.
        prompt_width: Padded length of the prompts, in tokens; for `generate` of transformers alone.
    """

    def __init__(self, seeds: Sequence[int], sampling: Sampling, prompt_width: int = 0) -> None:
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
        rows_B = torch.arange(len(scores), device=scores.device)
        drawn_B = self.draw(scores, rows_B, input_ids.shape[1] - self._prompt_width)
        kept_BV = torch.full_like(scores, -torch.inf).scatter_(-1, drawn_B.unsqueeze(1), 0.0)
        return kept_BV  # type: ignore[return-value]

    def draw(self, logits_BV: torch.Tensor, rows_B: torch.Tensor, step: int) -> torch.Tensor:
        """Tokens (B,) of the sequences `rows_B` at `step`.

        The most likely tokens are sorted alone: a whole vocabulary takes as long as the model. Where they do not
        reach the draw or the end of the nucleus, more are sorted, at last all.
        """
        probabilities_BV = (logits_BV.float() / self._temperature).softmax(-1)
        uniform_B1 = self._uniform_BT[rows_B.cpu(), step, None].to(logits_BV.device)
        for candidates in _CANDIDATES:
            if logits_BV.shape[-1] <= candidates:
                break
            top_BK, tokens_BK = probabilities_BV.topk(candidates)
            cumulative_BK = top_BK.cumsum(-1)
            reached_B1 = cumulative_BK[:, -1:]
            if self._top_p < 1.0 and bool((reached_B1 >= self._top_p).all()):
                return self._within_nucleus(cumulative_BK, tokens_BK, uniform_B1)
            if self._top_p == 1.0 and bool((reached_B1 > uniform_B1).all()):
                rank_B1 = torch.searchsorted(cumulative_BK, uniform_B1, right=True)
                return tokens_BK.gather(-1, rank_B1.clamp(max=candidates - 1)).squeeze(-1)
        sorted_BV, tokens_BV = probabilities_BV.sort(-1, descending=True)
        return self._within_nucleus(sorted_BV.cumsum(-1), tokens_BV, uniform_B1)

    def _within_nucleus(
        self, cumulative_BK: torch.Tensor, tokens_BK: torch.Tensor, uniform_B1: torch.Tensor
    ) -> torch.Tensor:
        # The nucleus ends with the token that reaches top_p; the draw is uniform over its mass.
        last_B1 = (cumulative_BK < self._top_p).sum(-1, keepdim=True).clamp(max=cumulative_BK.shape[-1] - 1)
        target_B1 = uniform_B1 * cumulative_BK.gather(-1, last_B1)
        # `minimum` is for GPUs: their parallel cumsum may dip by a rounding error and mislead the search.
        rank_B1 = torch.searchsorted(cumulative_BK, target_B1, right=True).minimum(last_B1)
        return tokens_BK.gather(-1, rank_B1).squeeze(-1)
