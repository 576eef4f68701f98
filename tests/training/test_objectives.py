"""Tests of `critique_rl.objectives`: numbers worked by hand, invariances, and the sign of the gradient."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from critique_rl.training.objectives import (
    KL_COSTS,
    KL_ESTIMATES,
    explained_variance,
    gae,
    grpo_advantages,
    kl_forward,
    kl_k1,
    kl_k3,
    masked_moments,
    reward_to_go,
    rloo_advantages,
    token_advantages,
    token_rewards,
    value_loss,
    whiten,
    with_own_cost,
)

NAN = float("nan")


def close(actual: Tensor, expected: Tensor | list[list[float]], tolerance: float = 1e-6) -> None:
    torch.testing.assert_close(actual, torch.as_tensor(expected), atol=tolerance, rtol=0.0)


def random_rewards(rows: int = 5, group: int = 4) -> Tensor:
    return torch.randn(rows, group, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("rewards", "expected", "why"),
    [
        # 1 - (0+0+1)/3 = 2/3; 0 - (1+0+1)/3 = -2/3
        ([1.0, 0.0, 0.0, 1.0], [2 / 3, -2 / 3, -2 / 3, 2 / 3], "two of four"),
        # 1 - 0 = 1; 0 - 1/3 = -1/3
        ([1.0, 0.0, 0.0, 0.0], [1.0, -1 / 3, -1 / 3, -1 / 3], "one of four"),
        # 1.2 - (0.2-1)/2 = 1.6; 0.2 - (1.2-1)/2 = 0.1; -1 - (1.2+0.2)/2 = -1.7
        ([1.2, 0.2, -1.0], [1.6, 0.1, -1.7], "gated rewards"),
        ([1.0, 1.0, 1.0, 1.0], [0.0] * 4, "all right: nothing to learn"),
        ([0.0, 0.0, 0.0, 0.0], [0.0] * 4, "all wrong: nothing to learn"),
        # without the unknown: 1 - (0+0)/2 = 1; 0 - (1+0)/2 = -0.5
        ([1.0, NAN, 0.0, 0.0], [1.0, 0.0, -0.5, -0.5], "an unknown reward is in nobody's baseline"),
        ([1.0, NAN, NAN, 0.0], [1.0, 0.0, 0.0, -1.0], "two left"),
        ([1.0, NAN, NAN, NAN], [0.0] * 4, "one left: no baseline"),
        ([NAN] * 4, [0.0] * 4, "none left"),
    ],
)
def test_rloo(rewards: list[float], expected: list[float], why: str) -> None:
    advantages_BG = rloo_advantages(torch.tensor([rewards, [0.0] * len(rewards)]))
    close(advantages_BG, [expected, [0.0] * len(rewards)])


def test_rloo_is_the_scaled_deviation() -> None:
    rewards_BG = random_rewards()
    advantages_BG = rloo_advantages(rewards_BG)
    close(advantages_BG, 4 / 3 * (rewards_BG - rewards_BG.mean(1, keepdim=True)))  # G/(G-1) (r - mean)


def test_grpo() -> None:
    # mean 0.5; std = sqrt(4 * 0.25 / 3) = 0.57735; 0.5 / 0.57735 = 0.8660
    high = 0.75**0.5
    close(grpo_advantages(torch.tensor([[1.0, 0.0, 0.0, 1.0]]), epsilon=0.0), [[high, -high, -high, high]])
    # without the unknown: mean 1/3, std = sqrt((4/9 + 1/9 + 1/9) / 2) = 0.57735
    close(
        grpo_advantages(torch.tensor([[1.0, NAN, 0.0, 0.0]]), epsilon=0.0),
        [[2 / 3 * 3**0.5, 0.0, -1 / 3 * 3**0.5, -1 / 3 * 3**0.5]],
    )
    close(grpo_advantages(torch.tensor([[0.7] * 4, [NAN] * 4, [0.7, NAN, NAN, NAN]])), [[0.0] * 4] * 3)
    rewards_BG = random_rewards()
    # (r - mean) / (std + 1e-4) with torch's own unbiased standard deviation
    expected_BG = (rewards_BG - rewards_BG.mean(1, keepdim=True)) / (rewards_BG.std(1, keepdim=True) + 1e-4)
    close(grpo_advantages(rewards_BG), expected_BG)


def test_equal_rewards_give_no_advantage_at_all() -> None:
    # the mean of twelve 0.9 is not 0.9 in float32: by a small epsilon that rounding would become a gradient
    for group in range(2, 17):
        for reward in (0.2, 0.7, 0.9, 1.2, -0.1):
            rewards_BG = torch.full((3, group), reward)
            rewards_BG[1, 0] = NAN
            assert not rloo_advantages(rewards_BG).any()
            assert not grpo_advantages(rewards_BG, epsilon=1e-9).any()


@pytest.mark.parametrize("advantages", [rloo_advantages, grpo_advantages])
def test_advantages_refuse_flat_rewards(advantages: object) -> None:
    with pytest.raises(ValueError, match=r"\(B, G\), got \(4,\)"):
        advantages(torch.zeros(4))  # type: ignore[operator]


def test_kl_estimates() -> None:
    logps_NT, ref_NT = torch.tensor([[-1.0, -3.0, -2.0]]), torch.tensor([[-2.0, -1.0, -2.0]])
    # k1 = log pi - log ref: positive where the policy is more certain than its reference
    close(kl_k1(logps_NT, ref_NT), [[1.0, -2.0, 0.0]])
    # k3 = exp(-k1) - 1 + k1: e^-1 - 1 + 1 = 0.36788; e^2 - 1 - 2 = 4.38906
    close(kl_k3(logps_NT, ref_NT), [[0.3678794, 4.3890561, 0.0]])


def test_kl_estimates_are_unbiased() -> None:
    # KL(pi || ref) over three tokens, exactly, against the expectation of both estimates under pi
    pi, ref = torch.tensor([0.7, 0.2, 0.1]), torch.tensor([0.3, 0.3, 0.4])
    exact = (pi * (pi / ref).log()).sum()
    for estimate in (kl_k1, kl_k3):
        close((pi * estimate(pi.log(), ref.log())).sum(), exact)


def test_reward_to_go() -> None:
    close(reward_to_go(torch.tensor([[1.0, 2.0, 4.0], [0.0, 0.0, 5.0]])), [[7.0, 6.0, 4.0], [5.0, 5.0, 5.0]])
    with pytest.raises(ValueError, match=r"\(N, T\)"):
        reward_to_go(torch.zeros(3))


def test_token_advantages() -> None:
    advantages_N = torch.tensor([2.0, -1.0])
    kl_NT = torch.tensor([[1.0, 2.0, 4.0], [3.0, 1.0, 100.0]])
    mask_NT = torch.tensor([[1, 1, 1], [1, 1, 0]])
    # 2 - 0.1*7, 2 - 0.1*6, 2 - 0.1*4; -1 - 0.1*4, -1 - 0.1*1, and the 100 behind the end counts nowhere
    close(token_advantages(advantages_N, kl_NT, mask_NT, beta=0.1), [[1.3, 1.4, 1.6], [-1.4, -1.1, 0.0]])
    close(token_advantages(advantages_N, kl_NT, mask_NT, beta=0.0), [[2.0, 2.0, 2.0], [-1.0, -1.0, 0.0]])
    with pytest.raises(ValueError, match="shapes differ"):
        token_advantages(advantages_N, kl_NT, mask_NT[:, :2], beta=0.1)


def ragged() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    values_NT = 3.0 + 2.0 * torch.randn(8, 6, generator=generator)
    mask_NT = (torch.arange(6) < torch.randint(1, 7, (8, 1), generator=generator)).long()
    return values_NT, mask_NT


def test_whiten_by_hand() -> None:
    values_NT, mask_NT = torch.tensor([[1.0, 3.0], [5.0, 99.0]]), torch.tensor([[1, 1], [1, 0]])
    moments_3 = masked_moments(values_NT, mask_NT)
    close(moments_3, [9.0, 35.0, 3.0])  # 1 + 3 + 5; 1 + 9 + 25; three tokens
    # mean 3, variance 35/3 - 9 = 8/3
    close(whiten(values_NT, mask_NT, moments_3), [[-2 * 0.375**0.5, 0.0], [2 * 0.375**0.5, 0.0]])


def test_whiten_gives_mean_0_and_variance_1_over_the_mask() -> None:
    values_NT, mask_NT = ragged()
    kept = whiten(values_NT, mask_NT, masked_moments(values_NT, mask_NT))[mask_NT.bool()]
    close(kept.mean(), torch.tensor(0.0), 1e-5)
    close(kept.var(unbiased=False), torch.tensor(1.0), 1e-5)


def test_whiten_does_not_depend_on_shards() -> None:
    values_NT, mask_NT = ragged()
    whole_NT = whiten(values_NT, mask_NT, masked_moments(values_NT, mask_NT))
    shards = [(values_NT[:3], mask_NT[:3]), (values_NT[3:], mask_NT[3:])]
    moments_3 = sum((masked_moments(v, m) for v, m in shards), start=torch.zeros(3))
    close(torch.cat([whiten(v, m, moments_3) for v, m in shards]), whole_NT, 1e-5)
    alone_NT = torch.cat([whiten(v, m, masked_moments(v, m)) for v, m in shards])
    assert (alone_NT - whole_NT).abs().max() > 1e-2, "each shard by itself would be another result"


def test_whiten_of_nothing() -> None:
    zeros_NT, mask_NT = torch.zeros(2, 3), torch.ones(2, 3)
    close(whiten(zeros_NT, mask_NT, masked_moments(zeros_NT, mask_NT)), zeros_NT)
    close(whiten(zeros_NT, 0 * mask_NT, masked_moments(zeros_NT, 0 * mask_NT)), zeros_NT)


def test_the_gradient_makes_rewarded_tokens_likelier() -> None:
    # One prompt, four critiques of one token out of three; token 0 is rewarded.
    tokens_N, rewards_BG = torch.tensor([0, 1, 2, 0]), torch.tensor([[1.0, 0.0, 0.0, 1.0]])
    logits = torch.zeros(3, requires_grad=True)
    logps_NT = logits.log_softmax(0)[tokens_N].unsqueeze(1)
    mask_NT = torch.ones(4, 1)
    advantages_NT = token_advantages(rloo_advantages(rewards_BG)[0], torch.zeros(4, 1), mask_NT, beta=0.1)
    (-(advantages_NT * logps_NT).mean()).backward()
    # d(-mean A log p)/d logits = -1/4 sum_i A_i (onehot_i - 1/3), and the A sum to 0:
    # -1/4 (2/3 + 2/3) for token 0, +1/4 * 2/3 for each other
    close(logits.grad, [-1 / 3, 1 / 6, 1 / 6])


def test_the_gradient_of_the_kl_pulls_to_the_reference() -> None:
    # The policy holds token 0 likelier than the reference does; without rewards it must become less likely.
    logits = torch.tensor([1.0, 0.0], requires_grad=True)
    logps_2 = logits.log_softmax(0)
    kl_NT = kl_k1(logps_2.detach(), torch.tensor([0.5, 0.5]).log()).unsqueeze(1)
    advantages_NT = token_advantages(torch.zeros(2), kl_NT, torch.ones(2, 1), beta=0.5)
    # Both tokens, weighted by their probability: the exact expectation of the score-function gradient
    (-(logps_2.exp().detach().unsqueeze(1) * advantages_NT * logps_2.unsqueeze(1)).sum()).backward()
    assert logits.grad[0] > 0 > logits.grad[1], "descent lowers logit 0 and raises logit 1"
    exact = torch.tensor([1.0, 0.0], requires_grad=True)
    p = exact.softmax(0)
    (0.5 * (p * (p.log() - torch.tensor(0.5).log())).sum()).backward()  # beta KL(pi || ref)
    close(logits.grad, exact.grad)


def test_kl_estimates_have_the_expectation_they_claim() -> None:
    # pi = (0.5, 0.3, 0.2), ref = (0.2, 0.5, 0.3); expectations over pi, enumerated instead of sampled
    pi, ref = torch.tensor([0.5, 0.3, 0.2]).double(), torch.tensor([0.2, 0.5, 0.3]).double()
    logps, ref_logps = pi.log(), ref.log()
    reverse = (pi * (logps - ref_logps)).sum()  # KL(pi || ref)
    forward = (ref * (ref_logps - logps)).sum()  # KL(ref || pi)
    assert abs(reverse - forward) > 0.01  # else the test could not tell them apart
    torch.testing.assert_close((pi * kl_k1(logps, ref_logps)).sum(), reverse)
    torch.testing.assert_close((pi * kl_k3(logps, ref_logps)).sum(), reverse)
    torch.testing.assert_close((pi * kl_forward(logps, ref_logps)).sum(), forward)


@pytest.mark.parametrize("name", ["k1", "k3", "forward"])
@pytest.mark.parametrize("values", [False, True], ids=["reward to go", "gae"])
def test_the_policy_gradient_is_that_of_the_kl(name: str, values: bool) -> None:
    """Over all sequences of two of three tokens, against the gradient of the sum of the states' KLs."""
    generator = torch.Generator().manual_seed(0)
    logits, ref_logits = (torch.randn(4, 3, generator=generator, dtype=torch.float64) for _ in range(2))
    logits.requires_grad_()  # of the first token, and of the second behind each first
    pi, ref = logits.softmax(1), ref_logits.softmax(1)
    kl_S = (ref * (ref / pi).log() if name == "forward" else pi * (pi / ref).log()).sum(1)
    beta = 0.3
    (wanted,) = torch.autograd.grad(beta * (kl_S[0] + (pi[0] * kl_S[1:]).sum()), logits, retain_graph=True)

    first_N, second_N = torch.cartesian_prod(torch.arange(3), torch.arange(3)).T
    states_NT, tokens_NT = torch.stack([0 * first_N, 1 + first_N], 1), torch.stack([first_N, second_N], 1)
    logps_NT, ref_NT = (p.log()[states_NT, tokens_NT] for p in (pi, ref))
    kl_NT = KL_ESTIMATES[name](logps_NT, ref_NT).detach()
    cost_NT = KL_COSTS[name](logps_NT, ref_NT).detach()
    mask_NT, none_N = torch.ones(9, 2), torch.zeros(9)
    if values:
        rewards_NT = token_rewards(none_N, kl_NT, mask_NT, beta=beta)
        advantages_NT, _ = gae(rewards_NT, torch.zeros(9, 2), mask_NT, lam=1.0)
    else:
        advantages_NT = token_advantages(none_N, kl_NT, mask_NT, beta=beta)
    paid_NT = with_own_cost(advantages_NT, kl_NT, cost_NT, mask_NT, beta=beta)

    def descent(chosen_NT: Tensor) -> Tensor:
        weights_N1 = logps_NT.sum(1, keepdim=True).exp().detach()
        (gradient,) = torch.autograd.grad(
            -(weights_N1 * chosen_NT * logps_NT).sum(), logits, retain_graph=True
        )
        return gradient

    torch.testing.assert_close(descent(paid_NT), wanted)
    cosine = torch.cosine_similarity(descent(advantages_NT).flatten(), wanted.flatten(), dim=0)
    assert (cosine > 0.999) == (name == "k1"), (
        "the others' estimates have not the gradient of what they estimate"
    )


