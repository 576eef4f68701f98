"""The one trainer of critics, on trl's `GRPOTrainer`: advantages, KL and what else the objectives need.

What a critic is asked and rewarded for is a subclass's: `stages.py` has the two stages of Critique-RL,
`pairwise.py` the critic of LLaVA-Critic-R1. The loop of one RL step is

    sample critiques -> read verdicts -> reward -> advantages -> clipped update

of which trl owns the first and the last; the rewards are in `rewards.py` and `pairwise_rewards.py`, the advantages
in `objectives.py`.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from peft import PeftConfig, PeftModel
from transformers import (
    PreTrainedModel,
    PreTrainedTokenizerBase,
    ProcessorMixin,
    TrainerCallback,
)
from trl import GRPOTrainer
from trl.data_utils import prepare_multimodal_messages
from trl.trainer.utils import RepeatSampler

from critique_rl.training import objectives
from critique_rl.training.config import CriticConfig
from critique_rl.training.images import VISION_INPUTS, with_images
from critique_rl.training.value_model import ValueModel
from critique_rl.types import UserError, child_seed
from critique_rl.vision.models import is_vision_model, load_processor

LONGEST = 100
"""Prompts with images of which the length is checked before training."""


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
