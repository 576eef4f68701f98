"""The one trainer of critics, on trl's `GRPOTrainer`: advantages, KL and what else the objectives need.

What a critic is asked and rewarded for is a subclass's: `stages.py` has the two stages of Critique-RL,
`pairwise.py` the critic of LLaVA-Critic-R1. The loop of one RL step is

    sample critiques -> read verdicts -> reward -> advantages -> clipped update

of which trl owns the first and the last; the rewards are in `rewards.py` and `pairwise_rewards.py`, the advantages
in `objectives.py`.
"""

from __future__ import annotations

import io
import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import datasets
import torch
from datasets import Dataset
from peft import PeftConfig, PeftModel
from PIL import Image
from transformers import (
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    ProcessorMixin,
    TrainerCallback,
)
from trl import GRPOConfig, GRPOTrainer
from trl.data_utils import prepare_multimodal_messages
from trl.trainer.utils import RepeatSampler

from critique_rl import objectives
from critique_rl.images import image_bytes, store_image
from critique_rl.prompts import prompt_set
from critique_rl.types import UserError, child_seed
from critique_rl.value_model import ValueModel
from critique_rl.vision import is_vision_model, load_processor

VISION_INPUTS = (
    "pixel_values",
    "image_grid_thw",
    "num_images",
    "pixel_attention_mask",
    "spatial_shapes",
    "num_tiles",
    "image_sizes",
    "token_type_ids",
    "mm_token_type_ids",
    "image_position_ids",
)
"""What trl hands to a forward pass for the images of a batch."""
LONGEST = 100
"""Prompts with images of which the length is checked before training."""


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


class EpochSampler(RepeatSampler):
    """trl's sampler, with the order of an epoch drawn from the seed and the epoch's number.

    trl's own draws one epoch after the other from one generator, so that a run which is resumed in a later epoch
    begins with the order of the first again.

    Args:
        seed: Seed of the order.
        epoch: Says which epoch begins.
        settings: Of `RepeatSampler`.
    """

    def __init__(self, *, seed: int, epoch: Callable[[], int], **settings: Any) -> None:
        super().__init__(seed=seed, **settings)
        self.base_seed, self.epoch = seed, epoch

    def __iter__(self) -> Iterator[int]:
        if self.shuffle:
            self.generator.manual_seed(child_seed(self.base_seed, "epoch", self.epoch()))
        return iter(super().__iter__())