def test_token_rewards() -> None:
    rewards_N = torch.tensor([2.0, NAN, -1.0, 5.0])
    kl_NT = torch.tensor([[1.0, 2.0, 4.0], [1.0, 1.0, 1.0], [3.0, 1.0, 100.0], [7.0, 7.0, 7.0]])
    mask_NT = torch.tensor([[1, 1, 1], [0, 0, 0], [1, 1, 0], [0, 0, 0]])
    # -0.1*1, -0.1*2, 2 - 0.1*4; nothing, whatever the reward; -0.1*3, -1 - 0.1*1, nothing behind the end; nothing
    expected = [[-0.1, -0.2, 1.6], [0.0] * 3, [-0.3, -1.1, 0.0], [0.0] * 3]
    rewards_NT = token_rewards(rewards_N, kl_NT, mask_NT, beta=0.1)
    close(rewards_NT, expected)
    known = [0, 2, 3]
    close(
        reward_to_go(rewards_NT)[known] * mask_NT[known],
        token_advantages(rewards_N[known], kl_NT[known], mask_NT[known], beta=0.1),
    )
    with pytest.raises(ValueError, match="shapes differ"):
        token_rewards(rewards_N, kl_NT, mask_NT[:, :2], beta=0.1)


def test_gae_by_hand() -> None:
    # Three tokens and two; what lies behind the second row's end must count nowhere.
    rewards_NT = torch.tensor([[0.0, -1.0, 2.0], [1.0, 4.0, NAN]])
    values_NT = torch.tensor([[0.5, 1.0, 3.0], [2.0, 1.0, 50.0]])
    mask_NT = torch.tensor([[1, 1, 1], [1, 1, 0]])
    advantages_NT, returns_NT = gae(rewards_NT, values_NT, mask_NT, gamma=0.9, lam=0.5)
    # deltas: 0 + 0.9*1 - 0.5 = 0.4; -1 + 0.9*3 - 1 = 0.7; 2 - 3 = -1, with 0 behind the end
    # backwards with 0.9 * 0.5 = 0.45: -1; 0.7 - 0.45 = 0.25; 0.4 + 0.45*0.25 = 0.5125
    # second row: deltas 1 + 0.9*1 - 2 = -0.1 and 4 - 1 = 3: 3; -0.1 + 0.45*3 = 1.25
    close(advantages_NT, [[0.5125, 0.25, -1.0], [1.25, 3.0, 0.0]])
    # plus the values: 0.5125 + 0.5, 0.25 + 1, -1 + 3; 1.25 + 2, 3 + 1
    close(returns_NT, [[1.0125, 1.25, 2.0], [3.25, 4.0, 0.0]])
    with pytest.raises(ValueError, match=r"all must be one \(N, T\)"):
        gae(rewards_NT, values_NT, mask_NT[:, :2], lam=1.0)


