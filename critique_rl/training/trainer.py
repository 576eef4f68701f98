"""The one trainer of critics, on trl's `GRPOTrainer`: advantages, KL, value model, exact resuming.

Subclasses define the prompts and the reward: `stages.py` has the two stages of Critique-RL, `pairwise.py` the
critic of LLaVA-Critic-R1. The loop of one RL step is

    sample critiques -> read verdicts -> reward -> advantages -> clipped update

trl does the first and the last part. The rewards are in `rewards.py` and `pairwise_rewards.py`, the advantages in
`objectives.py`.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from peft import PeftConfig, PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase, ProcessorMixin

from critique_rl.adapters import is_adapter
from critique_rl.training import objectives
from critique_rl.training.checkpoints import load_critic, sealed_checkpoint
from critique_rl.training.config import CriticConfig, check_processes
from critique_rl.training.guarded import GuardedTrainer
from critique_rl.training.images import (
    VISION_INPUTS,
    freeze_unused_vision,
    processor_for,
    restore_vision_weights,
    with_images,
)
from critique_rl.training.sampler import BalancedSampler, EpochSampler
from critique_rl.training.shared_prompts import SharedPromptTrainer
from critique_rl.training.value_model import ValueModel
from critique_rl.training.watch import Watch, require_finite
from critique_rl.types import UserError


class CriticTrainer(GuardedTrainer, SharedPromptTrainer):
    """Advantages, KL, images and resuming of all critics; subclasses define the prompts and the reward.

    It overrides private methods of trl's trainer, and each calls `super()`. tests/test_trl_contract.py pins the
    behaviour of trl that they rely on.

    Args:
        model: The critic to start from: a directory or hub id, or a `PeftModel` with a trainable adapter.
            The KL is taken to exactly these weights.
        reward: Reward function, see trl's. One, because trl would count a lone None of several as 0.
        args: The configuration.
        train_dataset: Data from which the subclass makes prompts; images are a column `image` of paths, `data:`
            URLs or `datasets.Image`.
        eval_dataset: The same, for trl's evaluation loop.
        processing_class: Tokenizer, or processor of a model with vision; by default the model's.
        peft_config: Adapter to train instead of the full model.
        **options: Arguments of `Trainer`: callbacks, optimizers.

    Raises:
        UserError: The dataset lacks a column or holds an empty or mistyped value, a prompt exceeds the model's
            context, nothing is trainable, several processes do not see each other, the reference is not the model
            that the run starts from, only some rows have an image, the model has no vision, or no value model can
            be made from it.
    """

    _tag_names = ["critique-rl", "trl"]  # noqa: RUF012 - trl reads this class attribute for the model card
    config_class: type[CriticConfig] = CriticConfig
    checkpoint_owner = ""  # a run sets it: `last_checkpoint` refuses checkpoints of another one
    # Narrower types than trl's, true once `__init__` is done.
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
        peft_config: PeftConfig | None = None,
        **options: Any,
    ) -> None:
        if train_dataset is None:
            raise UserError("train_dataset is missing.")
        adapter = isinstance(model, str | Path) and is_adapter(model)
        if adapter and peft_config is not None:
            raise UserError(
                f"{model} is an adapter already: leave peft_config out, or merge it into its base."
            )
        if adapter and args.advantage != "gae":  # whose value model refuses it with its own advice
            model = load_critic(str(model), args.init_options)
        _check_start(model, args, new_adapter=peft_config is not None)
        if eval_dataset is not None:
            args.check_evaluation()
        self.args = args
        self.value_model: ValueModel | None = None
        self._gathered_rewards: torch.Tensor | None = None
        self._anchor_checked = False
        self._rollout_unlogged = False
        self._clipped: dict[str, Any] | None = None
        processing_class = processor_for(model, processing_class, train_dataset, args)
        for name, data in (("train_dataset", train_dataset), ("eval_dataset", eval_dataset)):
            options[name] = None if data is None else with_images(self._with_prompts(data, name), name)
        super().__init__(
            model=str(model) if isinstance(model, Path) else model,
            reward_funcs=[reward],
            args=args,
            processing_class=processing_class,
            peft_config=peft_config,
            **options,
        )
        check_processes(self.accelerator.num_processes)
        self.encoder = self._make_encoder()
        freeze_unused_vision(self.model, self.train_dataset, args)
        if not any(p.requires_grad for p in self.model.parameters()):
            raise UserError(
                "no weight of the critic is trainable: load an adapter with "
                "PeftModel.from_pretrained(base, adapter, is_trainable=True)."
            )
        if args.advantage == "gae":
            if "image" in train_dataset.column_names:
                raise UserError("advantage='gae': the value model sees no images; use rloo or grpo.")
            start = model.config._name_or_path if isinstance(model, PreTrainedModel) else str(model)
            self.value_model = ValueModel(start, args, self.accelerator, self._record)
            self.add_callback(self.value_model)
        require_finite(self.model, f"the critic {self.encoder.name}", "make it anew, or start from another.")
        self._losses: list[torch.Tensor] = []
        stop = args.unhealthy == "stop"
        self.watch = Watch(args.optimizer_steps_per_rl_step, args.max_completion_length, stop=stop)
        self.add_callback(self.watch)
        self._check_data()

    def _with_prompts(self, dataset: Dataset, name: str) -> Dataset:
        """Check the columns and add the critic's prompt, which never holds the gold answer."""
        raise NotImplementedError

    # -- overrides of trl's GRPOTrainer ---------------------------------------------------------------------

    def _get_train_sampler(self, dataset: Dataset | None = None) -> EpochSampler:
        sampler: Any = super()._get_train_sampler(dataset)
        names = ("data_source", "mini_repeat_count", "batch_size", "repeat_count", "shuffle", "seed")
        settings = {name: getattr(sampler, name) for name in names}
        settings["epoch"] = lambda: int(self.state.epoch or 0)
        labels = self._balanced_labels(sampler.data_source)
        return EpochSampler(**settings) if labels is None else BalancedSampler(labels, **settings)

    def _balanced_labels(self, dataset: Dataset) -> list[bool] | None:
        """Labels of the rows that each rollout shall have as many true as false ones of; None for any mixture."""
        return None

    def _generate(self, prompts: list[Any]) -> Any:
        started = time.perf_counter()
        generated = super()._generate(prompts)
        self._record("time/generate", time.perf_counter() - started)
        for (message,) in generated[3] if self.encoder.opened else ():
            parsed = message.get("reasoning_content") or message.get("thinking")  # trl has read the thought
            message["content"] = ("" if parsed else self.encoder.opened) + message["content"]
        return generated

    def _calculate_rewards(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        self._gathered_rewards = super()._calculate_rewards(*args, **kwargs)
        return self._gathered_rewards

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        started = time.perf_counter()
        output = super()._generate_and_score_completions(
            [{**row, "prompt": self.encoder.plain(row["prompt"])} for row in inputs]
        )
        mask_NT = output["completion_mask"]
        # On-policy, trl skips old log-probabilities; do not compute them only to log the KL.
        kl_known = "old_per_token_logps" in output or self.args.kl_placement == "reward"
        rewards_N, advantages_N = self._rewards_and_advantages(mask_NT.size(0))
        if self.beta != 0.0 and self.model.training and not self._anchor_checked:
            self._check_anchor(output)
        mask_NT = mask_NT * ~rewards_N.isnan().unsqueeze(1)  # without a reward, only a KL in the loss trains
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
            # A separate backward pass: the logged loss stays the critic's.
            self.value_model.learn(inputs, parts=self.current_gradient_accumulation_steps)
        if self.args.kl_placement == "loss":
            if self.args.kl_clip is None or self.beta == 0.0:
                return super()._compute_loss(model, inputs)
            self._clipped = dict(inputs)  # a copy: each pass over the rollout clips anew
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
        output = super()._get_per_token_logps_and_entropies(*args, **kwargs)
        if self._clipped is not None:  # trl does not limit the log-ratio of its KL
            reference_NT, limit = self._clipped["ref_per_token_logps"], self.args.kl_clip
            self._clipped["ref_per_token_logps"] = objectives.clipped_reference(
                output[0], reference_NT, limit
            )
        return output

    def _run_epoch(self, *args: Any, **kwargs: Any) -> None:
        # transformers tests for the end only after an update: resumed from its last checkpoint, a training would
        # make one update more.
        if self.state.global_step >= self.state.max_steps:
            self.control.should_training_stop = True
            return
        super()._run_epoch(*args, **kwargs)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Called by the trainer at every log; see trl's method."""
        # trl writes the completions at every log: once more at the end, and mixed with those of an evaluation.
        self.log_completions = bool(self.args.log_completions) and self._rollout_unlogged
        self._rollout_unlogged = False
        super().log(logs, start_time)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        with sealed_checkpoint(self, Path(self._get_output_dir(trial=trial)), self.checkpoint_owner):
            super()._save_checkpoint(model, trial)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        restore_vision_weights(self.model if model is None else model, resume_from_checkpoint)
        require_finite(
            self.model, f"the checkpoint {resume_from_checkpoint}", "delete it, and go on from another."
        )

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        super()._save_optimizer_and_scheduler(output_dir)
        if self.value_model is not None and self.args.should_save:
            self.value_model.save(output_dir)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)
        if self.value_model is not None and checkpoint is not None:
            self.value_model.load(checkpoint)

    # -- parts of the overrides -------------------------------------------------------------------------------

    def _rewards_and_advantages(self, local: int) -> tuple[torch.Tensor, torch.Tensor]:
        """(N,) rewards and (N,) advantages of this rank's N = `local` critiques, from the rewards of all ranks."""
        assert self._gathered_rewards is not None
        group = self.num_generations if self.model.training else self.num_generations_eval
        rewards_BG = self._gathered_rewards[:, 0].view(-1, group)
        if self.args.advantage == "rloo":
            advantages_BG = objectives.rloo_advantages(rewards_BG)
        elif self.args.advantage == "grpo":
            advantages_BG = objectives.grpo_advantages(rewards_BG, epsilon=self.args.advantage_epsilon)
        else:  # the value model is the baseline
            advantages_BG = rewards_BG.nan_to_num(nan=0.0)
        own = slice(self.accelerator.process_index * local, (self.accelerator.process_index + 1) * local)
        return rewards_BG.flatten()[own], advantages_BG.flatten()[own]

    def _reward_kl(self, output: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
        """(N, T) per-token KL to the start of the training, and (N, T) costs of each token for its own KL."""
        name, mask_NT = self.args.kl_estimator, output["completion_mask"]
        logps = self._old_logps(output), output["ref_per_token_logps"]
        kl_NT = objectives.KL_ESTIMATES[name](*logps) * mask_NT
        self._record("kl", self._token_mean(kl_NT, mask_NT))
        return kl_NT, objectives.KL_COSTS[name](*logps) * mask_NT

    def _log_update(self, output: dict[str, Any], *, kl_known: bool) -> None:
        """Add each critique's token means of advantage and KL to trl's record of the rollout.

        They replace trl's advantages. trl's queues hold one rollout.
        """
        self._rollout_unlogged = self.model.training
        if not self._rollout_unlogged:
            return
        mask_NT, columns = output["completion_mask"], {"advantages": output["advantages"]}
        if self.beta != 0.0 and kl_known:
            estimate = objectives.KL_ESTIMATES[self.args.kl_estimator]
            columns["kl"] = estimate(self._old_logps(output), output["ref_per_token_logps"])
        for name, values_NT in columns.items():
            means_N = (values_NT * mask_NT).sum(1) / mask_NT.sum(1).clamp(min=1)
            column = self._logs["advantages"] if name == "advantages" else self._logs["extra"][name]
            column.extend(self.accelerator.gather(means_N).tolist())
        rl_step = self.state.global_step // self.args.optimizer_steps_per_rl_step + 1
        self._logs["extra"]["rl_step"].extend([rl_step] * self.args.generation_batch_size)

    def _check_anchor(self, output: dict[str, Any]) -> None:
        """Refuse, on the first rollout, a reference that differs from the start of the training."""
        self._anchor_checked = True
        if self.state.global_step > 0:
            return
        kl_NT = objectives.kl_k3(self._scored_logps(output), output["ref_per_token_logps"])
        kl = self._token_mean(kl_NT, output["completion_mask"])
        if kl > 1e-3:
            raise UserError(
                f"before the first update the critic is {kl:.4f} nats a token away from its reference, so the "
                "KL would pull to another model: pass the start as a saved directory, or an adapter "
                "loaded with PeftModel.from_pretrained(..., is_trainable=True)."
            )

    def _old_logps(self, output: dict[str, Any]) -> torch.Tensor:
        """(N, T) log-probabilities of the policy that drew the critiques.

        On-policy, trl skips them. Those of the sampler are not put into `output`: the ratio, 1 there, would show
        that sampling and scoring round differently.
        """
        if "old_per_token_logps" in output:
            return output["old_per_token_logps"]
        if self.sampled_logps is None:
            return self._scored_logps(output)
        missing = output["completion_mask"].size(1) - self.sampled_logps.size(1)  # padding to a multiple
        return torch.nn.functional.pad(self.sampled_logps, (0, missing))

    def _scored_logps(self, output: dict[str, Any]) -> torch.Tensor:
        """(N, T) log-probabilities of the policy that drew the critiques, from a pass over them."""
        if "old_per_token_logps" not in output:
            with torch.no_grad():
                output["old_per_token_logps"], _, _ = self._get_per_token_logps_and_entropies(
                    self.model,
                    torch.cat([output["prompt_ids"], output["completion_ids"]], dim=1),
                    torch.cat([output["prompt_mask"], output["completion_mask"]], dim=1),
                    output["completion_mask"].size(1),
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


def _check_start(model: Any, args: CriticConfig, *, new_adapter: bool) -> None:
    """Refuse a critic in memory, or an adapter, where a second model must be loaded from its directory."""
    in_memory = isinstance(model, PreTrainedModel) and not model.config._name_or_path
    if in_memory and not new_adapter and args.beta:
        raise UserError(
            "the critic was built in memory, but the reference of its KL is loaded from a directory: save the "
            "critic and pass the directory."
        )
    if args.advantage == "gae" and (in_memory or isinstance(model, PeftModel)):
        raise UserError(
            "advantage='gae' loads its value model from the critic's directory, which a model in memory does not "
            "have: save it whole (an adapter after merge_and_unload()) and pass the directory."
        )
