"""The arithmetic of the policy gradient: advantages, KL estimates, whitening. Pure functions on tensors.

Shapes: B prompts, G critiques a prompt, N = B * G sequences, T tokens. `mask_NT` is 1 where a token counts.
"""

from __future__ import annotations

import torch
from torch import Tensor


def rloo_advantages(rewards_BG: Tensor) -> Tensor:
    """Leave-one-out advantages (REINFORCE leave-one-out, arXiv 2402.14740): r_i - mean_{j != i} r_j.

    NaN marks a critique that could not be rewarded: it gets 0 and is left out of the others' baseline. A
    critique that is alone in its group has no baseline and gets 0.

    Args:
        rewards_BG: (B, G) rewards.

    Returns:
        (B, G) advantages; each row without NaN sums to 0.
    """
    _require(rewards_BG.dim() == 2, f"rewards_BG must be (B, G), got {tuple(rewards_BG.shape)}")
    count_B1 = (~rewards_BG.isnan()).sum(dim=1, keepdim=True)
    others_BG = (rewards_BG.nansum(dim=1, keepdim=True) - rewards_BG) / (count_B1 - 1)
    return (rewards_BG - others_BG).nan_to_num(nan=0.0, posinf=0.0, neginf=0.0)


def grpo_advantages(rewards_BG: Tensor, *, epsilon: float = 1e-4) -> Tensor:
    """Group-relative advantages (GRPO, arXiv 2402.03300): (r_i - mean(r)) / (std(r) + epsilon).

    NaN as in `rloo_advantages`. The standard deviation is the unbiased one, as in trl.
    """
    _require(rewards_BG.dim() == 2, f"rewards_BG must be (B, G), got {tuple(rewards_BG.shape)}")
    count_B1 = (~rewards_BG.isnan()).sum(dim=1, keepdim=True)
    centred_BG = rewards_BG - rewards_BG.nansum(dim=1, keepdim=True) / count_B1
    std_B1 = ((centred_BG**2).nansum(dim=1, keepdim=True) / (count_B1 - 1).clamp(min=1)).sqrt()
    return (centred_BG / (std_B1 + epsilon)).nan_to_num(nan=0.0)


def kl_k1(logps_NT: Tensor, ref_logps_NT: Tensor) -> Tensor:
    """Per-token estimate k1 of KL(pi || pi_ref) on tokens drawn from pi: log pi - log pi_ref. Unbiased."""
    return logps_NT - ref_logps_NT


def kl_k3(logps_NT: Tensor, ref_logps_NT: Tensor) -> Tensor:
    """Per-token estimate k3 of KL(pi || pi_ref): exp(-k1) - 1 + k1 >= 0 (Schulman's low-variance form)."""
    log_ratio_NT = ref_logps_NT - logps_NT
    return log_ratio_NT.exp() - 1.0 - log_ratio_NT


def kl_forward(logps_NT: Tensor, ref_logps_NT: Tensor) -> Tensor:
    """Per-token estimate of KL(pi_ref || pi), the direction the paper writes, on tokens drawn from pi.

    Importance-weighted: (pi_ref / pi) * log(pi_ref / pi). Unbiased, of higher variance than k1.
    """
    log_ratio_NT = ref_logps_NT - logps_NT
    return log_ratio_NT.exp() * log_ratio_NT


KL_ESTIMATES = {"k1": kl_k1, "k3": kl_k3, "forward": kl_forward}


def reward_to_go(per_token_NT: Tensor) -> Tensor:
    """Undiscounted return from each token on: G_t = sum_{s >= t} r_s."""
    _require(per_token_NT.dim() == 2, f"per_token_NT must be (N, T), got {tuple(per_token_NT.shape)}")
    return per_token_NT.flip(1).cumsum(1).flip(1)


def token_advantages(advantages_N: Tensor, kl_NT: Tensor, mask_NT: Tensor, *, beta: float) -> Tensor:
    """Per-token advantages with the KL in the reward, outside the baseline: A_i - beta * sum_{s>=t} kl_s.

    This is Eq. 8 and 9 as the released code optimises them (spec of the paper, section 3.6, steps 2 and 3).

    Args:
        advantages_N: (N,) sequence advantages.
        kl_NT: (N, T) per-token KL estimates.
        mask_NT: (N, T) completion mask.
        beta: KL coefficient.

    Returns:
        (N, T), 0 outside the mask.
    """
    _require(kl_NT.shape == mask_NT.shape, f"shapes differ: {tuple(kl_NT.shape)}, {tuple(mask_NT.shape)}")
    return (advantages_N.unsqueeze(1) - beta * reward_to_go(kl_NT * mask_NT)) * mask_NT


def whiten(values_NT: Tensor, mask_NT: Tensor, moments_3: Tensor) -> Tensor:
    """Shift and scale to mean 0 and variance 1 over all tokens that count.

    Args:
        values_NT: (N, T) values, for instance advantages of one rank's share of the batch.
        mask_NT: (N, T) mask.
        moments_3: `masked_moments` summed over the whole optimizer batch, all ranks included, so that
            micro-batching and the number of ranks do not change the result.

    Returns:
        (N, T), 0 outside the mask.
    """
    mean = moments_3[0] / moments_3[2].clamp(min=1)
    variance = (moments_3[1] / moments_3[2].clamp(min=1) - mean**2).clamp(min=1e-8)
    return (values_NT - mean) * variance.rsqrt() * mask_NT


def masked_moments(values_NT: Tensor, mask_NT: Tensor) -> Tensor:
    """(3,) sums over the mask: values, squared values, count; additive over ranks and micro-batches."""
    masked_NT = values_NT * mask_NT
    return torch.stack([masked_NT.sum(), (masked_NT * values_NT).sum(), mask_NT.sum().to(values_NT.dtype)])


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)
