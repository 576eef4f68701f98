"""The two stages of Critique-RL (arXiv 2510.24320, section 4 and Algorithm 1).

Both use one trainer. They differ in the reward, its coefficients, and the start, to which the KL holds the critic
close. In Stage II the actor refines after each critique, and the refinement is graded.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from datasets import Dataset
from peft import PeftModel
from transformers import PreTrainedModel

from critique_rl.actors.base import Actor
from critique_rl.grading import grade_batch
from critique_rl.grading.replies import where_replied
from critique_rl.prompts import prompt_set
from critique_rl.training.citations import CRITIQUE_RL
from critique_rl.training.critique_reward import CritiqueReward, Grader
from critique_rl.training.stage_config import COLUMNS, CritiqueConfig, Stage1Config, Stage2Config
from critique_rl.training.trainer import CriticTrainer
from critique_rl.types import KINDS, Sampling, UserError, child_seed


class CritiqueTrainer(CriticTrainer):
    """Trains a critic with the rewards of Critique-RL; used like any trl trainer.

    Args:
        model: The critic to start from: a directory or hub id, or a `PeftModel` with a trainable adapter.
            The KL is taken to exactly these weights.
        actor: Frozen model that refines (and answers, with `response_source="online"`).
        args: The stage's configuration.
        train_dataset: Columns question, response, answer, kind, response_correct (see `pool.py`), or
            response_rating where replies are scored, and image if there is one (a path or a `data:` URL). The
            prompt set makes the prompts.
        grader: Grades refinements; by default `critique_rl.grading.grade_batch`. A `scoring.Rater` where they are
            scored.
        **options: Further arguments of `CriticTrainer`: eval_dataset, processing_class, callbacks, optimizers,
            peft_config.

    Raises:
        UserError: As of `CriticTrainer`, or an actor is needed and missing.
    """

    _name = CRITIQUE_RL.name
    _paper = CRITIQUE_RL.for_trl  # trl's cards cite it
    config_class: type[CritiqueConfig] = CritiqueConfig
    args: CritiqueConfig

    def __init__(
        self,
        model: str | Path | PreTrainedModel | PeftModel,
        actor: Actor | None = None,
        args: CritiqueConfig | None = None,
        train_dataset: Dataset | None = None,
        *,
        grader: Grader = grade_batch,
        **options: Any,
    ) -> None:
        args = args or self.config_class()
        if not isinstance(args, CritiqueConfig):
            raise UserError(f"args must be a {self.config_class.__name__}, got {type(args).__name__}.")
        if actor is None and (args.refinement_reward or args.response_source == "online"):
            raise UserError("this configuration asks an actor for text: pass `actor`.")
        self.actor, self.grader = actor, grader
        self._rows: list[dict[str, Any]] = []  # of the rollout in progress
        self._prompts = prompt_set(args.prompts)
        super().__init__(model, CritiqueReward(args, actor, grader), args, train_dataset, **options)

    def _with_prompts(self, dataset: Dataset, name: str) -> Dataset:
        """Check the columns and add the critic's prompt, which never holds the gold answer."""
        truth, type_of_truth = self.args.truth, bool if self.args.tolerance is None else float
        columns = {**COLUMNS, truth: type_of_truth}
        missing = sorted(set(columns) - set(dataset.column_names))
        if missing:
            raise UserError(
                f"{name} lacks the column(s) {', '.join(missing)}; it has {dataset.column_names}."
            )
        if len(dataset) == 0:
            raise UserError(f"{name} is empty.")
        for row, record in enumerate(dataset.select_columns(list(columns))):
            for column, kind in columns.items():
                if not isinstance(record[column], kind) or record[column] == "":
                    raise UserError(
                        f"{name}, row {row}, column '{column}': {record[column]!r} is no {kind.__name__}."
                    )
            if record["kind"] not in KINDS:
                kind_advice = f"none of {', '.join(KINDS)}: correct it in the file that the rows are from"
                raise UserError(f"{name}, row {row}, column 'kind': {record['kind']!r} is {kind_advice}.")
        prompts = self._prompts  # `map` pickles the function with all that it refers to: not the trainer
        return dataset.map(
            lambda row: {"prompt": prompts.critique_prompt(row["question"], row["response"])},
            desc="critic prompts" if len(dataset) > 10_000 else None,
        )

    def _balanced_labels(self, dataset: Dataset) -> list[bool] | None:
        return list(dataset[self.args.truth]) if self.args.balanced_rollouts else None

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        if self.args.response_source == "online":
            inputs = self._answer_online(inputs)
        self._rows = inputs
        return super()._generate_and_score_completions(inputs)

    def _generate(self, prompts: list[Any]) -> Any:
        generated = super()._generate(prompts)
        rows, self._rows = self._rows, []
        if rows and isinstance(reward := self.reward_funcs[0], CritiqueReward):
            columns = {key: [row[key] for row in rows] for key in rows[0]}
            reward.begin(generated[3], columns, self.state.global_step)  # the log-probabilities come next
        return generated

    def _answer_online(self, inputs: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Let the actor answer afresh, one response for each group of critiques, in place of the pool's."""
        args = self.args
        group = self.num_generations if self.model.training else self.num_generations_eval
        heads = inputs[::group]  # the first row of each group
        whole = len(inputs) % group == 0 and all(
            row["question"] == heads[i // group]["question"] for i, row in enumerate(inputs)
        )
        if self.actor is None or not whole:
            raise UserError("online responses need an actor and whole groups of critiques on each device.")
        seed = child_seed(args.seed, "response", self.state.global_step, self.accelerator.process_index)
        generations = self.actor.generate(
            [self._prompts.reasoning_prompt(row["question"], image=row.get("image")) for row in heads],
            Sampling(args.response_max_tokens, temperature=args.response_temperature, seed=seed),
        )
        replies = [g.after(self._prompts.reasoning_prefill) for g in generations]
        items = [
            {"question": row["question"], "gold": row["answer"], "reply": y, "kind": row["kind"]}
            for row, y in zip(heads, replies, strict=True)
        ]
        fresh = []
        for row, y, o in zip(heads, replies, where_replied(self.grader, items), strict=True):
            prompt = self._prompts.critique_prompt(row["question"], y or "")
            fresh += [{**row, "response": y or "", args.truth: o, "prompt": prompt} for _ in range(group)]
        return fresh


class Stage1Trainer(CritiqueTrainer):
    """Stage I: the critic learns to discriminate, with r_dis alone (paper section 4.2, Eq. 7 and 8)."""

    config_class = Stage1Config


class Stage2Trainer(CritiqueTrainer):
    """Stage II: r_refine + beta_1 r_dis, held close to the Stage I critic (paper section 4.3, Eq. 9)."""

    config_class = Stage2Config
