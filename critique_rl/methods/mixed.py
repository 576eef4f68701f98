"""Mixed RL: the model answers questions and judges pairs in the same rollout (LLaVA-Critic-R1, Table 8).

Trainer, objective and options are those of `pairwise_critic`. For a question, r_oracle of the answer replaces
r_pref. The paper does not say how it mixes its data; here one half is pairs, one half questions.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from datasets import Dataset, concatenate_datasets

from critique_rl.grading import grade_batch
from critique_rl.methods import pairwise_critic
from critique_rl.methods.base import Inputs
from critique_rl.methods.rl import run, starting_point
from critique_rl.pairwise_rewards import completion_text, parse_preference
from critique_rl.prompts import prompt_set
from critique_rl.training.pairwise import REWARDS, PairwiseCriticTrainer, PairwiseReward
from critique_rl.types import UserError, child_seed


class MixedReward(PairwiseReward):
    """alpha r_pref + (1 - alpha) r_format of pairs, alpha r_oracle + (1 - alpha) r_format of questions."""

    __name__ = "mixed_reward"
    recorded = (*PairwiseReward.recorded, "answer")

    def __call__(self, completions: list[Any], **columns: Any) -> list[float | None]:
        """Reward each completion; a question has no label. See trl's reward functions for the arguments."""
        labels, texts = columns["label"], [completion_text(c) for c in completions]
        questions = [i for i, label in enumerate(labels) if label is None]
        items = [
            {"gold": str(columns["answer"][i]), "reply": texts[i], "kind": str(columns["kind"][i])}
            for i in questions
        ]
        grades = dict(zip(questions, grade_batch(items), strict=True))
        r_pref = REWARDS[self.args.reward][0](completions, labels)  # None for a question
        record = {
            "preference": [
                None if i in grades else parse_preference(text, ties=self.args.ties)
                for i, text in enumerate(texts)
            ],
            "response_correct": [grades.get(i) for i in range(len(texts))],
        }
        return self.totals(completions, [grades.get(i, r) for i, r in enumerate(r_pref)], record, columns)


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
    trainer = MixedTrainer(
        **starting_point(inputs, args), args=args, train_dataset=concatenate_datasets(halves)
    )
    run(trainer, inputs)
