"""Directly RL: the actor itself is trained with r_oracle(x, y); there is no critic.

It uses the critic's trainer with other prompts and another reward, so that both have the same budget a rollout.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from datasets import Dataset

from critique_rl.actors.transformers_actor import TransformersActor
from critique_rl.methods.base import Inputs
from critique_rl.methods.rl import rl_args, run, starting_point
from critique_rl.training.stage_config import CritiqueConfig
from critique_rl.training.stages import CritiqueTrainer
from critique_rl.types import UserError, child_seed

# GRPO as published: normalised by the group, KL in the loss. CritiqueConfig's own defaults are RLOO's.
GRPO: dict[str, Any] = {"advantage": "grpo", "whiten": False, "kl_placement": "loss", "kl_estimator": "k3"}


class ActorTrainer(CritiqueTrainer):
    """Trains the actor on r_oracle of its own responses.

    Args:
        model: The actor to start from: a directory, or a `PeftModel` with a trainable adapter.
        args: Configuration; terms that only a critic has are ignored.
        **options: Further arguments of `CritiqueTrainer`; of `train_dataset` each question is used once.

    Raises:
        UserError: As `CritiqueTrainer`.
    """

    def __init__(self, model: Any, *, args: CritiqueConfig, **options: Any) -> None:
        super().__init__(model, args=args, **options)
        self.reward_funcs, self.reward_func_names = [self.reward], ["r_oracle"]
        size = args.per_device_train_batch_size
        self.policy = TransformersActor(self.model, self.processing_class, batch_size=size)

    def reward(self, completions: list[Any], **columns: Any) -> list[float | None]:
        """Reward each completion: 1 or 0, None where it cannot be graded. See trl's reward functions."""
        replies = [self._prompts.reasoning_prefill + c[0]["content"] for c in completions]
        grades = self.graded(replies, columns["answer"], columns["kind"])
        for grade in grades:
            columns["log_metric"]("actor/graded_rate", float(grade is not None))
        return [None if grade is None else float(grade) for grade in grades]

    def graded(self, replies: list[str], answers: list[str], kinds: list[str]) -> list[bool | None]:
        """r_oracle of each reply."""
        items = [
            {"gold": answer, "reply": reply, "kind": kind}
            for answer, reply, kind in zip(answers, replies, kinds, strict=True)
        ]
        return [None if grade is None else bool(grade) for grade in self.grader(items)]

    def _with_prompts(self, dataset: Dataset, name: str) -> Dataset:
        """Rows with the actor's prompt, one for each question and image."""
        rows = {(row["question"], row.get("image")): row for row in super()._with_prompts(dataset, name)}
        prompts = self._prompts
        if prompts.reasoning_prefill and "image" in dataset.column_names:
            raise UserError(
                f"prompts: '{prompts.name}' begins the reply for the actor, which trl does not do where there "
                "are images; take 'thinking' or 'compact'."
            )
        return Dataset.from_list(
            [row | {"prompt": prompts.reasoning_prompt(question)} for (question, _), row in rows.items()]
        )

    def _tokenize_prompts(self, prompts: list[Any]) -> Any:
        """Render prompts as the actor does: trl would close a prefill and open another turn after it."""
        if isinstance(prompts[0][0]["content"], list):  # with images there is no prefill
            return super()._tokenize_prompts(prompts)
        texts = [self.policy.render(prompt) for prompt in prompts]
        return self.processing_class(texts, add_special_tokens=False)["input_ids"], None, {}


def check(options: Mapping[str, Any]) -> None:
    """See `Method.check`."""
    rl_args(CritiqueConfig, "actor_rl", GRPO, options, output=Path("unused"), seed=0)


def train(inputs: Inputs) -> None:
    """See `Method.train`; it goes on from the last checkpoint."""
    args = rl_args(
        CritiqueConfig,
        "actor_rl",
        GRPO | {"max_completion_length": inputs.lengths.response},
        inputs.options,
        output=inputs.output,
        seed=child_seed(inputs.seed, "actor_rl"),
        prompts=inputs.prompts.name,
    )
    run(ActorTrainer(**starting_point(inputs, args), args=args, train_dataset=inputs.pool), inputs)
