"""Mixed RL: the model answers questions and judges pairs in the same rollout (LLaVA-Critic-R1, its Table 8).

Trainer, objective and options are those of `pairwise_critic`. A question's reward has r_oracle of the answer in
the place of r_pref. How the paper mixes its data is not said; here it is half and half.
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
        preferred, kept = REWARDS[self.args.reward]
        form = kept(completions)
        asked = [i for i, of in enumerate(label) if of is None]
        items = [
            {"gold": str(answer[i]), "reply": completion_text(completions[i]), "kind": str(kind[i])}
            for i in asked
        ]
        oracle = dict(zip(asked, grade_batch(items), strict=True))
        pairs = [i for i, of in enumerate(label) if of is not None]
        preference = dict(
            zip(pairs, preferred([completions[i] for i in pairs], [label[i] for i in pairs]), strict=True)
        )
        rewards: list[float | None] = []
        for i, format_kept in enumerate(form):
            grade = oracle[i] if i in oracle else preference[i]
            value = None if grade is None else float(grade)
            log_metric("reward/r_format", format_kept)
            if value is not None:
                log_metric("reward/r_oracle" if i in oracle else "reward/r_pref", value)
            rewards.append(pairwise_reward(value, format_kept, alpha=self.args.alpha))
        said = {i: parse_preference(completion_text(completions[i]), ties=self.args.ties) for i in pairs}
        shown: dict[str, Sequence[Any] | None] = {
            "question": question,
            "response_1": response_1,
            "response_2": response_2,
            "label": label,
            "answer": answer,
            "image": logged_images(columns.get("image"), self.args),
            "preference": [said.get(i) for i in range(len(label))],
            "response_correct": [oracle.get(i) for i in range(len(label))],
            "r_format": form,
        }
        for name, values in shown.items():
            if values is not None:
                log_extra(name, list(values))
        return rewards


class MixedTrainer(PairwiseCriticTrainer):
    """Trains on pairs and questions together.

    Args:
        model: As of `PairwiseCriticTrainer`, as are the rest.
        train_dataset: Rows of pairs and, with `label`, `response_1` and `response_2` empty (None), of questions
            with the columns answer and kind.

    Raises:
        UserError: As `PairwiseCriticTrainer`, or the prompt set begins the reply for the actor.
    """

    reward_class = MixedReward

    def _with_prompts(self, dataset: Dataset, name: str) -> Dataset:
        """Each pair with the critic's prompt, each question with the actor's."""
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
    """See `Baseline.check`; the options are those of `pairwise_critic`."""
    pairwise_critic.trainer_args(options, "mixed", output=Path("unused"), seed=0)
    pairwise_critic.pair_options(options)


def train(inputs: Inputs) -> None:
    """See `Baseline.train`; it goes on from the last checkpoint."""
    seed = child_seed(inputs.seed, "mixed")
    args = pairwise_critic.trainer_args(
        inputs.options,
        "mixed",
        output=inputs.output,
        seed=seed,
        prompts=inputs.prompts.name,
        max_completion_length=max(inputs.lengths.critique, inputs.lengths.response),
    )
    assert inputs.pool is not None  # the configuration sees to it
    pairs = pairwise_critic.dataset(pairwise_critic.pairs_of(inputs, ties=args.ties, seed=seed))
    if ("image" in pairs.column_names) != ("image" in inputs.pool.column_names):
        raise UserError("mixed: pairs or questions alone have images; both must have them, or neither.")
    columns = ["question", "answer", "kind", *(["image"] if "image" in pairs.column_names else [])]
    first = {(row["question"], row.get("image")): row for row in inputs.pool.select_columns(columns)}
    questions = Dataset.from_list(list(first.values()))
    most = min(len(pairs), len(questions))
    half = [rows.shuffle(seed=seed).select(range(most)) for rows in (pairs, questions)]
    start = load_critic(inputs.start)
    trainer = MixedTrainer(
        start,
        args=args,
        train_dataset=concatenate_datasets(half),
        peft_config=inputs.lora if isinstance(start, str) else None,
    )
    run(trainer, inputs)
