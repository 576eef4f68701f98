"""The two stages of Critique-RL: rewards and data of `CritiqueTrainer`, of which the stages are presets.

Stage I and Stage II differ by data alone: which reward, which coefficients, which model the run starts from
and is held close to (arXiv 2510.24320, section 4 and Algorithm 1). Between verdict and reward Stage II has the
actor refine, and grades what it writes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from peft import PeftConfig, PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase, ProcessorMixin, TrainerCallback

from critique_rl import rewards
from critique_rl.actors.base import Actor
from critique_rl.citations import CRITIQUE_RL
from critique_rl.grading import grade_batch
from critique_rl.prompts import Verdict, parse_rating, parse_verdict, prompt_set
from critique_rl.trainer import CriticConfig, CriticTrainer, logged_images, one_of
from critique_rl.types import Sampling, UserError, child_seed

Grader = Callable[[Sequence[Mapping[str, str]]], Sequence[float | None]]
"""r_oracle for replies: True, False or a rating for each, None where there is none; `grade_batch` or a `Rater`."""

COLUMNS = {"question": str, "response": str, "answer": str, "kind": str}


@dataclass
class CritiqueConfig(CriticConfig):
    r"""Configuration of one stage: that of any critic, and the terms of the paper's rewards.

    Args:
        refinement_reward: `r_refine`, `r_delta` or `r_correction`; None never calls the actor (Stage I).
        combination: `additive` (paper, Eq. 9) or `gated` (released code) joining of refinement and r_dis.
        beta_1: Coefficient of r_dis beside a refinement reward; 0 drops it (`w/o discrimination`).
        signed_dis: r_dis in {-1, 1} instead of {0, 1} when it is the only reward.
        response_source: `pool` (released code: the dataset's responses) or `online` (Algorithm 1: the actor
            answers each question afresh).
        response_max_tokens: Most tokens of an online response.
        response_temperature: Sampling temperature of an online response.
        refinement_max_tokens: Most tokens of a refinement.
        refinement_temperature: Sampling temperature of a refinement; 0 is greedy.
        tolerance: Distance from the true rating at which r_dis of a scored reply reaches 0; None is for replies
            that are right or wrong.
        oracle_noise: Share of the labels o and o' that the rewards see inverted, by a hash of their text. What is
            logged of judgment and refinement uses the true ones.
    """

    refinement_reward: str | None = field(default=None, metadata={"help": "Eq. 4, 5 or 6; none in Stage I."})
    combination: str = field(default="additive", metadata={"help": "additive (Eq. 9) or gated (code)."})
    beta_1: float = field(default=0.2, metadata={"help": "Coefficient of r_dis in Stage II, section 5.1."})
    signed_dis: bool = field(default=False, metadata={"help": "r_dis in {-1, 1} when it stands alone."})
    response_source: str = field(default="pool", metadata={"help": "pool or online."})
    response_max_tokens: int = field(default=1024, metadata={"help": "Tokens of an online response."})
    response_temperature: float = field(default=0.7, metadata={"help": "Of an online response."})
    refinement_max_tokens: int = field(default=1024, metadata={"help": "Tokens of a refinement."})
    refinement_temperature: float = field(default=0.0, metadata={"help": "0 is greedy, as released."})
    tolerance: float | None = field(default=None, metadata={"help": "delta of r_dis for scored replies."})
    oracle_noise: float = field(default=0.0, metadata={"help": "Share of inverted labels in the rewards."})

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of("refinement_reward", self.refinement_reward, (None, *rewards.REFINEMENT_REWARDS))
        one_of("combination", self.combination, rewards.STAGE_2_REWARDS)
        one_of("response_source", self.response_source, ("pool", "online"))
        if self.combination == "gated" and self.refinement_reward is None:
            raise UserError("combination='gated' needs a refinement_reward; Stage I has none.")
        if self.tolerance is not None:
            self._check_scored()
        if not 0.0 <= self.oracle_noise < 0.5:
            raise UserError(f"oracle_noise={self.oracle_noise} is not between 0 and 0.5.")

    def _check_scored(self) -> None:
        """Refuse what has no meaning where replies are scored."""
        if self.tolerance is not None and self.tolerance <= 0:
            raise UserError(f"tolerance={self.tolerance} must be above 0.")
        of_grades = {
            "refinement_reward": self.refinement_reward in ("r_delta", "r_correction"),
            "combination": self.combination == "gated",
            "signed_dis": self.signed_dis,
            "oracle_noise": self.oracle_noise != 0.0,
        }
        for name, given in of_grades.items():
            if given:
                raise UserError(
                    f"{name}={getattr(self, name)!r} is for replies that are right or wrong; with tolerance="
                    f"{self.tolerance} they are scored."
                )

    @property
    def truth(self) -> str:
        """Column of the dataset that holds r_oracle(x, y)."""
        return "response_correct" if self.tolerance is None else "response_rating"


@dataclass
class Stage1Config(CritiqueConfig):
    """Stage I: reward r_dis, KL to the model the run starts from (the SFT critic). Paper Eq. 8."""


@dataclass
class Stage2Config(CritiqueConfig):
    """Stage II: reward r_refine + beta_1 r_dis, KL to the Stage I critic it starts from. Paper Eq. 9."""

    refinement_reward: str | None = field(default="r_refine", metadata={"help": "Eq. 4, 5 or 6."})


class CritiqueReward:
    """The reward of one stage for a batch of critiques, as one trl reward function.

    One function, because the terms need each other: gating decides which refinements are asked for at all,
    and a term that is unknown must take the whole row out of the baseline (trl counts a lone None as 0).

    Args:
        args: The stage's configuration.
        actor: Writes the refinements; None if the stage has no refinement reward.
        grader: Grades refinements, or rates them.
    """

    __name__ = "critique_reward"

    def __init__(self, args: CritiqueConfig, actor: Actor | None, grader: Grader) -> None:
        self.args, self.actor, self.grader = args, actor, grader
        self.prompts = prompt_set(args.prompts)

    def __call__(
        self,
        completions: list[Any],
        question: list[str],
        response: list[str],
        answer: list[str],
        kind: list[str],
        trainer_state: Any,
        log_extra: Callable[[str, list[Any]], None],
        log_metric: Callable[[str, float], None],
        **columns: Any,
    ) -> list[float | None]:
        """Reward each critique; see trl's reward functions for the arguments.

        Returns:
            One reward per critique, None where the refinement could not be graded.
        """
        args = self.args
        critiques = [c[0]["content"] if isinstance(c, list) else c for c in completions]
        truth, images = columns[args.truth], columns.get("image") or [None] * len(critiques)
        shown = {"question": question, "response": response, "answer": answer, args.truth: truth}
        for name, values in shown.items():
            log_extra(name, values)
        pictures = logged_images(columns.get("image"), args)
        if pictures is not None:
            log_extra("image", pictures)
        if args.tolerance is None:
            verdicts = [parse_verdict(critique) for critique in critiques]
            seen = self._with_noise(truth, question, response)
            dis = [rewards.r_dis(v, o) for v, o in zip(verdicts, seen, strict=True)]
            log_extra("verdict", [v.value for v in verdicts])
            _log_discrimination(verdicts, truth, log_metric)
        else:
            ratings = [parse_rating(critique) for critique in critiques]
            dis = [
                rewards.r_dis_scored(f, o, tolerance=args.tolerance)
                for f, o in zip(ratings, truth, strict=True)
            ]
            log_extra("rating", ratings)
            _log_ratings(ratings, truth, log_metric)
        log_extra("r_dis", dis)
        for value in dis:
            if value is not None:
                log_metric("reward/r_dis", value)
        if args.refinement_reward is None:
            if args.signed_dis:
                return [rewards.r_dis_signed(v, o) for v, o in zip(verdicts, seen, strict=True)]
            return dis

        # A gated critique with a wrong verdict is rewarded -1 whatever the actor makes of it: do not ask.
        asked = [i for i, d in enumerate(dis) if args.combination == "additive" or d]
        seed = child_seed(args.seed, "refinement", trainer_state.global_step, args.process_index)
        started = time.perf_counter()
        generations = self._actor().generate(
            [
                self.prompts.refinement_prompt(question[i], response[i], critiques[i], image=images[i])
                for i in asked
            ],
            Sampling(args.refinement_max_tokens, args.refinement_temperature, seed=seed),
        )
        log_metric("time/refine", time.perf_counter() - started)
        log_metric("tokens/actor", float(sum(g.prompt_tokens + g.completion_tokens for g in generations)))
        refined = [""] * len(critiques)
        for i, generation in zip(asked, generations, strict=True):
            refined[i] = self.prompts.refinement_prefill + generation.text
        started = time.perf_counter()
        graded: list[Any] = [None] * len(critiques)
        items = [
            {"question": question[i], "gold": answer[i], "reply": refined[i], "kind": kind[i]} for i in asked
        ]
        for i, grade in zip(asked, self.grader(items), strict=True):
            graded[i] = grade
        log_metric("time/grade", time.perf_counter() - started)
        log_extra("refinement", refined)
        if args.tolerance is None:
            log_extra("refinement_correct", graded)
            _log_refinement([truth[i] for i in asked], [graded[i] for i in asked], log_metric)
            reward = rewards.REFINEMENT_REWARDS[args.refinement_reward]
            after = self._with_noise(graded, question, refined)
            refinement = [reward(o, r) for o, r in zip(seen, after, strict=True)]
        else:
            log_extra("refinement_rating", graded)
            _log_rescoring(truth, graded, log_metric)
            refinement = [rewards.r_refine_scored(r) for r in graded]
        log_extra(args.refinement_reward, refinement)
        for value in refinement:
            if value is not None:
                log_metric(f"reward/{args.refinement_reward}", value)
        combine = rewards.STAGE_2_REWARDS[args.combination]
        return [combine(r, d, beta_1=args.beta_1) for r, d in zip(refinement, dis, strict=True)]

    def _with_noise(
        self, correct: Sequence[bool | None], questions: Sequence[str], replies: Sequence[str]
    ) -> list[bool | None]:
        """Labels as the rewards see them; equal replies to a question are wrongly labelled alike."""
        noise = self.args.oracle_noise
        if noise == 0.0:
            return list(correct)
        return [
            o if o is None or child_seed(self.args.seed, "oracle noise", x, y) >= noise * 2**31 else not o
            for o, x, y in zip(correct, questions, replies, strict=True)
        ]

    def _actor(self) -> Actor:
        if self.actor is None:
            raise UserError("this stage asks for refinements: pass an `actor` to the trainer.")
        return self.actor


def _log_discrimination(
    verdicts: Sequence[Verdict], correct: Sequence[bool | None], log_metric: Callable[[str, float], None]
) -> None:
    """One value per critique: trl averages them over the batch and over all ranks."""
    for verdict, o in zip(verdicts, correct, strict=True):
        log_metric("critic/parse_rate", float(verdict is not Verdict.UNPARSED))
        right = rewards.r_dis(verdict, o)
        if right is None:
            continue
        log_metric("critic/acc_dis", right)
        log_metric(f"critic/acc_dis_on_{'correct' if o else 'wrong'}", right)


def _log_refinement(
    correct: Sequence[bool | None], refined: Sequence[bool | None], log_metric: Callable[[str, float], None]
) -> None:
    for before, after in zip(correct, refined, strict=True):
        log_metric("actor/graded_rate", float(after is not None))
        if after is not None:
            log_metric("actor/acc_refine", float(after))
        if before is not None and after is not None:
            log_metric("actor/delta_ci", float(before and not after))
            log_metric("actor/delta_ic", float(after and not before))
            log_metric(
                "actor/delta_ci_given_correct" if before else "actor/delta_ic_given_wrong",
                float(before != after),
            )


def _log_ratings(
    ratings: Sequence[float | None], truth: Sequence[float | None], log_metric: Callable[[str, float], None]
) -> None:
    for rating, o in zip(ratings, truth, strict=True):
        log_metric("critic/parse_rate", float(rating is not None))
        if rating is not None and o is not None:
            log_metric("critic/mae_dis", abs(rating - o))
            log_metric("critic/mse_dis", (rating - o) ** 2)


def _log_rescoring(
    before: Sequence[float | None], after: Sequence[float | None], log_metric: Callable[[str, float], None]
) -> None:
    for o, r in zip(before, after, strict=True):
        log_metric("actor/graded_rate", float(r is not None))
        if r is not None:
            log_metric("actor/rating_refine", r)
        if o is not None and r is not None:
            log_metric("actor/delta_rating", r - o)


class CritiqueTrainer(CriticTrainer):
    """Trains a critic with the rewards of Critique-RL; used like any trl trainer.

    Args:
        model: The critic to start from: a directory or hub id, or a `PeftModel` with a trainable adapter.
            The KL is taken to exactly these weights.
        actor: Frozen model that refines (and answers, with `response_source="online"`).
        args: The stage's configuration.
        train_dataset: Columns question, response, answer, kind, response_correct (see `pool.py`), or
            response_rating where replies are scored, and image if there is one (a path or a `data:` URL); the
            prompt is made from them by the prompt set.
        eval_dataset: The same, for trl's evaluation loop.
        processing_class: Tokenizer, or processor of a model with vision; by default the model's.
        callbacks: As in `Trainer`.
        optimizers: As in `Trainer`.
        peft_config: Adapter to train instead of the full model.
        grader: Grades refinements; by default `critique_rl.grading.grade_batch`. A `scoring.Rater` where they are
            scored.

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
        eval_dataset: Dataset | None = None,
        processing_class: PreTrainedTokenizerBase | ProcessorMixin | None = None,
        callbacks: list[TrainerCallback] | None = None,
        optimizers: tuple[torch.optim.Optimizer | None, Any] = (None, None),
        peft_config: PeftConfig | None = None,
        grader: Grader = grade_batch,
    ) -> None:
        args = args or self.config_class()
        if not isinstance(args, CritiqueConfig):
            raise UserError(f"args must be a {self.config_class.__name__}, got {type(args).__name__}.")
        if actor is None and (args.refinement_reward or args.response_source == "online"):
            raise UserError("this configuration asks an actor for text: pass `actor`.")
        self.actor, self.grader = actor, grader
        self._prompts = prompt_set(args.prompts)
        super().__init__(
            model=model,
            reward=CritiqueReward(args, actor, grader),
            args=args,
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            processing_class=processing_class,
            callbacks=callbacks,
            optimizers=optimizers,
            peft_config=peft_config,
        )

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
        prompts = self._prompts  # `map` pickles what the function holds: not the trainer with its actor
        return dataset.map(
            lambda row: {"prompt": prompts.critique_prompt(row["question"], row["response"])},
            desc="critic prompts" if len(dataset) > 10_000 else None,
        )

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        if self.args.response_source == "online":
            inputs = self._answer_online(inputs)
        return super()._generate_and_score_completions(inputs)

    def _answer_online(self, inputs: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Replace the pool's responses by fresh ones of the actor, one for each group of critiques."""
        args = self.args
        group = self.num_generations if self.model.training else self.num_generations_eval
        heads = inputs[::group]
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
        responses = [self._prompts.reasoning_prefill + g.text for g in generations]
        grades = self.grader(
            [
                {"question": row["question"], "gold": row["answer"], "reply": y, "kind": row["kind"]}
                for row, y in zip(heads, responses, strict=True)
            ]
        )
        fresh = [
            {
                **row,
                "response": y,
                args.truth: o,
                "prompt": self._prompts.critique_prompt(row["question"], y),
            }
            for row, y, o in zip(heads, responses, grades, strict=True)
        ]
        return [dict(row) for row in fresh for _ in range(group)]


class Stage1Trainer(CritiqueTrainer):
    """Stage I: the critic learns to discriminate, with r_dis alone (paper section 4.2, Eq. 7 and 8)."""

    config_class = Stage1Config


class Stage2Trainer(CritiqueTrainer):
    """Stage II: r_refine + beta_1 r_dis, held close to the Stage I critic (paper section 4.3, Eq. 9)."""

    config_class = Stage2Config
