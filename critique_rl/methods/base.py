"""Inputs of every method: start, actor, pool, prompts and lengths, the same for all methods of a run."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from critique_rl.display import Display

if TYPE_CHECKING:
    from datasets import Dataset
    from peft import PeftConfig

    from critique_rl.actors.base import Actor
    from critique_rl.config.data import LengthConfig
    from critique_rl.grading.scoring import Rater
    from critique_rl.prompts import PromptSet

FIRST = "first"
"""Folder, inside the output, of the first of two parts of a training."""


class Rollout(NamedTuple):
    """One RL step of a method in words and tokens.

    Attributes:
        reward: The reward as a formula.
        asked: What is criticised: `responses` or `pairs`.
        refinement_tokens: Most tokens of all refinements.
    """

    reward: str
    asked: str
    refinement_tokens: int


@dataclass(frozen=True)
class Inputs:
    """Inputs of one training. Actor, pool and rater are loaded when they are first asked for.

    Attributes:
        start: Directory of the model that the training starts from.
        output: Directory to write; afterwards it holds model and tokenizer as `from_pretrained` takes them.
        load_actor: Gives the frozen actor.
        load_pool: Gives the response pool D_RL, see `critique_rl.pool.collect_pool`; None in a run without
            problems, whose methods bring their own data.
        prompts: Prompt set.
        lengths: Most tokens of each text.
        seed: Seed of all randomness.
        options: Options of the stage, checked by the method's `check`.
        display: Where progress is shown.
        load_rater: Gives what scores replies; None where they are graded.
        lora: Adapter of methods that train by RL; None trains all weights.
        keep_rl_steps: RL steps after which methods by RL keep the model, in `output/rl_step-STEP`.
        checkpoint_rl_steps: RL steps between two checkpoints, for methods that take it of the stage.
        identity: Stands for all settings of the training; a checkpoint of another one is refused.
    """

    start: str
    output: Path
    load_actor: Callable[[], Actor]
    load_pool: Callable[[], Dataset | None]
    prompts: PromptSet
    lengths: LengthConfig
    seed: int
    options: Mapping[str, Any]
    display: Display = field(default_factory=lambda: Display(quiet=True))
    load_rater: Callable[[], Rater | None] = lambda: None
    lora: PeftConfig | None = None
    keep_rl_steps: Sequence[int] = ()
    checkpoint_rl_steps: int = 50
    identity: str = ""

    @property
    def actor(self) -> Actor:
        """The frozen actor."""
        return self.load_actor()

    @property
    def pool(self) -> Dataset | None:
        """The response pool D_RL."""
        return self.load_pool()

    @property
    def on_progress(self) -> Callable[[int, int, str], None]:
        """Shows progress; called with finished pieces, all pieces and a note."""
        return self.display.advance
