"""What every baseline is given: the start, actor, pool, prompts and lengths of the method it is compared with."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # the configuration knows the names of the baselines, and must not import all this for them
    from datasets import Dataset
    from peft import PeftConfig

    from critique_rl.actors.base import Actor
    from critique_rl.config.data import LengthConfig
    from critique_rl.prompts import PromptSet

FIRST = "first"
"""Folder, inside its output, of the first of a training's two parts."""


@dataclass(frozen=True)
class Inputs:
    """Inputs of one baseline's training.

    Attributes:
        start: Directory of the model that the training starts from: the SFT critic, or for actor-only methods
            the SFT actor.
        output: Directory to write; afterwards it holds model and tokenizer as `from_pretrained` takes them.
        actor: The frozen actor.
        pool: The response pool D_RL, see `critique_rl.pool.collect_pool`; None in a run without problems, whose
            methods bring their own data.
        prompts: Prompt set.
        lengths: Most tokens of each text.
        seed: Seed of all randomness.
        options: Settings of the stage, checked by the baseline's own `check`.
        on_progress: Called with finished pieces, all pieces and a note.
        lora: Adapter of methods that train by RL; None trains all weights.
        keep_rl_steps: RL steps after which these keep the model, in `output/rl_step-STEP`.
    """

    start: str
    output: Path
    actor: Actor
    pool: Dataset | None
    prompts: PromptSet
    lengths: LengthConfig
    seed: int
    options: Mapping[str, Any]
    on_progress: Callable[[int, int, str], None]
    lora: PeftConfig | None = None
    keep_rl_steps: Sequence[int] = ()