def test_gae_at_its_ends() -> None:
    rewards_NT, mask_NT = ragged()
    values_NT = torch.randn(8, 6, generator=torch.Generator().manual_seed(2))
    to_go_NT = reward_to_go(rewards_NT * mask_NT) * mask_NT
    # lam 1 without values: the reward to go; with values: less the value, and the return stays the reward to go
    close(gae(rewards_NT, 0 * values_NT, mask_NT, lam=1.0)[0], to_go_NT, 1e-5)
    advantages_NT, returns_NT = gae(rewards_NT, values_NT, mask_NT, lam=1.0)
    close(advantages_NT, (to_go_NT - values_NT) * mask_NT, 1e-5)
    close(returns_NT, to_go_NT, 1e-5)
    # lam 0: r_t + V_{t+1} - V_t, and values that are right leave no advantage at any lam
    following_NT = torch.cat([(values_NT * mask_NT)[:, 1:], torch.zeros(8, 1)], dim=1)
    expected_NT = (rewards_NT + following_NT - values_NT) * mask_NT
    close(gae(rewards_NT, values_NT, mask_NT, lam=0.0)[0], expected_NT, 1e-5)
    for lam in (0.0, 0.5, 1.0):
        close(gae(rewards_NT, to_go_NT, mask_NT, lam=lam)[0], 0 * to_go_NT, 1e-4)


