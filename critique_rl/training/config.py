"""Options of a training: those of trl's `GRPOConfig` with other defaults, and the terms of the objectives.

The help of a field is the one place that describes an option; `docs/tables.py` writes docs/trainers from it.
"""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass, field
from typing import Any, cast

from transformers.utils import is_torch_bf16_gpu_available
from trl import GRPOConfig

from critique_rl.actors.loading import init_options
from critique_rl.prompts import prompt_set
from critique_rl.records import rank_of_ranks
from critique_rl.sharding import launched_in_parts
from critique_rl.training import objectives
from critique_rl.types import UserError

logger = logging.getLogger(__name__)

HIGH_RATE = 0.01
"""Learning rate above which a warning is logged; the tiny critics here train with 0.001 to 0.003."""
SOURCE = "Source: "
"""Begins, in the help of an option, the source of its default."""


def option(default: Any, meaning: str = "", source: str = "ours") -> Any:
    """Declare an option: a dataclass field with help, which trl's command-line parser prints.

    Args:
        default: Default value.
        meaning: Meaning, unit and allowed values; left out where a base class or trl states them.
        source: Source of the default, for instance `paper` or `released code`; `ours` is a choice of this project.
    """
    return field(default=default, metadata={"help": f"{meaning} {SOURCE}{source}.".lstrip()})


def machine_defaults() -> dict[str, Any]:
    """Settings that replace trl's defaults on a machine without a bfloat16 GPU; options win over them."""
    return {} if is_torch_bf16_gpu_available() else {"bf16": False, "dataloader_pin_memory": False}


def check_processes(seen: int) -> None:
    """Refuse a launch of several processes of which each would train by itself; `seen` is accelerate's number.

    Raises:
        UserError: accelerate does not see the others.
    """
    started = rank_of_ranks()[1]
    if started > 1 and seen == 1:
        raise UserError(
            f"{started} processes were started, but each would train by itself and write to the same folder. "
            "Without a GPU set use_cpu: true; elsewhere start them by `accelerate launch` or `torchrun`."
        )


def one_of(name: str, value: object, allowed: Any) -> None:
    """Check that an option has one of the allowed values.

    Raises:
        UserError: It has another value; the message lists the allowed ones.
    """
    if value not in allowed:
        raise UserError(f"{name}={value!r} is none of {', '.join(repr(a) for a in allowed)}.")