class CriticTrainer(GRPOTrainer):
    """What the trainers of critics share: advantages, KL, images, resuming; its subclasses say what is rewarded.

    Some private methods of trl's trainer are overridden and each calls `super()`; what they rely on is
    pinned by tests/test_trl_contract.py. Two more save and restore the value model of `advantage="gae"`, one
    restores the weights of models whose checkpoints transformers writes with other names than it reads.

    Args:
        model: The critic to start from: a directory or hub id, or a `PeftModel` with a trainable adapter.
            The KL is taken to exactly these weights.
        reward: Reward function, see trl's. One, because trl would count a lone None of several as 0.
        args: The configuration.
        train_dataset: What the subclass makes prompts from; an image is a column `image` of paths, `data:` URLs or
            of `datasets.Image`.
        eval_dataset: The same, for trl's evaluation loop.
        processing_class: Tokenizer, or processor of a model with vision; by default the model's.
        callbacks: As in `Trainer`.
        optimizers: As in `Trainer`.
        peft_config: Adapter to train instead of the full model.

    Raises:
        UserError: The dataset lacks a column or holds an empty or mistyped value, a prompt exceeds the model's
            context, nothing is trainable, the reference is not the model that the run starts from, some rows alone
            have an image, the model cannot see, or a value model cannot be made from it.
    """

    _tag_names = ["critique-rl", "trl"]  # noqa: RUF012 - trl reads this class attribute for the model card
    config_class: type[CriticConfig] = CriticConfig
    # What trl's wider annotations leave open, narrowed to what is true once `__init__` is done.
    args: Any
    model: Any
    train_dataset: Any
    processing_class: Any
    _logs: dict[str, Any]
    num_generations: int
    num_generations_eval: int
    max_completion_length: int

    def __init__(
        self,
        model: str | Path | PreTrainedModel | PeftModel,
        reward: Callable[..., list[float | None]],
        args: CriticConfig,
        train_dataset: Dataset | None,
        eval_dataset: Dataset | None = None,
        processing_class: PreTrainedTokenizerBase | ProcessorMixin | None = None,
        callbacks: list[TrainerCallback] | None = None,
        optimizers: tuple[torch.optim.Optimizer | None, Any] = (None, None),
        peft_config: PeftConfig | None = None,
    ) -> None:
        if train_dataset is None:
            raise UserError("train_dataset is missing.")
        in_memory = isinstance(model, PreTrainedModel) and not model.config._name_or_path
        if in_memory and peft_config is None and args.beta:
            raise UserError(
                "the critic was built in memory, but the reference of its KL is loaded from a directory: save the "
                "critic and pass the directory."
            )
        if args.advantage == "gae" and (in_memory or isinstance(model, PeftModel)):
            raise UserError(
                "advantage='gae' loads its value model from the critic's directory, which a model in memory has "
                "not: save it whole (an adapter after merge_and_unload()) and pass the directory."
            )
        self.args = args
        self.value_model: ValueModel | None = None
        self._gathered_rewards: torch.Tensor | None = None
        self._anchor_checked = False
        self._rollout_unlogged = False
        self._clipped: dict[str, Any] | None = None
        shows_images = "image" in train_dataset.column_names
        processing_class = _processing_class(model, processing_class, shows_images, args)
        super().__init__(
            model=str(model) if isinstance(model, Path) else model,
            reward_funcs=[reward],
            args=args,
            train_dataset=with_images(self._with_prompts(train_dataset, "train_dataset"), "train_dataset"),
            eval_dataset=None
            if eval_dataset is None
            else with_images(self._with_prompts(eval_dataset, "eval_dataset"), "eval_dataset"),
            processing_class=processing_class,
            callbacks=callbacks,
            optimizers=optimizers,
            peft_config=peft_config,
        )
        if args.freeze_vision_tower:
            self._freeze_vision_tower()
        if not any(p.requires_grad for p in self.model.parameters()):
            raise UserError(
                "no weight of the critic is trainable: load an adapter with "
                "PeftModel.from_pretrained(base, adapter, is_trainable=True)."
            )
        if args.advantage == "gae":
            if shows_images:
                raise UserError("advantage='gae': the value model sees no images; use rloo or grpo.")
            start = model.config._name_or_path if isinstance(model, PreTrainedModel) else str(model)
            self.value_model = ValueModel(start, args, self.accelerator, self._record)
            self.add_callback(self.value_model)
        self._check_context()
        assert args.generation_batch_size is not None  # worked out by GRPOConfig
        wanted = args.generation_batch_size // self.num_generations
        if len(self.train_dataset) < wanted:
            raise UserError(
                f"train_dataset has {len(self.train_dataset)} rows, fewer than the {wanted} of one RL step: "
                "not one would be made."
            )

    def _with_prompts(self, dataset: Dataset, name: str) -> Dataset:
        """Check the columns and add the critic's prompt, which never holds the gold answer."""
        raise NotImplementedError

    def _freeze_vision_tower(self) -> None:
        found = [p for name, p in self.model.named_parameters() if _VISION_TOWER.search(name)]
        if not found:
            raise UserError("freeze_vision_tower: the critic has no part called visual or vision_tower.")
        for parameter in found:
            parameter.requires_grad_(False)

    def _check_context(self) -> None:
        """Refuse prompts that are too long; with images, which take long to process, see the longest alone."""
        context = getattr(self.model.config.get_text_config(), "max_position_embeddings", None)
        if context is None:
            return
        prompts: list[Any] = list(enumerate(self.train_dataset["prompt"]))
        shown = next((c for c in ("images", "image") if c in self.train_dataset.column_names), None)
        if shown is not None:
            prompts = sorted(prompts, key=lambda p: -sum(len(m["content"]) for m in p[1]))[:LONGEST]
        for row, prompt in prompts:
            if shown is not None:
                images = self.train_dataset[row][shown]
                images = images if isinstance(images, list) else [images]
                prompt = prepare_multimodal_messages(prompt, images=images)
            ids = self.processing_class.apply_chat_template(
                prompt, add_generation_prompt=True, tokenize=True, return_dict=True
            )["input_ids"]
            length = len(ids[0] if isinstance(ids[0], list) else ids)
            if length + self.max_completion_length > context:
                raise UserError(
                    f"train_dataset, row {row}: a prompt of {length} tokens and max_completion_length="
                    f"{self.max_completion_length} exceed the critic's context of {context} tokens."
                )

    # -- overrides of trl's GRPOTrainer ---------------------------------------------------------------------

    def _get_train_sampler(self, dataset: Dataset | None = None) -> EpochSampler:
        made: Any = super()._get_train_sampler(dataset)
        return EpochSampler(
            data_source=made.data_source,
            mini_repeat_count=made.mini_repeat_count,
            batch_size=made.batch_size,
            repeat_count=made.repeat_count,
            shuffle=made.shuffle,
            seed=made.seed,
            epoch=lambda: int(self.state.epoch or 0),
        )

    def _generate(self, prompts: list[Any]) -> Any:
        started = time.perf_counter()
        generated = super()._generate(prompts)
        self._record("time/generate", time.perf_counter() - started)
        return generated

    def _calculate_rewards(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        self._gathered_rewards = super()._calculate_rewards(*args, **kwargs)
        return self._gathered_rewards

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        started = time.perf_counter()
        output = super()._generate_and_score_completions(inputs)
        mask_NT = output["completion_mask"]
        # Where the update is on-policy trl takes none, and for the log alone they are not worth a pass.
        kl_known = "old_per_token_logps" in output or self.args.kl_placement == "reward"
        rewards_N, advantages_N = self._rewards_and_advantages(mask_NT.size(0))
        if self.beta != 0.0 and self.model.training and not self._anchor_checked:
            self._check_anchor(output)
        mask_NT = mask_NT * ~rewards_N.isnan().unsqueeze(1)  # without reward only a KL in the loss is left
        if self.beta == 0.0 or self.args.kl_placement == "loss":
            kl_NT = cost_NT = torch.zeros_like(mask_NT, dtype=advantages_N.dtype)
        else:
            kl_NT, cost_NT = self._reward_kl(output)
        if self.value_model is None:
            advantages_NT = objectives.token_advantages(advantages_N, kl_NT, mask_NT, beta=self.beta)
        else:
            rewards_NT = objectives.token_rewards(advantages_N, kl_NT, mask_NT, beta=self.beta)
            advantages_NT = self.value_model.advantages(output, rewards_NT, mask_NT)
        advantages_NT = objectives.with_own_cost(advantages_NT, kl_NT, cost_NT, mask_NT, beta=self.beta)
        if self.args.whiten:
            moments_3 = self.accelerator.reduce(objectives.masked_moments(advantages_NT, mask_NT), "sum")
            advantages_NT = objectives.whiten(advantages_NT, mask_NT, moments_3)
        output["advantages"] = advantages_NT
        self._log_update(output, kl_known=kl_known)
        self._record("tokens/critic", float(output["num_items_in_batch"]))
        self._record("time/rollout", time.perf_counter() - started)
        return output

    def _compute_loss(self, model: Any, inputs: dict[str, Any]) -> torch.Tensor:
        if self.value_model is not None and self.model.training:
            # With a backward pass of its own: the loss that is logged stays the critic's.
            self.value_model.learn(inputs, parts=self.current_gradient_accumulation_steps)
        if self.args.kl_placement == "loss":
            if self.args.kl_clip is None or self.beta == 0.0:
                return super()._compute_loss(model, inputs)
            self._clipped = dict(inputs)  # a copy: a later pass over the rollout clips anew
            try:
                return super()._compute_loss(model, self._clipped)
            finally:
                self._clipped = None
        beta, self.beta = self.beta, 0.0  # the KL is in the advantages already
        try:
            return super()._compute_loss(model, inputs)
        finally:
            self.beta = beta

    def _get_per_token_logps_and_entropies(self, *args: Any, **kwargs: Any) -> Any:
        found = super()._get_per_token_logps_and_entropies(*args, **kwargs)
        if self._clipped is not None:  # trl has no limit for the log-ratio of its KL
            reference_NT, limit = self._clipped["ref_per_token_logps"], self.args.kl_clip
            self._clipped["ref_per_token_logps"] = objectives.clipped_reference(found[0], reference_NT, limit)
        return found

    def _run_epoch(self, *args: Any, **kwargs: Any) -> None:
        # transformers looks only behind an update whether it was the last: resumed from the checkpoint at its
        # end, a training would take one more.
        if self.state.global_step >= self.state.max_steps:
            self.control.should_training_stop = True
            return
        super()._run_epoch(*args, **kwargs)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Called by the trainer at every log; see trl's method."""
        # trl writes the completions every time: once more at the end, and after an evaluation mixed with its rows.
        self.log_completions = bool(self.args.log_completions) and self._rollout_unlogged
        self._rollout_unlogged = False
        super().log(logs, start_time)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        whole = self.model if model is None else model
        if isinstance(whole, PreTrainedModel) and hasattr(whole.config, "vision_config"):
            # Written under the names of the hub and read as those of the model: nothing would be restored
            # (transformers issue 43701), with no more than a warning.
            saved = type(whole).from_pretrained(resume_from_checkpoint, dtype=whole.dtype)
            whole.load_state_dict(saved.state_dict())

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        super()._save_optimizer_and_scheduler(output_dir)
        if self.value_model is not None and self.args.should_save:
            self.value_model.save(output_dir)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)
        if self.value_model is not None and checkpoint is not None:
            self.value_model.load(checkpoint)

    # -- their parts ------------------------------------------------------------------------------------------

    def _rewards_and_advantages(self, local: int) -> tuple[torch.Tensor, torch.Tensor]:
        """(N,) each, of this rank's critiques, from the rewards gathered over all ranks."""
        assert self._gathered_rewards is not None
        group = self.num_generations if self.model.training else self.num_generations_eval
        rewards_BG = self._gathered_rewards[:, 0].view(-1, group)
        if self.args.advantage == "rloo":
            advantages_BG = objectives.rloo_advantages(rewards_BG)
        elif self.args.advantage == "grpo":
            advantages_BG = objectives.grpo_advantages(rewards_BG, epsilon=self.args.advantage_epsilon)
        else:  # the baseline is the value model's
            advantages_BG = rewards_BG.nan_to_num(nan=0.0)
        own = slice(self.accelerator.process_index * local, (self.accelerator.process_index + 1) * local)
        return rewards_BG.flatten()[own], advantages_BG.flatten()[own]

    def _reward_kl(self, output: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
        """(N, T) each: per-token KL to the stage's start, and what a token pays for its own."""
        name, mask_NT = self.args.kl_estimator, output["completion_mask"]
        logps = self._old_logps(output), output["ref_per_token_logps"]
        kl_NT = objectives.KL_ESTIMATES[name](*logps) * mask_NT
        self._record("kl", self._token_mean(kl_NT, mask_NT))
        return kl_NT, objectives.KL_COSTS[name](*logps) * mask_NT

    def _log_update(self, output: dict[str, Any], *, kl_known: bool) -> None:
        """Add what each critique does to the update to trl's record of the rollout: means over its tokens.

        trl's own advantages are of no use here. Its queues hold one rollout, which this fills whole.
        """
        self._rollout_unlogged = self.model.training
        if not self._rollout_unlogged:
            return
        mask_NT, measured = output["completion_mask"], {"advantages": output["advantages"]}
        if self.beta != 0.0 and kl_known:
            estimate = objectives.KL_ESTIMATES[self.args.kl_estimator]
            measured["kl"] = estimate(output["old_per_token_logps"], output["ref_per_token_logps"])
        for name, values_NT in measured.items():
            means_N = (values_NT * mask_NT).sum(1) / mask_NT.sum(1).clamp(min=1)
            column = self._logs["advantages"] if name == "advantages" else self._logs["extra"][name]
            column.extend(self.accelerator.gather(means_N).tolist())
        rl_step = self.state.global_step // self.args.optimizer_steps_per_rl_step + 1
        self._logs["extra"]["rl_step"].extend([rl_step] * self.args.generation_batch_size)

    def _check_anchor(self, output: dict[str, Any]) -> None:
        """Refuse, on the first rollout, a reference that is not the model that the run starts from."""
        self._anchor_checked = True
        kl_NT = objectives.kl_k3(self._old_logps(output), output["ref_per_token_logps"])
        kl = self._token_mean(kl_NT, output["completion_mask"])
        if self.state.global_step == 0 and kl > 1e-3:
            raise UserError(
                f"before the first update the critic is {kl:.4f} nats a token away from its reference, so the "
                "KL would pull to another model: pass the start as a saved directory, or an adapter "
                "loaded with PeftModel.from_pretrained(..., is_trainable=True)."
            )

    def _old_logps(self, output: dict[str, Any]) -> torch.Tensor:
        """(N, T) log-probabilities of the policy that drew the critiques."""
        if "old_per_token_logps" not in output:  # trl skips them where the update is on-policy
            mask_NT = output["completion_mask"]
            ids = torch.cat([output["prompt_ids"], output["completion_ids"]], dim=1)
            attention = torch.cat([output["prompt_mask"], mask_NT], dim=1)
            with torch.no_grad():
                output["old_per_token_logps"], _, _ = self._get_per_token_logps_and_entropies(
                    self.model,
                    ids,
                    attention,
                    mask_NT.size(1),
                    batch_size=self.args.per_device_train_batch_size,
                    **{name: output[name] for name in VISION_INPUTS if name in output},
                )
        return output["old_per_token_logps"]

    def _token_mean(self, values_NT: torch.Tensor, mask_NT: torch.Tensor) -> float:
        """Mean over all tokens of all ranks."""
        moments_3 = self.accelerator.reduce(objectives.masked_moments(values_NT, mask_NT), "sum")
        return (moments_3[0] / moments_3[2].clamp(min=1)).item()

    def _record(self, name: str, value: float) -> None:
        self._metrics["train" if self.model.training else "eval"][name].append(value)


_VISION_TOWER = re.compile(r"(^|\.)(visual|vision_tower|vision_model)\.")


def _processing_class(
    model: str | Path | PreTrainedModel | PeftModel,
    given: PreTrainedTokenizerBase | ProcessorMixin | None,
    shows_images: bool,
    args: CriticConfig,
) -> PreTrainedTokenizerBase | ProcessorMixin | None:
    """The processor of a model with vision, where trl would silently take its tokenizer; None leaves it to trl."""
    name = str(model) if isinstance(model, str | Path) else str(model.config._name_or_path)
    if given is None and name and is_vision_model(name):
        given = load_processor(name, min_pixels=args.min_pixels, max_pixels=args.max_pixels)
    if not isinstance(given, ProcessorMixin):
        if shows_images:
            raise UserError(f"train_dataset has images, but {name or 'the critic'} is no model with vision.")
        return given
    tokenizer: Any = given.tokenizer
    if tokenizer.padding_side != "left":
        raise UserError(
            "the processor's tokenizer pads on the right, where image tokens and their positions fall apart: set "
            "processor.tokenizer.padding_side = 'left', or load it with critique_rl.vision.load_processor."
        )
    return given


def with_images(dataset: Dataset, name: str) -> Dataset:
    """The dataset with its images as trl takes them, if it has a column `image`.

    A column of `datasets.Image` stays where it is. Beside one of paths or `data:` URLs, which an actor is shown,
    comes a column `images` of pictures.

    Raises:
        UserError: Some rows alone have an image: trl cannot put both kinds into one batch.
    """
    if "image" not in dataset.column_names:
        return dataset
    pictures = datasets.Image(mode="RGB")
    if isinstance(dataset.features["image"], datasets.Image):
        missing = dataset.with_format("arrow")["image"][:].is_null().to_pylist()
    else:
        cells = dataset["image"][:]
        missing = [cell is None for cell in cells]
    if any(missing):
        raise UserError(
            f"{name}, row {missing.index(True)}, column 'image': None; either all rows have an image or none: "
            "train on one kind, or give the others a blank one."
        )
    if isinstance(dataset.features["image"], datasets.Image):
        return dataset.cast_column("image", pictures)
    files = [
        {"bytes": image_bytes(cell), "path": None} if _is_url(cell) else {"bytes": None, "path": cell}
        for cell in cells
    ]
    return dataset.add_column("images", [[file] for file in files], feature=datasets.List(pictures))


def logged_images(
    images: Sequence[str | Image.Image | None] | None, args: CriticConfig
) -> list[str | None] | None:
    """Images as the record of a rollout names them: a path as it is, others by a file beside the record."""
    if images is None or not args.log_completions:
        return None
    folder = Path(str(args.output_dir)) / "completions" / "images"
    names: list[str | None] = []
    for image in images:
        if image is None or (isinstance(image, str) and not _is_url(image)):
            names.append(image)
            continue
        stored = store_image(image_bytes(image) if isinstance(image, str) else _jpeg(image), folder)
        names.append(f"{folder.name}/{stored.name}")
    return names


def _jpeg(image: Image.Image) -> bytes:
    content = io.BytesIO()
    image.convert("RGB").save(content, "JPEG")
    return content.getvalue()


def _is_url(cell: str) -> bool:
    return cell.startswith("data:")


def load_critic(path: str) -> str | PeftModel:
    """What a stage starts from, so that its reference is exactly that.

    A directory of full weights is returned as it is: trl loads policy and reference from it. An adapter is
    loaded as trainable, and trl keeps a frozen copy of it as the reference; anything else would anchor the
    KL to the adapter's base model.
    """
    if not (Path(path) / "adapter_config.json").exists():
        return path
    base = PeftConfig.from_pretrained(path).base_model_name_or_path
    loader = AutoModelForImageTextToText if is_vision_model(str(base)) else AutoModelForCausalLM
    return PeftModel.from_pretrained(loader.from_pretrained(base), path, is_trainable=True)
