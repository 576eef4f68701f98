"""Critique-RL (arXiv 2510.24320): the critic is trained online on r_dis, in Stage II on the refinement as well.

Both stages are this method with other options: reward, start and coefficients. See `critique_rl.training.stages`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from critique_rl.config.reading import check_options
from critique_rl.grading import grade_batch
from critique_rl.methods.base import Inputs, Rollout
from critique_rl.methods.rl import configured, run, starting_point
from critique_rl.training.stage_config import CritiqueConfig
from critique_rl.training.stages import CritiqueTrainer
from critique_rl.types import UserError

WHERE = "critique_rl"


def check(options: Mapping[str, Any]) -> None:
    """See `Method.check`; the options are the fields of `CritiqueConfig`."""
    check_options(CritiqueConfig, options, WHERE)
    configured(CritiqueConfig, WHERE, {"output_dir": "unused", **options}, every=1)


def arguments(inputs: Inputs, **overrides: Any) -> CritiqueConfig:
    """See `PlannedMethod.arguments`; the options of the stage win over the settings of the run."""
    check_options(CritiqueConfig, inputs.options, WHERE)
    lengths = inputs.lengths
    settings = {
        "output_dir": str(inputs.output),
        "seed": inputs.seed,
        "prompts": inputs.prompts.name,
        "max_completion_length": lengths.critique,
        "response_max_tokens": lengths.response,
        "refinement_max_tokens": lengths.refinement,
        **inputs.options,
        **overrides,
    }
    return configured(CritiqueConfig, WHERE, settings, every=inputs.checkpoint_rl_steps)


def rollout(args: CritiqueConfig) -> Rollout:
    """See `PlannedMethod.rollout`."""
    if not args.refinement_reward:
        return Rollout("r_dis", "responses", 0)
    reward = f"{args.refinement_reward} + {args.beta_1:g} r_dis, {args.combination}"
    return Rollout(reward, "responses", (args.generation_batch_size or 0) * args.refinement_max_tokens)


def train(inputs: Inputs) -> None:
    """See `Method.train`; it goes on from the last checkpoint."""
    args = arguments(inputs)
    asks_actor = args.refinement_reward is not None or args.response_source == "online"
    pool = inputs.pool
    if pool is None:
        raise UserError(f"{WHERE}: the run has no problems; name a task in `train`.")
    trainer = CritiqueTrainer(
        **starting_point(inputs, args),
        actor=inputs.actor if asks_actor else None,
        args=args,
        train_dataset=pool,
        grader=inputs.load_rater() or grade_batch,
    )
    run(trainer, inputs)
