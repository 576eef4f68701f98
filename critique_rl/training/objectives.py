"""The arithmetic of the policy gradient: advantages, KL estimates, values, whitening. Pure functions on tensors.

Names end in shapes: B prompts, G critiques a prompt, N = B * G sequences, T tokens. `mask_NT` is 1 where a token
counts, `kl_NT` the KL estimate of each token, `beta` the KL coefficient. Sums of `masked_moments` have 3 numbers.
"""

from __future__ import annotations

import torch
from torch import Tensor


def rloo_advantages(rewards_BG: Tensor) -> Tensor:
    """(B, G) leave-one-out advantages (REINFORCE leave-one-out, arXiv 2402.14740): r_i - mean_{j != i} r_j.

    NaN marks a critique without reward: its advantage is 0 and it is left out of the others' baseline. A critique
    alone in its group has no baseline; its advantage is 0. Each row without NaN sums to 0. Equal rewards give
    exactly 0.
    """
    rewards_BG = _above_lowest(rewards_BG)
    count_B1 = (~rewards_BG.isnan()).sum(dim=1, keepdim=True)
    others_BG = (rewards_BG.nansum(dim=1, keepdim=True) - rewards_BG) / (count_B1 - 1)
    return (rewards_BG - others_BG).nan_to_num(nan=0.0, posinf=0.0, neginf=0.0)


def grpo_advantages(rewards_BG: Tensor, *, epsilon: float = 1e-4) -> Tensor:
    """Group-relative advantages (GRPO, arXiv 2402.03300): (r_i - mean(r)) / (std(r) + epsilon).

    NaN as in `rloo_advantages`. The standard deviation is the unbiased one, as in trl. Equal rewards give
    exactly 0: divided by so small a deviation, the rounding of their mean would be a gradient.
    """
    rewards_BG = _above_lowest(rewards_BG)
    count_B1 = (~rewards_BG.isnan()).sum(dim=1, keepdim=True)
    centred_BG = rewards_BG - rewards_BG.nansum(dim=1, keepdim=True) / count_B1
    std_B1 = ((centred_BG**2).nansum(dim=1, keepdim=True) / (count_B1 - 1).clamp(min=1)).sqrt()
    return (centred_BG / (std_B1 + epsilon)).nan_to_num(nan=0.0)


def _above_lowest(rewards_BG: Tensor) -> Tensor:
    """(B, G) rewards less the lowest of their group, which no advantage depends on but for rounding."""
    _require(rewards_BG.dim() == 2, f"rewards_BG must be (B, G), got {tuple(rewards_BG.shape)}")
    return rewards_BG - rewards_BG.nan_to_num(nan=torch.inf).amin(dim=1, keepdim=True)


def kl_k1(logps_NT: Tensor, ref_logps_NT: Tensor) -> Tensor:
    """Per-token estimate k1 of KL(pi || pi_ref) on tokens drawn from pi: log pi - log pi_ref. Unbiased."""
    return logps_NT - ref_logps_NT


def kl_k3(logps_NT: Tensor, ref_logps_NT: Tensor) -> Tensor:
    """Per-token estimate k3 of KL(pi || pi_ref): exp(-k1) - 1 + k1 >= 0 (Schulman's low-variance form)."""
    log_ratio_NT = ref_logps_NT - logps_NT
    return log_ratio_NT.exp() - 1.0 - log_ratio_NT


def clipped_reference(logps_NT: Tensor, ref_logps_NT: Tensor, limit: float) -> Tensor:
    """Move reference log-probabilities so that their log-ratio to the policy's lies within +-`limit` nats.

    At the limit, ratio and KL are constant and have no gradient. LLaVA-Critic-R1's released code clips the
    argument of k3 in the same way.
    """
    return logps_NT + (ref_logps_NT - logps_NT).clamp(-limit, limit)


def kl_forward(logps_NT: Tensor, ref_logps_NT: Tensor) -> Tensor:
    """Per-token estimate of KL(pi_ref || pi), the direction the paper writes, on tokens drawn from pi.

    Importance-weighted: (pi_ref / pi) * log(pi_ref / pi). Unbiased, of higher variance than k1.
    """
    log_ratio_NT = ref_logps_NT - logps_NT
    return log_ratio_NT.exp() * log_ratio_NT


