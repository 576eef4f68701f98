"""TODO docstring."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from transformers.utils import is_torch_bf16_gpu_available
from trl import GRPOConfig

from critique_rl.prompts import prompt_set
from critique_rl.training import objectives
from critique_rl.types import UserError


def machine_defaults() -> dict[str, Any]:
    """What trl's defaults for a GPU with bfloat16 give way to on a machine without; a setting wins."""
    return {} if is_torch_bf16_gpu_available() else {"bf16": False, "dataloader_pin_memory": False}


@dataclass
class CriticConfig(GRPOConfig):
    r"""Configuration of one training. Everything that trl's `GRPOConfig` has, and the terms of the objectives.

    Defaults are those of Critique-RL's released run where its paper is silent. An *RL step* is one rollout: its
    critiques are drawn once and used for `num_iterations` passes, which takes `optimizer_steps_per_rl_step`
    optimizer steps.

    Args:
        rl_steps: Length in RL steps; sets `max_steps`. None leaves `max_steps` alone.
        prompts: Name of the prompt set.
        advantage: `rloo` (Critique-RL), `grpo` (LLaVA-Critic-R1), or `gae`: PPO with a value model, without a
            baseline from the group.
        advantage_epsilon: What `grpo` adds to the standard deviation of a group.
        gae_lambda: Lambda of generalised advantage estimation.
        value_learning_rate: Learning rate of the value model, constant.
        value_clip: Most that a value moves in the passes over one rollout, in units of the reward.
        whiten: Whether token advantages are whitened over the whole rollout batch.
        kl_placement: `reward` (Critique-RL: per-token KL, outside the baseline) or `loss` (trl's k3 term).
        kl_estimator: `k1` (released code), `k3` or `forward` (the direction the paper writes), in the reward.
        kl_clip: Most that the log-ratio to the reference counts in the KL of the loss, in nats; None is no limit.
        freeze_vision_tower: Whether the part of the model that reads images stays as it is.
        min_pixels: Smaller images are scaled up to this area; None keeps the model's own limit.
        max_pixels: Larger images are scaled down to this area; None keeps the model's own limit.
        log_completions: Whether trl writes the latest rollout at each log, with rewards and advantages, to
            `OUTPUT_DIR/completions/*.parquet`, for `critique-rl view`. None does, unless `push_to_hub` would
            publish it.
        num_completions_to_print: Of them in the terminal, at every log.
    """

    learning_rate: float = field(default=5e-7, metadata={"help": "Released script, both stages."})
    lr_scheduler_type: str = field(default="constant_with_warmup", metadata={"help": "Effectively constant."})
    adam_beta2: float = field(default=0.95, metadata={"help": "Released script."})
    max_grad_norm: float = field(default=1.0, metadata={"help": "Released script."})
    num_generations: int | None = field(default=4, metadata={"help": "k of RLOO, paper section 5.1."})
    num_iterations: int = field(default=2, metadata={"help": "Passes over one rollout, released script."})
    beta: float = field(default=0.01, metadata={"help": "KL coefficient, paper section 5.1."})
    epsilon: float = field(default=0.2, metadata={"help": "Clip range, released script."})
    temperature: float = field(
        default=0.7,
        metadata={
            "help": "Of sampling and of log-probabilities. The released code scores at 1 what it samples at "
            "0.7: temperature=1 with generation_kwargs={'temperature': 0.7}."
        },
    )
    max_completion_length: int | None = field(default=1536, metadata={"help": "Tokens of a critique."})
    loss_type: str = field(default="grpo", metadata={"help": "Token mean within a critique, then mean."})
    scale_rewards: str = field(default="none", metadata={"help": "Advantages are computed in objectives.py."})
    use_bias_correction_kl: bool = field(default=False, metadata={"help": "Plain k3 for kl_placement=loss."})
    disable_dropout: bool = field(default=True, metadata={"help": "Dropout is noise in ratios and KL."})
    logging_steps: float = field(default=0, metadata={"help": "0: once per RL step."})
    save_strategy: str = field(default="no", metadata={"help": "See `Trainer`."})

    rl_steps: int | None = field(default=None, metadata={"help": "Length in rollouts; sets max_steps."})
    prompts: str = field(default="paper", metadata={"help": "Name of the prompt set."})
    advantage: str = field(default="rloo", metadata={"help": "rloo, grpo or gae."})
    advantage_epsilon: float = field(default=1e-4, metadata={"help": "Beside the deviation in grpo."})
    gae_lambda: float = field(default=0.95, metadata={"help": "Of gae; arXiv 2009.01325, with gamma 1."})
    value_learning_rate: float = field(default=9e-6, metadata={"help": "Of gae; released script's flag."})
    value_clip: float = field(default=0.2, metadata={"help": "Of gae; the implementations' clip of PPO."})
    whiten: bool = field(default=True, metadata={"help": "Whiten token advantages over the rollout."})
    kl_placement: str = field(default="reward", metadata={"help": "reward or loss."})
    kl_estimator: str = field(default="k1", metadata={"help": "k1, k3 or forward, in the reward."})
    kl_clip: float | None = field(default=None, metadata={"help": "Limit of the log-ratio, KL in the loss."})
    freeze_vision_tower: bool = field(default=False, metadata={"help": "Train the language part alone."})
    min_pixels: int | None = field(default=None, metadata={"help": "Least area of an image."})
    max_pixels: int | None = field(default=None, metadata={"help": "Largest area of an image."})
    log_completions: bool | None = field(  # type: ignore[assignment]  # None until `__post_init__`
        default=None, metadata={"help": "Write episodes for `critique-rl view`; None: unless push_to_hub."}
    )
    num_completions_to_print: int | None = field(default=0, metadata={"help": "In the terminal, every log."})

    def __post_init__(self) -> None:
        if self.log_completions is None:
            self.log_completions = not self.push_to_hub or self.log_completions_hub_repo is not None
        log_each_rl_step = self.logging_steps == 0
        if log_each_rl_step:
            self.logging_steps = 1  # the right value needs steps_per_generation, which super() works out
        super().__post_init__()
        one_of("advantage", self.advantage, ("rloo", "grpo", "gae"))
        one_of("kl_placement", self.kl_placement, ("reward", "loss"))
        one_of("kl_estimator", self.kl_estimator, objectives.KL_ESTIMATES)
        if self.kl_placement == "loss" and self.kl_estimator != "k3":
            raise UserError("kl_placement='loss' is trl's k3 term: set kl_estimator='k3'.")
        if self.kl_clip is not None and (self.kl_placement != "loss" or self.kl_clip <= 0.0):
            raise UserError(f"kl_clip={self.kl_clip} must be above 0, and is for kl_placement='loss' alone.")
        if not 0.0 <= self.gae_lambda <= 1.0:
            raise UserError(f"gae_lambda={self.gae_lambda} is not between 0 and 1.")
        for name in ("value_learning_rate", "value_clip", "advantage_epsilon"):
            if getattr(self, name) <= 0.0:
                raise UserError(f"{name}={getattr(self, name)} must be above 0.")
        if self.scale_rewards != "none" or self.reward_weights is not None:
            raise UserError(
                "scale_rewards and reward_weights have no effect: set `advantage` and the weights of the reward."
            )
        prompt_set(self.prompts)
        block = self.optimizer_steps_per_rl_step
        if self.rl_steps is not None:
            self.max_steps = self.rl_steps * block
        if log_each_rl_step:
            self.logging_steps = block
        if self.save_strategy == "steps" and self.save_steps % block:
            raise UserError(
                f"save_steps={self.save_steps} falls inside an RL step of {block} optimizer steps, from which "
                f"no run resumes exactly: make it a multiple of {block}."
            )

    @property
    def optimizer_steps_per_rl_step(self) -> int:
        """Optimizer steps for which the critiques of one rollout are used."""
        assert self.steps_per_generation is not None  # worked out by GRPOConfig
        steps = self.steps_per_generation * self.num_iterations
        if steps % self.gradient_accumulation_steps:
            raise UserError(
                f"gradient_accumulation_steps={self.gradient_accumulation_steps} does not divide the {steps} "
                "micro-batches of one RL step: an optimizer step would mix two rollouts."
            )
        return steps // self.gradient_accumulation_steps


def one_of(name: str, value: object, allowed: Any) -> None:
    """Refuse an option that is none of the known ones."""
    if value not in allowed:
        raise UserError(f"{name}={value!r} is none of {', '.join(repr(a) for a in allowed)}.")