def test_value_loss_by_hand() -> None:
    values_NT = torch.tensor([[1.0, 0.5, 9.0], [2.0, 0.1, 0.0]], requires_grad=True)
    old_NT, returns_NT = torch.zeros(2, 3), torch.tensor([[3.0, 0.0, 9.0], [1.0, 1.0, 1.0]])
    mask_NT = torch.tensor([[1, 1, 0], [1, 1, 1]])
    # Clipped to 0.2 from 0. Row 1: max((1-3)^2, (0.2-3)^2) = 7.84; max(0.5^2, 0.2^2) = 0.25; behind the end
    # Row 2: max((2-1)^2, (0.2-1)^2) = 1; within the clip (0.1-1)^2 = 0.81; (0-1)^2 = 1
    # (8.09 / 2 + 2.81 / 3) / 2 / 2
    loss = value_loss(values_NT, old_NT, returns_NT, mask_NT, clip=0.2)
    close(loss, torch.tensor((8.09 / 2 + 2.81 / 3) / 4))
    loss.backward()
    # 0 where the clipped error is the larger: the value has moved far enough. Else (V - R) / tokens / rows
    close(values_NT.grad, [[0.0, 0.5 / 4, 0.0], [1.0 / 6, -0.9 / 6, -1.0 / 6]])
    plain = value_loss(values_NT.detach(), old_NT, returns_NT, mask_NT, clip=float("inf"))
    close(plain, torch.tensor((4.25 / 2 + 2.81 / 3) / 4))


