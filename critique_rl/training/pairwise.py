"""The critic of LLaVA-Critic-R1 (arXiv 2509.00676): GRPO on which of two responses is better.

The same trainer as that of the two stages, with other data and another reward: pairs with a preference label, and
alpha r_pref + (1 - alpha) r_format. The objective is the released code's: group-relative advantages, token ratios
that are clipped on both sides and once more for negative advantages (`delta`), a k3 KL in the loss.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from peft import PeftConfig, PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase, ProcessorMixin, TrainerCallback

from critique_rl.pairwise_rewards import (
    TIE,
    completion_text,
    legacy_r_format,
    legacy_r_pref,
    pairwise_reward,
    parse_preference,
    r_format,
    r_pref,
)
from critique_rl.prompts import prompt_set
from critique_rl.training.citations import LLAVA_CRITIC_R1
from critique_rl.training.config import CriticConfig, one_of
from critique_rl.training.images import logged_images
from critique_rl.training.trainer import CriticTrainer
from critique_rl.types import UserError

logger = logging.getLogger(__name__)

COLUMNS = ("question", "response_1", "response_2")
REWARDS: dict[str, tuple[Callable[..., list[float | None]], Callable[..., list[float]]]] = {
    "strict": (r_pref, r_format),
    "legacy": (legacy_r_pref, legacy_r_format),
}


@dataclass
class PairwiseCriticConfig(CriticConfig):
    r"""Configuration of a pairwise critic. Defaults are those of the released scripts.

    What a step takes in memory is not among them. The released runs have `generation_batch_size` 2048 (256 prompts
    with 8 critiques each) and two optimizer steps for each: `per_device_train_batch_size` times
    `gradient_accumulation_steps` times the number of devices is 1024.

    Args:
        alpha: Weight of r_pref; 1 - alpha is that of r_format. 0 trains on the format alone.
        reward: `strict` reads the label as `parse_preference` does, `legacy` as the released code.
        ties: Keep pairs of which neither is better, and let the critic say so; else they are left out.
    """

    learning_rate: float = field(default=1e-6, metadata={"help": "Qwen2.5-VL scripts; 5e-7 for Llama."})
    lr_scheduler_type: str = field(default="constant", metadata={"help": "Without warm-up."})
    adam_beta2: float = field(default=0.999, metadata={"help": "torch's, not overridden."})
    weight_decay: float = field(default=0.01, metadata={"help": "config.yaml."})
    num_generations: int | None = field(default=8, metadata={"help": "n of the rollout."})
    num_iterations: int = field(default=1, metadata={"help": "ppo_epochs."})
    epsilon: float = field(default=0.2, metadata={"help": "clip_ratio_low."})
    epsilon_high: float | None = field(default=0.3, metadata={"help": "clip_ratio_high."})
    delta: float | None = field(default=3.0, metadata={"help": "clip_ratio_dual: two-sided clip."})
    temperature: float = field(default=1.0, metadata={"help": "Of the rollout."})
    top_p: float = field(default=0.99, metadata={"help": "Of the rollout."})
    max_completion_length: int | None = field(default=2048, metadata={"help": "max_response_length."})
    loss_type: str = field(
        default="dapo",
        metadata={
            "help": "Mean over all tokens of an optimizer step. The released code takes it in each micro-batch "
            "and averages these, so that memory settings move the gradient: that is bnpo."
        },
    )

    prompts: str = field(default="thinking", metadata={"help": "Name of the prompt set."})
    advantage: str = field(default="grpo", metadata={"help": "(r - mean) / (std + advantage_epsilon)."})
    advantage_epsilon: float = field(default=1e-6, metadata={"help": "Released code."})
    whiten: bool = field(default=False, metadata={"help": "Not in the released code."})
    kl_placement: str = field(default="loss", metadata={"help": "use_kl_loss."})
    kl_estimator: str = field(default="k3", metadata={"help": "low_var_kl."})
    kl_clip: float | None = field(default=10.0, metadata={"help": "Released code."})
    alpha: float = field(default=0.9, metadata={"help": "Weight of r_pref."})
    reward: str = field(default="strict", metadata={"help": "strict or legacy."})
    ties: bool = field(default=False, metadata={"help": "Train on ties, too."})

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of("reward", self.reward, REWARDS)
        if not 0.0 <= self.alpha <= 1.0:
            raise UserError(f"alpha={self.alpha} is not between 0 and 1.")
        if self.ties and self.reward == "legacy":
            raise UserError("reward='legacy' has no label for ties: set ties to false.")


class PairwiseReward:
    """alpha r_pref + (1 - alpha) r_format as one trl reward function; see `pairwise_rewards.pairwise_reward`."""

    __name__ = "pairwise_reward"

    def __init__(self, args: PairwiseCriticConfig) -> None:
        self.args = args

    def __call__(
        self,
        completions: list[Any],
        question: list[str],
        response_1: list[str],
        response_2: list[str],
        label: list[int],
        log_extra: Callable[[str, list[Any]], None],
        log_metric: Callable[[str, float], None],
        **columns: Any,
    ) -> list[float | None]:
        """Reward each critique; see trl's reward functions for the arguments."""
        preferred, kept = REWARDS[self.args.reward]
        pref, form = preferred(completions, label), kept(completions)
        named = [parse_preference(completion_text(c), ties=self.args.ties) for c in completions]
        asked = {"question": question, "response_1": response_1, "response_2": response_2}
        for column, values in asked.items():
            log_extra(column, values)
        log_extra("label", label)
        pictures = logged_images(columns.get("image"), self.args)
        if pictures is not None:
            log_extra("image", pictures)
        log_extra("preference", named)
        log_extra("r_pref", pref)
        log_extra("r_format", form)
        for name, value, format_kept in zip(named, pref, form, strict=True):
            log_metric("critic/parse_rate", float(name is not None))
            log_metric("reward/r_format", format_kept)
            if value is not None:
                log_metric("reward/r_pref", value)
            if name is not None:
                log_metric("critic/said_first", float(name == 1))
        return [pairwise_reward(p, f, alpha=self.args.alpha) for p, f in zip(pref, form, strict=True)]