@dataclass
class CriticConfig(GRPOConfig):
    r"""Configuration of one training: every field of trl's `GRPOConfig`, and the terms of the objectives.

    Defaults are those of Critique-RL's released run where its paper is silent. An *RL step* is one rollout: its
    critiques are drawn once and used for `num_iterations` passes, which `optimizer_steps_per_rl_step` counts.

    Raises:
        UserError: An option has a value that is not allowed, no effect, or no exact resume.
    """

    learning_rate: float = option(5e-7, source="released code, both stages")
    lr_scheduler_type: str = option(
        "constant_with_warmup", source="released code: a cosine so long that it is constant within 500 steps"
    )
    adam_beta2: float = option(0.95, source="released code")
    max_grad_norm: float = option(1.0, source="released code")
    num_generations: int | None = option(4, source="paper, section 5.1")
    num_iterations: int = option(2, source="released code")
    beta: float = option(0.01, "KL coefficient.", "paper, section 5.1")
    epsilon: float = option(0.2, "Clip range of the ratio.", "released code")
    temperature: float = option(
        0.7,
        "Temperature of sampling and of log-probabilities. The released code takes log-probabilities at 1: "
        "`temperature=1` with `generation_kwargs={'temperature': 0.7}`.",
        "released code, of sampling; here log-probabilities are taken at it as well",
    )
    max_completion_length: int | None = option(1536, "Most tokens of a critique.", "released code")
    loss_type: str = option("grpo", source="released code: the mean within a critique, then over critiques")
    scale_rewards: str = option("none", source="ours: `advantage` says how rewards are scaled")
    use_bias_correction_kl: bool = option(False, source="ours: plain k3 where the KL is in the loss")
    disable_dropout: bool = option(True, source="ours: dropout is noise in ratios and KL")
    logging_steps: float = option(0, source="ours: 0 is once per RL step")
    save_strategy: str = option("no", source="ours; a run sets it from `checkpoint_rl_steps`")

    rl_steps: int | None = option(
        None, "Length in RL steps; sets `max_steps` unless `None`.", "ours; the paper counts its 500 steps so"
    )
    prompts: str = option(
        "paper", "Name of the prompt set.", "released code for the structure, ours for the wording"
    )
    advantage: str = option(
        "rloo", "`rloo`, `grpo`, or `gae` for PPO with a value model.", "paper, section 5.1"
    )
    advantage_epsilon: float = option(
        1e-4, "Number that `grpo` adds to the standard deviation of a group.", "trl"
    )
    gae_lambda: float = option(
        0.95, "Lambda; 1 is the reward to go minus the value.", "arXiv 2009.01325; the papers do not say"
    )
    value_learning_rate: float = option(
        9e-6, "Learning rate of the value model, constant.", "released code, a flag that its runs do not use"
    )
    value_clip: float = option(
        0.2, "Most that a value moves in the passes over a rollout, in reward units.", "arXiv 2009.01325"
    )
    whiten: bool = option(
        True, "Shift and scale token advantages to mean 0 and variance 1 over the rollout.", "released code"
    )
    kl_placement: str = option(
        "reward", "KL per token in the `reward`, outside the baseline, or in the `loss`.", "released code"
    )
    kl_estimator: str = option(
        "k1",
        "`k1`, `k3` or `forward`; in the loss `k3` alone. The gradient is that of the KL which it estimates.",
        "released code; the paper writes the direction of `forward`",
    )
    kl_clip: float | None = option(
        None, "Limit of the log-ratio to the reference for the KL in the loss, in nats.", "ours: no limit"
    )
    share_prompts: bool = option(
        True,
        "Compute a prompt once for all critiques of its group, in sampling and in passes. Same gradient, other "
        "order of sums. A model that cannot is logged with the reason, see `training.shared_prompts`.",
        "ours",
    )
    freeze_vision_tower: bool = option(
        False,
        "Leave the part that reads images as it is; where no row has one it always is.",
        "released code of LLaVA-Critic-R1",
    )
    min_pixels: int | None = option(
        None, "Smaller images are scaled up to this area; `None` is the model's own limit.", "ours"
    )
    max_pixels: int | None = option(
        None, "Larger images are scaled down to this area; `None` is the model's own limit.", "ours"
    )
    unhealthy: str = option(
        "warn",
        "Where a metric leaves its healthy range: `warn` logs it; `stop` also ends the training, with a "
        "checkpoint, after 4 RL steps in a row. NaN or infinity in loss, gradient or weights always ends it.",
    )
    vllm_importance_sampling_mode: str = option(
        "token_truncate",
        source="ours: over a whole critique the ratio is the product of what the nucleus keeps, which vanishes",
    )
    log_completions: bool | None = option(  # type: ignore[assignment]  # None until `__post_init__`
        None,
        source="ours: each rollout is written for `critique-rl view`, unless `push_to_hub` would publish it",
    )
    num_completions_to_print: int | None = option(0, source="ours: none of them in the terminal")

    def __post_init__(self) -> None:
        if self.log_completions is None:
            self.log_completions = not self.push_to_hub or self.log_completions_hub_repo is not None
        log_each_rl_step = self.logging_steps == 0
        if log_each_rl_step:
            self.logging_steps = 1  # the right value needs steps_per_generation, which super() works out
        super().__post_init__()
        self.model_init_kwargs = self.init_options or None
        self._check_objective()
        self._check_vllm()
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

    def _check_objective(self) -> None:
        one_of("unhealthy", self.unhealthy, ("warn", "stop"))
        for name, most in (("learning_rate", 1.0), ("beta", math.inf), ("max_grad_norm", math.inf)):
            if not 0.0 <= getattr(self, name) <= most:
                raise UserError(f"{name}={getattr(self, name)} is not between 0 and {most:g}.")
        if self.learning_rate > HIGH_RATE:
            logger.warning("learning_rate=%g is far above what critics train with", self.learning_rate)
        one_of("advantage", self.advantage, ("rloo", "grpo", "gae"))
        if self.advantage == "gae" and (parts := launched_in_parts()):
            raise UserError(
                f"advantage='gae' holds its value model whole, not in parts by {parts}: start it with whole "
                "weights, for instance by experiments/launch/ddp.yaml, or choose 'rloo' or 'grpo'."
            )
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

    def _check_vllm(self) -> None:
        """Refuse a sampler of vLLM whose correction would weigh critiques by how the sampler was set.

        vLLM returns log-probabilities after temperature and nucleus, and trl multiplies the loss by the ratio of
        the scored probability to them.
        """
        if not (self.use_vllm and self.vllm_importance_sampling_correction):
            return
        given = {name: getattr(self, name) for name in ("temperature", "top_p", "top_k", "min_p")}
        others = cast("dict[str, Any]", self.generation_kwargs or {})  # no text after trl read it
        given |= {name: value for name, value in others.items() if name in given}
        if given["temperature"] != self.temperature:
            raise UserError(
                f"vLLM would draw at temperature {given['temperature']:g} and log-probabilities are taken at "
                f"{self.temperature:g}: the correction for vLLM would weigh each token by their ratio. Set both "
                "alike, or vllm_importance_sampling_correction=False."
            )
        cut = given["top_p"] < 1.0 or bool(given["min_p"]) or (given["top_k"] or 0) > 0
        if cut and self.vllm_importance_sampling_mode.startswith("sequence"):
            raise UserError(
                f"vllm_importance_sampling_mode={self.vllm_importance_sampling_mode!r} multiplies over a critique "
                "what top_p, top_k or min_p keep of each token's distribution, so that the gradient vanishes: set "
                "'token_truncate'."
            )

    def check_evaluation(self) -> None:
        """Refuse a batch of an evaluation that holds no whole number of groups.

        Raises:
            UserError: The message names both numbers.
        """
        group = self.num_generations_eval or self.num_generations or 1
        batch = self.per_device_eval_batch_size * self.world_size
        if batch % group:
            raise UserError(
                f"per_device_eval_batch_size={self.per_device_eval_batch_size} x {self.world_size} process(es) is "
                f"no multiple of the {group} critiques of a prompt: change it, or num_generations_eval."
            )

    @property
    def init_options(self) -> dict[str, Any]:
        """Arguments of `from_pretrained` for the critic, with the type that `fastest` stands for here."""
        given = cast("dict[str, Any] | None", self.model_init_kwargs)  # no text after trl read it
        return init_options(given)

    @property
    def optimizer_steps_per_rl_step(self) -> int:
        """Optimizer steps that use the critiques of one rollout.

        Raises:
            UserError: `gradient_accumulation_steps` does not divide the micro-batches of an RL step.
        """
        assert self.steps_per_generation is not None  # worked out by GRPOConfig
        steps = self.steps_per_generation * self.num_iterations
        if steps % self.gradient_accumulation_steps:
            raise UserError(
                f"gradient_accumulation_steps={self.gradient_accumulation_steps} does not divide the {steps} "
                "micro-batches of one RL step: an optimizer step would mix two rollouts."
            )
        return steps // self.gradient_accumulation_steps
