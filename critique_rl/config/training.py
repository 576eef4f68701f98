"""Settings of one training stage."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

RESERVED = ("actor", "sft", "no_critic", "pool", "evaluate", "judge", "benchmarks")
"""Names that no stage may have: other rows of the table and other folders of a seed use them."""


@dataclass(frozen=True)
class StageConfig:
    """One training: RL of the critic, or a baseline.

    Attributes:
        label: Row of the result table.
        start: Model to start from: `sft` (the SFT critic), `actor` or the name of a stage above. RL also keeps
            the critic close to this model.
        method: Name in `critique_rl.config.methods.METHODS`.
        trainer: Fields of `CritiqueConfig`, or the options of the baseline.
        lora: Fields of `peft.LoraConfig`; None trains all weights. Only for RL by our trainer.
        checkpoint_rl_steps: RL steps between resumable checkpoints, of which the last is kept. For `critique_rl`;
            the other methods by RL have it among their `trainer` options.
        keep_rl_steps: RL steps after which the critic is also kept as the model `STAGE@STEP`. Only where `lora` is
            allowed. None keeps none, and the table scripts keep each fifth of `stage1` and `stage2`.
    """

    label: str
    start: str = "sft"
    method: str = "critique_rl"
    trainer: dict[str, Any] = field(default_factory=dict)
    lora: dict[str, Any] | None = None
    checkpoint_rl_steps: int = 50
    keep_rl_steps: list[int] | None = None