def kl_forward_cost(logps_NT: Tensor, ref_logps_NT: Tensor) -> Tensor:
    """Cost of a token under KL(pi_ref || pi): 1 - pi_ref / pi, of mean 0 under pi; see `KL_COSTS`."""
    return 1.0 - (ref_logps_NT - logps_NT).exp()


KL_ESTIMATES = {"k1": kl_k1, "k3": kl_k3, "forward": kl_forward}
"""Estimates by name, as `kl_estimator` has it: the KL in expectation."""

KL_COSTS = {"k1": kl_k1, "k3": kl_k1, "forward": kl_forward_cost}
"""Costs by name: the cost of a token whose policy gradient is that of the KL, E_pi[cost grad log pi] = grad KL.

An estimate of the KL is a constant in the reward and need not have that gradient. With k3 it would be
grad KL(pi || pi_ref) - grad KL(pi_ref || pi), almost 0 near the reference; with `forward` it would push away.
"""


def reward_to_go(per_token_NT: Tensor) -> Tensor:
    """Undiscounted return from each token onwards: G_t = sum_{s >= t} r_s."""
    _require(per_token_NT.dim() == 2, f"per_token_NT must be (N, T), got {tuple(per_token_NT.shape)}")
    return per_token_NT.flip(1).cumsum(1).flip(1)


def with_own_cost(
    advantages_NT: Tensor, kl_NT: Tensor, cost_NT: Tensor, mask_NT: Tensor, *, beta: float
) -> Tensor:
    """(N, T) advantages in which each token pays `KL_COSTS` for its own KL: A_t + beta (kl_t - cost_t).

    For the KL of later tokens it still pays the estimate. For k1 both are the same. The advantages are those of
    `token_advantages`, or of `gae` from `token_rewards`, and contain `kl_NT`.
    """
    return advantages_NT + beta * (kl_NT - cost_NT) * mask_NT


def token_advantages(advantages_N: Tensor, kl_NT: Tensor, mask_NT: Tensor, *, beta: float) -> Tensor:
    """(N, T) advantages with the KL in the reward, outside the baseline: A_i - beta * sum_{s>=t} kl_s.

    With k1 this is Eq. 8 and 9 as the released code optimises them (spec of the paper, section 3.6). Outside the
    mask they are 0.
    """
    _require(kl_NT.shape == mask_NT.shape, f"shapes differ: {tuple(kl_NT.shape)}, {tuple(mask_NT.shape)}")
    return (advantages_N.unsqueeze(1) - beta * reward_to_go(kl_NT * mask_NT)) * mask_NT


def token_rewards(rewards_N: Tensor, kl_NT: Tensor, mask_NT: Tensor, *, beta: float) -> Tensor:
    """(N, T) rewards: -beta * kl_t, and the reward of the sequence on its last token; 0 outside the mask.

    Their reward to go is `token_advantages` of the same rewards. Each row of the mask is one run of 1; a sequence
    without tokens has nowhere to put its reward.
    """
    _require(kl_NT.shape == mask_NT.shape, f"shapes differ: {tuple(kl_NT.shape)}, {tuple(mask_NT.shape)}")
    last_NT = (reward_to_go(mask_NT) == 1) & (mask_NT == 1)
    return torch.where(last_NT, rewards_N.unsqueeze(1), 0.0) - beta * kl_NT * mask_NT