class PairwiseCriticTrainer(CriticTrainer):
    """Trains a critic on pairs of responses; used like any trl trainer.

    Args:
        model: The critic to start from: a directory or hub id, or a `PeftModel` with a trainable adapter.
        args: The configuration.
        train_dataset: Columns question, response_1, response_2, label (1, 2, or 0 for a tie) and, with images,
            image; `critic_data.to_dataset` makes it from pairs.
        eval_dataset: The same, for trl's evaluation loop.
        processing_class: Tokenizer, or processor of a model with vision; by default the model's.
        callbacks: As in `Trainer`.
        optimizers: As in `Trainer`.
        peft_config: Adapter to train instead of the full model.

    Raises:
        UserError: As of `CriticTrainer`, or nothing but ties is left.
    """

    _name = LLAVA_CRITIC_R1.name
    _paper = LLAVA_CRITIC_R1.for_trl  # trl's cards cite it
    config_class: type[PairwiseCriticConfig] = PairwiseCriticConfig
    reward_class: Callable[[PairwiseCriticConfig], Callable[..., list[float | None]]] = PairwiseReward
    args: PairwiseCriticConfig

    def __init__(
        self,
        model: str | Path | PreTrainedModel | PeftModel,
        args: PairwiseCriticConfig | None = None,
        train_dataset: Dataset | None = None,
        eval_dataset: Dataset | None = None,
        processing_class: PreTrainedTokenizerBase | ProcessorMixin | None = None,
        callbacks: list[TrainerCallback] | None = None,
        optimizers: tuple[torch.optim.Optimizer | None, Any] = (None, None),
        peft_config: PeftConfig | None = None,
    ) -> None:
        args = args or self.config_class()
        if not isinstance(args, PairwiseCriticConfig):
            raise UserError(f"args must be a {self.config_class.__name__}, got {type(args).__name__}.")
        super().__init__(
            model=model,
            reward=self.reward_class(args),
            args=args,
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            processing_class=processing_class,
            callbacks=callbacks,
            optimizers=optimizers,
            peft_config=peft_config,
        )

    def _with_prompts(self, dataset: Dataset, name: str) -> Dataset:
        """Check the columns, leave out ties and add the critic's prompt."""
        missing = sorted({*COLUMNS, "label"} - set(dataset.column_names))
        if missing:
            raise UserError(
                f"{name} lacks the column(s) {', '.join(missing)}; it has {dataset.column_names}."
            )
        allowed = (TIE, 1, 2)
        for row, record in enumerate(dataset.select_columns([*COLUMNS, "label"])):
            for column in COLUMNS:
                if not isinstance(record[column], str) or not record[column].strip():
                    raise UserError(f"{name}, row {row}, column '{column}': {record[column]!r} is no text.")
            if isinstance(record["label"], bool) or record["label"] not in allowed:
                raise UserError(
                    f"{name}, row {row}, column 'label': {record['label']!r} is none of 1, 2 and {TIE} (a tie)."
                )
        if not self.args.ties:
            decided = [row for row, label in enumerate(dataset["label"]) if label != TIE]
            if len(decided) < len(dataset):
                logger.warning("%s: left out %d ties", name, len(dataset) - len(decided))
            dataset = dataset.select(decided)
        if len(dataset) == 0:
            raise UserError(f"{name} has no pairs" + ("." if self.args.ties else " of which one is better."))
        prompts, ties = prompt_set(self.args.prompts), self.args.ties
        return dataset.map(
            lambda question, first, second: {
                "prompt": prompts.pairwise_prompt(question, first, second, ties=ties)
            },
            input_columns=list(COLUMNS),
            desc="critic prompts" if len(dataset) > 10_000 else None,
        )
