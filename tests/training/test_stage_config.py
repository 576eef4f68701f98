"""The settings of both stages: presets, what is refused, and what an RL step is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from critique_rl.training.stage_config import Stage1Config, Stage2Config
from critique_rl.training.stages import Stage1Trainer, Stage2Trainer
from critique_rl.types import UserError

Make = Callable[..., Any]


def test_stage_presets() -> None:
    assert Stage1Config.refinement_reward is None and Stage2Config.refinement_reward == "r_refine"
    assert (Stage1Trainer.config_class, Stage2Trainer.config_class) == (Stage1Config, Stage2Config)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"prompts": "papr"}, "Did you mean 'paper'"),
        ({"oracle_noise": 0.5}, "oracle_noise=0.5 is not between 0 and 0.5"),
        (
            {"balanced_rollouts": True, "response_source": "online"},
            "balanced_rollouts=True needs graded responses",
        ),
        ({"scale_rewards": "group"}, "scale_rewards and reward_weights have no effect"),
        ({"reward_weights": [0.5]}, "scale_rewards and reward_weights have no effect"),
        ({"refinement_reward": "r_correct"}, "refinement_reward='r_correct' is none of None, 'r_refine'"),
        ({"combination": "gate"}, "combination='gate' is none of 'additive', 'gated'"),
        ({"combination": "gated"}, "needs a refinement_reward"),
        ({"advantage": "ppo"}, "advantage='ppo' is none of 'rloo', 'grpo'"),
        ({"kl_placement": "Loss"}, "kl_placement='Loss' is none of 'reward', 'loss'"),
        ({"kl_placement": "loss"}, "set kl_estimator='k3'"),
        ({"kl_estimator": "k2"}, "kl_estimator='k2' is none of 'k1', 'k3'"),
        ({"response_source": "on-line"}, "response_source='on-line' is none of 'pool', 'online'"),
        ({"save_strategy": "steps", "save_steps": 3}, "save_steps=3 falls inside an RL step of 2"),
        (
            {"gradient_accumulation_steps": 4, "steps_per_generation": 3, "num_iterations": 1},
            "does not divide the 3 micro-batches",
        ),
    ],
)
def test_configurations(config: Make, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        config(**settings)


def test_rl_steps_count_rollouts(config: Make) -> None:
    args = config(rl_steps=5, gradient_accumulation_steps=2, steps_per_generation=4, num_iterations=2)
    # 4 micro-batches a rollout, used twice, two to an optimizer step
    assert args.optimizer_steps_per_rl_step == args.logging_steps == 4
    assert args.max_steps == 20
    released = {
        "per_device_train_batch_size": 32,
        "generation_batch_size": 256,
        "gradient_accumulation_steps": 2,
    }
    assert config(**released, save_strategy="steps", save_steps=16).optimizer_steps_per_rl_step == 8


def test_what_is_pushed_to_the_hub_holds_no_texts_unless_they_are_asked_for(config: Make) -> None:
    assert config().log_completions is True
    assert config(push_to_hub=True).log_completions is False
    assert config(push_to_hub=True, log_completions=True).log_completions is True