def gae(
    rewards_NT: Tensor, values_NT: Tensor, mask_NT: Tensor, *, gamma: float = 1.0, lam: float
) -> tuple[Tensor, Tensor]:
    """Generalised advantage estimation (arXiv 1506.02438, Eq. 16), and the returns to which values are fitted.

        A_t = sum_{k >= 0} (gamma lam)^k delta_{t+k},   delta_t = r_t + gamma V_{t+1} - V_t,   R_t = A_t + V_t

    The value after the last token is 0: a sequence ends there, also one that was cut off.

    Args:
        rewards_NT: Rewards of tokens, see `token_rewards`.
        values_NT: Value of the state in which each token was chosen; gradients through it are cut.
        mask_NT: Each row is a run of 1 from the left, or empty. Numbers outside it have no effect, not even NaN.
        gamma: Discount; 1 leaves the objective as it is.
        lam: 1 is the reward to go minus the value, 0 the one-step difference.

    Returns:
        (N, T) advantages and (N, T) returns, both 0 outside the mask and without gradient.
    """
    shapes = [tuple(x.shape) for x in (rewards_NT, values_NT, mask_NT)]
    _require(len(set(shapes)) == 1 and len(shapes[0]) == 2, f"all must be one (N, T), got {shapes}")
    outside_NT = mask_NT == 0
    rewards_NT = rewards_NT.detach().masked_fill(outside_NT, 0.0)
    values_NT = values_NT.detach().masked_fill(outside_NT, 0.0)
    deltas_NT = rewards_NT + gamma * torch.nn.functional.pad(values_NT[:, 1:], (0, 1)) - values_NT
    advantages_NT = torch.zeros_like(deltas_NT)
    running_N = deltas_NT.new_zeros(deltas_NT.size(0))
    for t in reversed(range(deltas_NT.size(1))):
        running_N = deltas_NT[:, t] + gamma * lam * running_N
        advantages_NT[:, t] = running_N
    return advantages_NT, advantages_NT + values_NT


def value_loss(
    values_NT: Tensor, old_values_NT: Tensor, returns_NT: Tensor, mask_NT: Tensor, *, clip: float
) -> Tensor:
    """Clipped squared error of PPO: 1/2 max((V - R)^2, (V_old + clamp(V - V_old, -clip, clip) - R)^2).

    Moving a value further than `clip` from its value at the rollout does not lower the loss. The clipping is not
    in the paper of PPO (arXiv 1707.06347) but in its usual implementations, among them that of arXiv 2009.01325.

    Args:
        old_values_NT: Values at the rollout, V_old.
        returns_NT: R, the returns of `gae`.
        clip: Most that a value may move, in units of the reward; `inf` for no clipping.

    Returns:
        Mean over sequences of the mean over their tokens: the mean over micro-batches of equal N is that over the
        batch. A sequence without tokens counts as 0.
    """
    clipped_NT = old_values_NT + (values_NT - old_values_NT).clamp(-clip, clip)
    errors_NT = torch.maximum((values_NT - returns_NT) ** 2, (clipped_NT - returns_NT) ** 2)
    return 0.5 * ((errors_NT * mask_NT).sum(1) / mask_NT.sum(1).clamp(min=1)).mean()


def whiten(values_NT: Tensor, mask_NT: Tensor, moments_3: Tensor) -> Tensor:
    """Shift and scale values to mean 0 and variance 1 over all tokens that count; 0 outside the mask.

    Args:
        values_NT: For instance the advantages of one rank's share of the batch.
        moments_3: `masked_moments` summed over the whole batch and all ranks, so that neither micro-batches nor
            the number of ranks change the result.
    """
    mean = moments_3[0] / moments_3[2].clamp(min=1)
    return (values_NT - mean) * _variance(moments_3).clamp(min=1e-8).rsqrt() * mask_NT


def masked_moments(values_NT: Tensor, mask_NT: Tensor) -> Tensor:
    """(3,) sums over the mask: values, squared values, count; additive over ranks and micro-batches."""
    masked_NT = values_NT * mask_NT
    return torch.stack([masked_NT.sum(), (masked_NT * values_NT).sum(), mask_NT.sum().to(values_NT.dtype)])


def explained_variance(errors_3: Tensor, targets_3: Tensor) -> float | None:
    """Share of the targets' variance that a prediction explains: 1 - Var(target - prediction) / Var(target).

    1 is perfect, 0 as good as a constant, below 0 worse than a constant; None where all targets are equal, within
    the precision of float32 sums. Arguments are `masked_moments` of target minus prediction, and of the targets,
    both summed over ranks.
    """
    variance = _variance(targets_3).item()
    return None if variance < 1e-6 else 1.0 - _variance(errors_3).item() / variance


def _variance(moments_3: Tensor) -> Tensor:
    mean, square = moments_3[:2] / moments_3[2].clamp(min=1)
    return square - mean**2


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)
