"""Mixed RL: the model answers questions and judges pairs in the same rollout (LLaVA-Critic-R1, Table 8).

Trainer, objective and options are those of `pairwise_critic`. In the reward of a question, r_oracle of the answer
stands in place of r_pref. The paper does not say how it mixes its data; here it is half and half.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from datasets import Dataset, concatenate_datasets

from critique_rl.grading import grade_batch
from critique_rl.methods import pairwise_critic
from critique_rl.methods.base import Inputs
from critique_rl.methods.rl import run
from critique_rl.pairwise_rewards import completion_text, pairwise_reward, parse_preference
from critique_rl.prompts import prompt_set
from critique_rl.training.checkpoints import load_critic
from critique_rl.training.images import logged_images
from critique_rl.training.pairwise import REWARDS, PairwiseCriticConfig, PairwiseCriticTrainer
from critique_rl.types import UserError, child_seed


class MixedReward:
    """alpha r_pref + (1 - alpha) r_format of pairs, alpha r_oracle + (1 - alpha) r_format of questions."""

    __name__ = "mixed_reward"

    def __init__(self, args: PairwiseCriticConfig) -> None:
        self.args = args

    def __call__(
        self,
        completions: list[Any],
        question: list[str],
        response_1: list[str | None],
        response_2: list[str | None],
        label: list[int | None],
        answer: list[str | None],
        kind: list[str | None],
        log_extra: Callable[[str, list[Any]], None],
        log_metric: Callable[[str, float], None],
        **columns: Any,
    ) -> list[float | None]:
        """Reward each completion; a question has no label. See trl's reward functions for the arguments."""
        r_pref_of, r_format_of = REWARDS[self.args.reward]
        r_format = r_format_of(completions)
        pairs = [i for i, named in enumerate(label) if named is not None]
        questions = [i for i, named in enumerate(label) if named is None]
        items = [
            {"gold": str(answer[i]), "reply": completion_text(completions[i]), "kind": str(kind[i])}
            for i in questions
        ]
        r_oracle = dict(zip(questions, grade_batch(items), strict=True))
        preferred = r_pref_of([completions[i] for i in pairs], [label[i] for i in pairs])
        r_pref = dict(zip(pairs, preferred, strict=True))
        rewards: list[float | None] = []
        for i, form in enumerate(r_format):
            grade = r_oracle[i] if i in r_oracle else r_pref[i]
            value = None if grade is None else float(grade)
            log_metric("reward/r_format", form)
            if value is not None:
                log_metric("reward/r_oracle" if i in r_oracle else "reward/r_pref", value)
            rewards.append(pairwise_reward(value, form, alpha=self.args.alpha))
        ties = self.args.ties
        preferences = {i: parse_preference(completion_text(completions[i]), ties=ties) for i in pairs}
        record: dict[str, Sequence[Any] | None] = {
            "question": question,
            "response_1": response_1,
            "response_2": response_2,
            "label": label,
            "answer": answer,
            "image": logged_images(columns.get("image"), self.args),
            "preference": [preferences.get(i) for i in range(len(label))],
            "response_correct": [r_oracle.get(i) for i in range(len(label))],
            "r_format": r_format,
        }
        for column, values in record.items():
            if values is not None:
                log_extra(column, list(values))
        return rewards


class MixedTrainer(PairwiseCriticTrainer):
    """Trains on pairs and questions together; arguments are those of `PairwiseCriticTrainer`.

    Args:
        train_dataset: Rows of pairs, and rows of questions: these have the columns answer and kind, and None for
            label, response_1 and response_2.

    Raises:
        UserError: As of `PairwiseCriticTrainer`, or the prompt set begins the reply for the actor.
    """

    reward_class = MixedReward

    def _with_prompts(self, dataset: Dataset, name: str) -> Dataset:
        """Add the critic's prompt to each pair, the actor's to each question."""
        prompts = prompt_set(self.args.prompts)
        if prompts.reasoning_prefill:
            raise UserError(
                f"prompts: '{prompts.name}' begins the reply for the actor, and not for the critic; take "
                "'thinking' or 'compact'."
            )
        pairs = dataset.filter(lambda label: label is not None, input_columns="label")
        questions = dataset.filter(lambda label: label is None, input_columns="label").map(
            lambda question: {"prompt": prompts.reasoning_prompt(question)}, input_columns="question"
        )
        return concatenate_datasets([super()._with_prompts(pairs, name), questions])


def check(options: Mapping[str, Any]) -> None:
    """See `Method.check`; the options are those of `pairwise_critic`."""
    pairwise_critic.trainer_args(options, "mixed", output=Path("unused"), seed=0)
    pairwise_critic.pair_options(options)


def train(inputs: Inputs) -> None:
    """See `Method.train`; it resumes from the last checkpoint."""
    seed = child_seed(inputs.seed, "mixed")
    args = pairwise_critic.trainer_args(
        inputs.options,
        "mixed",
        output=inputs.output,
        seed=seed,
        prompts=inputs.prompts.name,
        max_completion_length=max(inputs.lengths.critique, inputs.lengths.response),
    )
    assert inputs.pool is not None  # checked with the configuration
    pairs = pairwise_critic.dataset(pairwise_critic.pairs_of(inputs, ties=args.ties, seed=seed))
    if ("image" in pairs.column_names) != ("image" in inputs.pool.column_names):
        raise UserError("mixed: only pairs or only questions have images; both must have them, or neither.")
    columns = ["question", "answer", "kind", *(["image"] if "image" in pairs.column_names else [])]
    first = {(row["question"], row.get("image")): row for row in inputs.pool.select_columns(columns)}
    questions = Dataset.from_list(list(first.values()))
    size = min(len(pairs), len(questions))
    halves = [half.shuffle(seed=seed).select(range(size)) for half in (pairs, questions)]
    start = load_critic(inputs.start)
    trainer = MixedTrainer(
        start,
        args=args,
        train_dataset=concatenate_datasets(halves),
        peft_config=inputs.lora if isinstance(start, str) else None,
    )
    run(trainer, inputs)
