"""The critic of LLaVA-Critic-R1 (arXiv 2509.00676): GRPO on which of two responses is better.

The trainer is that of the two stages, with other data and another reward: pairs with a preference label, and
alpha r_pref + (1 - alpha) r_format. The objective is the released code's: group-relative advantages, token ratios
clipped on both sides and once more for negative advantages (`delta`), a k3 KL in the loss.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datasets import Dataset
from peft import PeftModel
from transformers import PreTrainedModel

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
from critique_rl.training.config import CriticConfig, one_of, option
from critique_rl.training.images import logged_images
from critique_rl.training.trainer import CriticTrainer
from critique_rl.types import UserError

logger = logging.getLogger(__name__)

COLUMNS = ("question", "response_1", "response_2")
REWARDS: dict[str, tuple[Callable[..., list[float | None]], Callable[..., list[float]]]] = {
    "strict": (r_pref, r_format),
    "legacy": (legacy_r_pref, legacy_r_format),
}
"""r_pref and r_format by the option `reward`."""


@dataclass
class PairwiseCriticConfig(CriticConfig):
    """Configuration of a pairwise critic. Defaults are those of the released scripts.

    The sizes of a rollout are left open; docs/trainers/pairwise.md has those of the released runs.
    """

    learning_rate: float = option(1e-6, source="scripts of Qwen2.5-VL; those of Llama have 5e-7")
    lr_scheduler_type: str = option("constant", source="scripts")
    weight_decay: float = option(0.01, source="scripts")
    adam_beta2: float = option(0.999, source="scripts")
    num_generations: int | None = option(8, source="scripts")
    num_iterations: int = option(1, source="scripts")
    epsilon_high: float | None = option(0.3, source="scripts")
    delta: float | None = option(3.0, source="scripts: the second clip, for negative advantages")
    temperature: float = option(1.0, source="scripts")
    top_p: float = option(0.99, source="scripts")
    max_completion_length: int | None = option(2048, source="scripts")
    loss_type: str = option(
        "dapo", source="ours: the token mean of a whole optimizer step; theirs, of a micro-batch, is `bnpo`"
    )
    prompts: str = option("thinking", source="released code for the format, ours for the wording")
    advantage: str = option("grpo", source="paper")
    advantage_epsilon: float = option(1e-6, source="released code")
    whiten: bool = option(False, source="released code")
    kl_placement: str = option("loss", source="scripts")
    kl_estimator: str = option("k3", source="scripts")
    kl_clip: float | None = option(10.0, source="released code")
    alpha: float = option(0.9, "Weight of r_pref; 1 - alpha is that of r_format.", "paper, and released code")
    reward: str = option(
        "strict", "`strict`: boxes after the thought, one label; `legacy`: as the released code reads them."
    )
    ties: bool = option(False, "Keep ties, and let the critic say so.", "ours; the paper does not say")

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
    recorded: tuple[str, ...] = (*COLUMNS, "label")
    """Columns of the data that the record of a rollout repeats."""

    def __init__(self, args: PairwiseCriticConfig) -> None:
        self.args = args

    def __call__(self, completions: list[Any], **columns: Any) -> list[float | None]:
        """Reward each critique; see trl's reward functions for the arguments."""
        values = REWARDS[self.args.reward][0](completions, columns["label"])
        preferences = [parse_preference(completion_text(c), ties=self.args.ties) for c in completions]
        for preference in preferences:
            columns["log_metric"]("critic/parse_rate", float(preference is not None))
            if preference is not None:
                columns["log_metric"]("critic/said_first", float(preference == 1))
        return self.totals(completions, values, {"preference": preferences, "r_pref": values}, columns)

    def totals(
        self,
        completions: list[Any],
        values: Sequence[float | None],
        record: Mapping[str, Any],
        columns: Mapping[str, Any],
    ) -> list[float | None]:
        """Add r_format to the values, which have the weight alpha; log the terms and the record of the rollout.

        Args:
            values: r_pref of rows with a label, r_oracle of rows without one; None where it is unknown.
            record: Further columns of the record.
            columns: Columns of the data, and trl's loggers.
        """
        formats = REWARDS[self.args.reward][1](completions)
        images = logged_images(columns.get("image"), self.args)
        data = {name: columns[name] for name in self.recorded} | ({"image": images} if images else {})
        for column, content in {**data, **record, "r_format": formats}.items():
            columns["log_extra"](column, content)
        rewards = []
        for label, value, kept in zip(columns["label"], values, formats, strict=True):
            columns["log_metric"]("reward/r_format", kept)
            if value is not None:
                columns["log_metric"]("reward/r_oracle" if label is None else "reward/r_pref", float(value))
            rewards.append(pairwise_reward(value, kept, alpha=self.args.alpha))
        return rewards


class PairwiseCriticTrainer(CriticTrainer):
    """Trains a critic on pairs of responses; used like any trl trainer.

    Args:
        model: The critic to start from: a directory or hub id, or a `PeftModel` with a trainable adapter.
        args: The configuration.
        train_dataset: Columns question, response_1, response_2, label (1, 2, or 0 for a tie) and, with images,
            image; `critic_data.to_dataset` makes it from pairs.
        **options: Further arguments of `CriticTrainer`: eval_dataset, processing_class, callbacks, optimizers,
            peft_config.

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
        **options: Any,
    ) -> None:
        args = args or self.config_class()
        if not isinstance(args, PairwiseCriticConfig):
            raise UserError(f"args must be a {self.config_class.__name__}, got {type(args).__name__}.")
        super().__init__(model, self.reward_class(args), args, train_dataset, **options)

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
