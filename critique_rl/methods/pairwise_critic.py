"""The critic of LLaVA-Critic-R1: GRPO on which of two responses is better, and no text about either.

A pair is a right and a wrong response of the pool to one problem, or comes from a published set. The trained model
is critic and policy at once: it also answers in the actor's place.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from datasets import Dataset
from transformers import AutoTokenizer

from critique_rl.config.reading import check_options
from critique_rl.critic_data import (
    PreferencePair,
    decontaminate,
    drop_long,
    load_benchmark,
    load_pairs,
    pairs_of_responses,
    store_image,
    subsample_pairs,
    token_length,
)
from critique_rl.critic_data.benchmarks import HUB as REWARD_BENCHMARKS
from critique_rl.methods.base import Inputs, Rollout
from critique_rl.methods.rl import rl_args, run, starting_point
from critique_rl.records import written_once
from critique_rl.training.pairwise import PairwiseCriticConfig, PairwiseCriticTrainer
from critique_rl.types import UserError, child_seed, nearest
from critique_rl.vision.models import is_vision_model, load_processor


@dataclasses.dataclass(frozen=True)
class PairOptions:
    """Source of the pairs.

    Attributes:
        origin: File, folder or name that `critic_data.load_pairs` takes; None makes them of the pool.
        settings: Further arguments of `load_pairs`.
        most: Most pairs of one problem, where the pool gives them.
        ties: Also pairs of two right or two wrong responses of the pool; only with `ties` of the trainer.
        share: Share of the pairs that is kept, drawn by a hash of their identity.
        limit: Most pairs, a subsample by the seed; None takes all.
        max_prompt_tokens: Most tokens of a prompt, image included; pairs with longer ones are left out.
        keep_out: Files of benchmarks by name, `hub` for the published one; pairs with their images or texts are
            left out.
    """

    origin: str | None = None
    settings: dict[str, Any] = dataclasses.field(default_factory=dict)
    most: int = 1
    ties: bool = False
    share: float = 1.0
    limit: int | None = None
    max_prompt_tokens: int | None = None
    keep_out: dict[str, str] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        known = list(inspect.signature(load_pairs).parameters)[1:]
        for name, file in self.keep_out.items():
            if file == "hub" and name not in REWARD_BENCHMARKS:
                raise UserError(f"pairs.keep_out: {nearest(name, REWARD_BENCHMARKS)} Of others give a file.")
        wrong = sorted(set(self.settings) - set(known))
        if wrong:
            raise UserError(f"pairs.settings: {wrong[0]!r} is none of {', '.join(known)}.")
        if self.origin is None and (self.settings or self.keep_out):
            raise UserError("pairs: settings and keep_out are for pairs from an `origin`.")
        if not 0.0 < self.share <= 1.0:
            raise UserError(f"pairs.share must be above 0 and at most 1, got {self.share}.")
        for name in ("most", "limit", "max_prompt_tokens"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UserError(f"pairs.{name} must be at least 1, got {value}.")


def check(options: Mapping[str, Any]) -> None:
    """See `Method.check`."""
    trainer_args(options, "pairwise_critic", output=Path("unused"), seed=0)
    pair_options(options)


def arguments(inputs: Inputs, **overrides: Any) -> PairwiseCriticConfig:
    """See `PlannedMethod.arguments`."""
    return trainer_args(
        {**inputs.options, **overrides},
        "pairwise_critic",
        output=inputs.output,
        seed=child_seed(inputs.seed, "pairwise_critic"),
        prompts=inputs.prompts.name,
        max_completion_length=inputs.lengths.critique,
    )


def rollout(args: PairwiseCriticConfig) -> Rollout:
    """See `PlannedMethod.rollout`."""
    return Rollout(f"{args.alpha:g} r_pref + {1 - args.alpha:g} r_format", "pairs", 0)


def train(inputs: Inputs) -> None:
    """See `Method.train`; it goes on from the last checkpoint."""
    args = arguments(inputs)
    pairs = dataset(pairs_of(inputs, ties=args.ties, seed=args.seed))
    run(PairwiseCriticTrainer(**starting_point(inputs, args), args=args, train_dataset=pairs), inputs)


def trainer_args(options: Mapping[str, Any], where: str, **fixed: Any) -> PairwiseCriticConfig:
    """Make the trainer's configuration from all options but `pairs`; arguments and errors as `rl.rl_args`."""
    settings = {name: value for name, value in options.items() if name != "pairs"}
    return rl_args(PairwiseCriticConfig, where, {}, settings, **fixed)


def pair_options(options: Mapping[str, Any]) -> PairOptions:
    """Read the option `pairs`.

    Raises:
        UserError: A field is unknown, or has no effect here.
    """
    given = options.get("pairs", {})
    check_options(PairOptions, given, "pairwise_critic.pairs")
    return PairOptions(**given)


def pairs_of(inputs: Inputs, *, ties: bool, seed: int) -> list[PreferencePair]:
    """Pairs that the options ask for.

    Pairs of an origin are read and filtered once, by rank 0. The output then holds them in `pairs.jsonl`, the
    images that rows had as bytes, and counts of dropped pairs in `pairs.json`.

    Args:
        inputs: Inputs of the method; the option `pairs` has the fields of `PairOptions`.
        ties: Whether pairs without a better response are kept.
        seed: Seed of a subsample.
    """
    options = pair_options(inputs.options)
    if options.origin is None:
        assert inputs.pool is not None  # checked with the configuration
        pairs = pairs_of_responses(inputs.pool, most=options.most, ties=options.ties)
    else:
        stored = written_once(inputs.output / "pairs.jsonl", lambda: _filtered(inputs, options, ties))
        pairs = [PreferencePair(**row) for row in stored]
    most = min(round(options.share * len(pairs)), options.limit or len(pairs))
    return subsample_pairs(pairs, max(most, 1), seed)


def _filtered(inputs: Inputs, options: PairOptions, ties: bool) -> list[dict[str, Any]]:
    selection = load_pairs(str(options.origin), **({"keep_ties": ties} | options.settings))
    for name, file in options.keep_out.items():
        benchmark = load_benchmark(REWARD_BENCHMARKS[name] if file == "hub" else file, name=name)
        selection = selection.through(lambda pairs, benchmark=benchmark: decontaminate(pairs, benchmark))
    if options.max_prompt_tokens is not None:
        limits = {name: inputs.options.get(name) for name in ("min_pixels", "max_pixels")}
        sees = is_vision_model(inputs.start)
        length = token_length(
            load_processor(inputs.start, **limits) if sees else AutoTokenizer.from_pretrained(inputs.start),
            lambda p: inputs.prompts.pairwise_prompt(p.question, p.response_1, p.response_2, ties=ties),
        )
        most = options.max_prompt_tokens
        selection = selection.through(lambda pairs: drop_long(pairs, length, max_length=most))
    selection.write_report(inputs.output / "pairs.json")
    images = inputs.output / "images"
    return [
        dataclasses.asdict(pair)
        | {"image": str(store_image(pair.image, images)) if isinstance(pair.image, bytes) else pair.image}
        for pair in selection.pairs
    ]


def dataset(pairs: list[PreferencePair]) -> Dataset:
    """Pairs as rows of the trainer; the column of images is left out where no pair has one."""
    rows = Dataset.from_list([dataclasses.asdict(p) for p in pairs])
    return rows if any(p.image is not None for p in pairs) else rows.remove_columns("image")
