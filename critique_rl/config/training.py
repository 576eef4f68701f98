"""TODO docstring."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

# Names of other rows and folders of a seed.
RESERVED = ("actor", "sft", "no_critic", "pool", "evaluate", "judge", "benchmarks")


@dataclass(frozen=True)
class StageConfig:
    """One training: of the critic by RL, or a baseline.

    Attributes:
        label: Row of the result table.
        start: What it starts from, and is held close to by RL: `sft` (the SFT critic), `actor` or the name of a
            stage above.
        method: `critique_rl`, or a name in `critique_rl.baselines.BASELINES`.
        trainer: Fields of `CritiqueConfig`, or the options of the baseline.
        lora: Fields of `peft.LoraConfig`; None trains all weights. For RL by our trainer alone, not for
            every baseline, as is `keep_rl_steps`.
        checkpoint_rl_steps: A resumable checkpoint every so many RL steps; the last one is kept. For
            `critique_rl`; baselines that are trained by RL have it among their options.
        keep_rl_steps: RL steps after which the critic is kept as a model of its own, `STAGE@STEP`.
    """

    label: str
    start: str = "sft"
    method: str = "critique_rl"
    trainer: dict[str, Any] = field(default_factory=dict)
    lora: dict[str, Any] | None = None
    checkpoint_rl_steps: int = 50
    keep_rl_steps: list[int] = field(default_factory=list)