def test_value_loss_does_not_depend_on_micro_batches() -> None:
    returns_NT, mask_NT = ragged()
    mask_NT[3] = 0  # a critique that could not be rewarded
    values_NT = torch.randn(8, 6, generator=torch.Generator().manual_seed(2))
    batch = (values_NT, values_NT.roll(1, 0), returns_NT, mask_NT)
    parts = [value_loss(*(x[i : i + 2] for x in batch), clip=0.2) for i in range(0, 8, 2)]
    close(torch.stack(parts).mean(), value_loss(*batch, clip=0.2))
    changed_NT = returns_NT.clone()
    changed_NT[3] = 1e6
    close(value_loss(values_NT, batch[1], changed_NT, mask_NT, clip=0.2), value_loss(*batch, clip=0.2))


def test_explained_variance() -> None:
    target_NT, mask_NT = torch.tensor([[1.0, 3.0], [5.0, 99.0]]), torch.tensor([[1, 1], [1, 0]])

    def explained(prediction_NT: Tensor) -> float | None:
        errors_3 = masked_moments(target_NT - prediction_NT, mask_NT)
        return explained_variance(errors_3, masked_moments(target_NT, mask_NT))

    assert explained(torch.zeros(2, 2)) == 0.0
    assert explained(torch.full((2, 2), 7.0)) == pytest.approx(0.0, abs=1e-5)  # an offset is no variance
    assert explained(target_NT) == 1.0
    # errors 0, 0, 2: variance 4/3 - 4/9 = 8/9, of 8/3
    assert explained(torch.tensor([[1.0, 3.0], [3.0, 0.0]])) == pytest.approx(2 / 3, abs=1e-5)
    # errors 2, 6, 10: twice the spread, four times the variance
    assert explained(-target_NT) == pytest.approx(-3.0, abs=1e-4)
    alike_3 = masked_moments(torch.full((2, 2), 0.7), mask_NT)
    assert explained_variance(alike_3, alike_3) is None
