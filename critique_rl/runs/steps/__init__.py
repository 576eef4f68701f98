"""Kinds of steps, one file a concern, in the order of their steps within a seed.

Plan, checks, subcommands, result rows and costs iterate over `STEP_KINDS`. A new kind is one module with an
object as `StepKind` describes it, and one line here. Models are imported when a step works, not before.
"""

from __future__ import annotations

from critique_rl.runs.kind import StepKind
from critique_rl.runs.steps.cold_start import ActorKind, BaseKind, SFTKind
from critique_rl.runs.steps.evaluate import EvaluateKind
from critique_rl.runs.steps.pairs import PairsKind
from critique_rl.runs.steps.policy_benchmarks import PolicyBenchmarksKind
from critique_rl.runs.steps.pool import PoolKind
from critique_rl.runs.steps.reward_benchmarks import RewardBenchmarksKind
from critique_rl.runs.steps.train import TrainKind

STEP_KINDS: dict[str, StepKind] = {
    "base": BaseKind(),
    "actor": ActorKind(),
    "sft": SFTKind(),
    "pool": PoolKind(),
    "train": TrainKind(),
    "evaluate": EvaluateKind(),
    "pairs": PairsKind(),
    "reward_benchmarks": RewardBenchmarksKind(),
    "policy_benchmarks": PolicyBenchmarksKind(),
}
"""Kinds of steps by name."""


def commands() -> tuple[str, ...]:
    """Subcommands that run steps, each once."""
    return tuple(dict.fromkeys(kind.command for kind in STEP_KINDS.values()))
