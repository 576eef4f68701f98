"""Two-stage training of a critic: one trainer on trl's `GRPOTrainer`, of which the stages are presets.

Stage I and Stage II differ by data alone: which reward, which coefficients, which model the run starts from
and is held close to (arXiv 2510.24320, section 4 and Algorithm 1). The loop of one RL step is

    sample critiques -> read verdicts -> (refine, grade) -> reward -> advantages -> clipped update

of which trl owns the first and the last; the rewards are in `rewards.py`, the advantages in `objectives.py`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from peft import PeftConfig, PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase, TrainerCallback
from trl import GRPOConfig, GRPOTrainer
from trl.trainer.utils import RepeatSampler

from critique_rl import objectives, rewards
from critique_rl.actors.base import Actor
from critique_rl.grading import grade_batch
from critique_rl.prompts import Verdict, parse_rating, parse_verdict, prompt_set
from critique_rl.types import Sampling, UserError, child_seed
from critique_rl.value_model import ValueModel

Grader = Callable[[Sequence[Mapping[str, str]]], Sequence[float | None]]
"""r_oracle for replies: True, False or a rating for each, None where there is none; `grade_batch` or a `Rater`."""

COLUMNS = {"question": str, "response": str, "answer": str, "kind": str}


@dataclass
class CritiqueConfig(GRPOConfig):
    r"""Configuration of one stage. Everything that trl's `GRPOConfig` has, and the paper's terms.

    Defaults are the released run's where the paper is silent. An *RL step* is one rollout: its critiques are
    drawn once and used for `num_iterations` passes, which takes `optimizer_steps_per_rl_step` optimizer steps.

    Args:
        rl_steps: Length of the stage in RL steps; sets `max_steps`. None leaves `max_steps` alone.
        prompts: Name of the prompt set.
        refinement_reward: `r_refine`, `r_delta` or `r_correction`; None never calls the actor (Stage I).
        combination: `additive` (paper, Eq. 9) or `gated` (released code) joining of refinement and r_dis.
        beta_1: Coefficient of r_dis beside a refinement reward; 0 drops it (`w/o discrimination`).
        signed_dis: r_dis in {-1, 1} instead of {0, 1} when it is the only reward.
        advantage: `rloo` (paper), `grpo`, or `gae`: PPO with a value model, without a baseline from the group.
        gae_lambda: Lambda of generalised advantage estimation.
        value_learning_rate: Learning rate of the value model, constant.
        value_clip: Most that a value moves in the passes over one rollout, in units of the reward.
        whiten: Whether token advantages are whitened over the whole rollout batch.
        kl_placement: `reward` (paper: per-token KL, outside the baseline) or `loss` (trl's k3 term).
        kl_estimator: `k1` (released code), `k3` or `forward` (the direction the paper writes), in the reward.
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

    learning_rate: float = field(default=5e-7, metadata={"help": "Released script, both stages."})
    lr_scheduler_type: str = field(default="constant_with_warmup", metadata={"help": "Effectively constant."})
    adam_beta2: float = field(default=0.95, metadata={"help": "Released script."})
    max_grad_norm: float = field(default=1.0, metadata={"help": "Released script."})
    num_generations: int | None = field(default=4, metadata={"help": "k of RLOO, paper section 5.1."})
    num_iterations: int = field(default=2, metadata={"help": "Passes over one rollout, released script."})
    beta: float = field(default=0.01, metadata={"help": "KL coefficient, paper section 5.1."})
    epsilon: float = field(default=0.2, metadata={"help": "Clip range, released script."})
    temperature: float = field(
        default=0.7,
        metadata={
            "help": "Of sampling and of log-probabilities. The released code scores at 1 what it samples at "
            "0.7: temperature=1 with generation_kwargs={'temperature': 0.7}."
        },
    )
    max_completion_length: int | None = field(default=1536, metadata={"help": "Tokens of a critique."})
    loss_type: str = field(default="grpo", metadata={"help": "Token mean within a critique, then mean."})
    scale_rewards: str = field(default="none", metadata={"help": "Advantages are computed in objectives.py."})
    use_bias_correction_kl: bool = field(default=False, metadata={"help": "Plain k3 for kl_placement=loss."})
    disable_dropout: bool = field(default=True, metadata={"help": "Dropout is noise in ratios and KL."})
    logging_steps: float = field(default=0, metadata={"help": "0: once per RL step."})
    save_strategy: str = field(default="no", metadata={"help": "See `Trainer`."})

    rl_steps: int | None = field(default=None, metadata={"help": "Length in rollouts; sets max_steps."})
    prompts: str = field(default="paper", metadata={"help": "Name of the prompt set."})
    refinement_reward: str | None = field(default=None, metadata={"help": "Eq. 4, 5 or 6; none in Stage I."})
    combination: str = field(default="additive", metadata={"help": "additive (Eq. 9) or gated (code)."})
    beta_1: float = field(default=0.2, metadata={"help": "Coefficient of r_dis in Stage II, section 5.1."})
    signed_dis: bool = field(default=False, metadata={"help": "r_dis in {-1, 1} when it stands alone."})
    advantage: str = field(default="rloo", metadata={"help": "rloo, grpo or gae."})
    gae_lambda: float = field(default=0.95, metadata={"help": "Of gae; arXiv 2009.01325, with gamma 1."})
    value_learning_rate: float = field(default=9e-6, metadata={"help": "Of gae; released script's flag."})
    value_clip: float = field(default=0.2, metadata={"help": "Of gae; the implementations' clip of PPO."})
    whiten: bool = field(default=True, metadata={"help": "Whiten token advantages over the rollout."})
    kl_placement: str = field(default="reward", metadata={"help": "reward or loss."})
    kl_estimator: str = field(default="k1", metadata={"help": "k1, k3 or forward, in the reward."})
    response_source: str = field(default="pool", metadata={"help": "pool or online."})
    response_max_tokens: int = field(default=1024, metadata={"help": "Tokens of an online response."})
    response_temperature: float = field(default=0.7, metadata={"help": "Of an online response."})
    refinement_max_tokens: int = field(default=1024, metadata={"help": "Tokens of a refinement."})
    refinement_temperature: float = field(default=0.0, metadata={"help": "0 is greedy, as released."})
    tolerance: float | None = field(default=None, metadata={"help": "delta of r_dis for scored replies."})
    oracle_noise: float = field(default=0.0, metadata={"help": "Share of inverted labels in the rewards."})

    def __post_init__(self) -> None:
        log_each_rl_step = self.logging_steps == 0
        if log_each_rl_step:
            self.logging_steps = 1  # the right value needs steps_per_generation, which super() works out
        super().__post_init__()
        _one_of("refinement_reward", self.refinement_reward, (None, *rewards.REFINEMENT_REWARDS))
        _one_of("combination", self.combination, rewards.STAGE_2_REWARDS)
        _one_of("advantage", self.advantage, ("rloo", "grpo", "gae"))
        _one_of("kl_placement", self.kl_placement, ("reward", "loss"))
        _one_of("kl_estimator", self.kl_estimator, objectives.KL_ESTIMATES)
        _one_of("response_source", self.response_source, ("pool", "online"))
        if self.kl_placement == "loss" and self.kl_estimator != "k3":
            raise UserError("kl_placement='loss' is trl's k3 term: set kl_estimator='k3'.")
        if self.combination == "gated" and self.refinement_reward is None:
            raise UserError("combination='gated' needs a refinement_reward; Stage I has none.")
        if self.tolerance is not None:
            self._check_scored()
        if not 0.0 <= self.oracle_noise < 0.5:
            raise UserError(f"oracle_noise={self.oracle_noise} is not between 0 and 0.5.")
        if not 0.0 <= self.gae_lambda <= 1.0:
            raise UserError(f"gae_lambda={self.gae_lambda} is not between 0 and 1.")
        if self.value_learning_rate <= 0.0 or self.value_clip <= 0.0:
            raise UserError(
                f"value_learning_rate={self.value_learning_rate} and value_clip={self.value_clip} must be above 0."
            )
        if self.scale_rewards != "none" or self.reward_weights is not None:
            raise UserError(
                "scale_rewards and reward_weights have no effect: set `advantage`, `beta_1` and `combination`."
            )
        prompt_set(self.prompts)
        block = self.optimizer_steps_per_rl_step
        if self.rl_steps is not None:
            self.max_steps = self.rl_steps * block
        if log_each_rl_step:
            self.logging_steps = block
        if self.save_strategy == "steps" and self.save_steps % block:
            raise UserError(
                f"save_steps={self.save_steps} falls inside an RL step of {block} optimizer steps, from which "
                f"no run resumes exactly: make it a multiple of {block}."
            )

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

    @property
    def optimizer_steps_per_rl_step(self) -> int:
        """Optimizer steps for which the critiques of one rollout are used."""
        assert self.steps_per_generation is not None  # worked out by GRPOConfig
        steps = self.steps_per_generation * self.num_iterations
        if steps % self.gradient_accumulation_steps:
            raise UserError(
                f"gradient_accumulation_steps={self.gradient_accumulation_steps} does not divide the {steps} "
                "micro-batches of one RL step: an optimizer step would mix two rollouts."
            )
        return steps // self.gradient_accumulation_steps


@dataclass
class Stage1Config(CritiqueConfig):
    """Stage I: reward r_dis, KL to the model the run starts from (the SFT critic). Paper Eq. 8."""


@dataclass
class Stage2Config(CritiqueConfig):
    """Stage II: reward r_refine + beta_1 r_dis, KL to the Stage I critic it starts from. Paper Eq. 9."""

    refinement_reward: str | None = field(default="r_refine", metadata={"help": "Eq. 4, 5 or 6."})


def _one_of(name: str, value: object, allowed: Any) -> None:
    if value not in allowed:
        raise UserError(f"{name}={value!r} is none of {', '.join(repr(a) for a in allowed)}.")


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
        truth = columns[args.truth]
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
            [self.prompts.refinement_prompt(question[i], response[i], critiques[i]) for i in asked],
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


class CritiqueTrainer(GRPOTrainer):
    """Trains a critic with the rewards of Critique-RL; used like any trl trainer.

    Five private methods of trl's trainer are overridden and each calls `super()`; what they rely on is
    pinned by tests/test_trl_contract.py. Two more save and restore the value model of `advantage="gae"`.

    Args:
        model: The critic to start from: a directory or hub id, or a `PeftModel` with a trainable adapter.
            The KL is taken to exactly these weights.
        actor: Frozen model that refines (and answers, with `response_source="online"`).
        args: The stage's configuration.
        train_dataset: Columns question, response, answer, kind, response_correct (see `pool.py`), or
            response_rating where replies are scored; the prompt is made from them by the prompt set.
        eval_dataset: The same, for trl's evaluation loop.
        processing_class: Tokenizer; by default the model's.
        callbacks: As in `Trainer`.
        optimizers: As in `Trainer`.
        peft_config: Adapter to train instead of the full model.
        grader: Grades refinements; by default `critique_rl.grading.grade_batch`. A `scoring.Rater` where they are
            scored.

    Raises:
        UserError: The dataset lacks a column or holds an empty or mistyped value, a prompt exceeds the
            model's context, an actor is needed and missing, nothing is trainable, the reference is not
            the model that the run starts from, or a value model cannot be made from it.
    """

    _tag_names = ["critique-rl", "trl"]  # noqa: RUF012 - trl reads this class attribute for the model card
    _name = "Critique-RL"
    config_class: type[CritiqueConfig] = CritiqueConfig
    # What trl's wider annotations leave open, narrowed to what is true once `__init__` is done.
    args: CritiqueConfig
    model: Any
    train_dataset: Any
    processing_class: Any
    num_generations: int
    num_generations_eval: int
    max_completion_length: int

    def __init__(
        self,
        model: str | Path | PreTrainedModel | PeftModel,
        actor: Actor | None = None,
        args: CritiqueConfig | None = None,
        train_dataset: Dataset | None = None,
        eval_dataset: Dataset | None = None,
        processing_class: PreTrainedTokenizerBase | None = None,
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
        self.args, self.actor, self.grader = args, actor, grader
        self.value_model: ValueModel | None = None
        self._prompts = prompt_set(args.prompts)
        self._gathered_rewards: torch.Tensor | None = None
        self._anchor_checked = False
        super().__init__(
            model=str(model) if isinstance(model, Path) else model,
            reward_funcs=[CritiqueReward(args, actor, grader)],
            args=args,
            train_dataset=self._with_prompts(train_dataset, "train_dataset"),
            eval_dataset=None if eval_dataset is None else self._with_prompts(eval_dataset, "eval_dataset"),
            processing_class=processing_class,
            callbacks=callbacks,
            optimizers=optimizers,
            peft_config=peft_config,
        )
        if not any(p.requires_grad for p in self.model.parameters()):
            raise UserError(
                "no weight of the critic is trainable: load an adapter with "
                "PeftModel.from_pretrained(base, adapter, is_trainable=True)."
            )
        if args.advantage == "gae":
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

    def _check_context(self) -> None:
        context = getattr(self.model.config, "max_position_embeddings", None)
        if context is None:
            return
        for row, prompt in enumerate(self.train_dataset["prompt"]):
            length = len(
                self.processing_class.apply_chat_template(prompt, add_generation_prompt=True)["input_ids"]
            )
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
        if self.args.response_source == "online":
            inputs = self._answer_online(inputs)
        output = super()._generate_and_score_completions(inputs)
        mask_NT = output["completion_mask"]
        rewards_N, advantages_N = self._rewards_and_advantages(mask_NT.size(0))
        if self.beta != 0.0 and self.model.training and not self._anchor_checked:
            self._check_anchor(output)
        mask_NT = mask_NT * ~rewards_N.isnan().unsqueeze(1)  # a critique without reward teaches nothing
        if self.beta == 0.0 or self.args.kl_placement == "loss":
            kl_NT = torch.zeros_like(mask_NT, dtype=advantages_N.dtype)
        else:
            kl_NT = self._reward_kl(output)
        if self.value_model is None:
            advantages_NT = objectives.token_advantages(advantages_N, kl_NT, mask_NT, beta=self.beta)
        else:
            rewards_NT = objectives.token_rewards(advantages_N, kl_NT, mask_NT, beta=self.beta)
            advantages_NT = self.value_model.advantages(output, rewards_NT, mask_NT)
        if self.args.whiten:
            moments_3 = self.accelerator.reduce(objectives.masked_moments(advantages_NT, mask_NT), "sum")
            advantages_NT = objectives.whiten(advantages_NT, mask_NT, moments_3)
        output["advantages"] = advantages_NT
        self._record("tokens/critic", float(output["num_items_in_batch"]))
        self._record("time/rollout", time.perf_counter() - started)
        return output

    def _compute_loss(self, model: Any, inputs: dict[str, Any]) -> torch.Tensor:
        if self.value_model is not None and self.model.training:
            # With a backward pass of its own: the loss that is logged stays the critic's.
            self.value_model.learn(inputs, parts=self.current_gradient_accumulation_steps)
        if self.args.kl_placement == "loss":
            return super()._compute_loss(model, inputs)
        beta, self.beta = self.beta, 0.0  # the KL is in the advantages already
        try:
            return super()._compute_loss(model, inputs)
        finally:
            self.beta = beta

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
            advantages_BG = objectives.grpo_advantages(rewards_BG)
        else:  # the baseline is the value model's
            advantages_BG = rewards_BG.nan_to_num(nan=0.0)
        own = slice(self.accelerator.process_index * local, (self.accelerator.process_index + 1) * local)
        return rewards_BG.flatten()[own], advantages_BG.flatten()[own]

    def _reward_kl(self, output: dict[str, Any]) -> torch.Tensor:
        """(N, T) per-token KL to the stage's start."""
        estimate = objectives.KL_ESTIMATES[self.args.kl_estimator]
        kl_NT = estimate(self._old_logps(output), output["ref_per_token_logps"]) * output["completion_mask"]
        self._record("kl", self._token_mean(kl_NT, output["completion_mask"]))
        return kl_NT

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
                )
        return output["old_per_token_logps"]

    def _token_mean(self, values_NT: torch.Tensor, mask_NT: torch.Tensor) -> float:
        """Mean over all tokens of all ranks."""
        moments_3 = self.accelerator.reduce(objectives.masked_moments(values_NT, mask_NT), "sum")
        return (moments_3[0] / moments_3[2].clamp(min=1)).item()

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
            [self._prompts.reasoning_prompt(row["question"]) for row in heads],
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

    def _record(self, name: str, value: float) -> None:
        self._metrics["train" if self.model.training else "eval"][name].append(value)


class Stage1Trainer(CritiqueTrainer):
    """Stage I: the critic learns to discriminate, with r_dis alone (paper section 4.2, Eq. 7 and 8)."""

    config_class = Stage1Config


class Stage2Trainer(CritiqueTrainer):
    """Stage II: r_refine + beta_1 r_dis, held close to the Stage I critic (paper section 4.3, Eq. 9)."""

    config_class = Stage2Config


def load_critic(path: str) -> str | PeftModel:
    """What a stage starts from, so that its reference is exactly that.

    A directory of full weights is returned as it is: trl loads policy and reference from it. An adapter is
    loaded as trainable, and trl keeps a frozen copy of it as the reference; anything else would anchor the
    KL to the adapter's base model.
    """
    if not (Path(path) / "adapter_config.json").exists():
        return path
    from peft import AutoPeftModelForCausalLM

    adapted: PeftModel = AutoPeftModelForCausalLM.from_pretrained(path, is_trainable=True)
    return adapted
