"""TODO docstring."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from critique_rl.config.checks import _at_least, _one_of
from critique_rl.types import UserError

TEACHERS = ("model", "reference", "scripted")


@dataclass(frozen=True)
class TeacherConfig:
    """Who writes the texts of the cold start, see `critique_rl.teachers`.

    Attributes:
        kind: `model` (the paper's recipe), `reference` or `scripted`.
        actor: Backend of `model`, as in `RunConfig.actor`.
        temperature: Sampling temperature of `model`.
        solver: Fields of `Solver`, for `scripted`.
        annotator: Fields of `Annotator`, for `scripted`.
        polished: The same, for the critiques that the actor learns to follow.
        judge: Fields of `Judge`, for `scripted`.
    """

    kind: str = "model"
    actor: dict[str, Any] = field(default_factory=dict)
    temperature: float = 0.7
    solver: dict[str, float] = field(default_factory=dict)
    annotator: dict[str, float] = field(default_factory=dict)
    polished: dict[str, float] = field(default_factory=dict)
    judge: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class BasePassConfig:
    """One pass of supervised training of a base that is made on the spot.

    Attributes:
        reasoning: Examples of reasoning.
        critiques: Examples of critiques of faulty responses.
        refinements: Examples of refinements after such critiques.
        sft: Fields of trl's `SFTConfig`.
        judgements: Examples of preferences between two faulty responses.
        polished: Fields of `Annotator`, for the critiques that refinements follow; empty takes that of the base.
            Where many of their explanations are wrong, only a base that reads them writes what the teacher writes.
    """

    reasoning: int
    critiques: int
    refinements: int
    sft: dict[str, Any]
    judgements: int = 0
    polished: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class BaseConfig:
    """How the base `tiny` is made: it learns the task and the formats from correct scripted texts.

    Attributes:
        solver: Fields of `Solver`: the faults of the responses that it learns to criticise.
        annotator: Fields of `Annotator`: how far its critiques go.
        passes: Passes over fresh texts, at least one.
    """

    solver: dict[str, float]
    annotator: dict[str, float]
    passes: list[BasePassConfig]

    def __post_init__(self) -> None:
        if not self.passes:
            raise UserError("cold_start.base.passes is empty: an untrained base cannot learn from RL.")


@dataclass(frozen=True)
class ColdStartConfig:
    """Supervised fine-tuning of base, actor and critic.

    Attributes:
        shipped: Directory with `actor` and `sft` made before; with it nothing is trained unless
            `--from-scratch` is given. Relative to the package.
        teacher: Writes the texts for actor and critic.
        base: How the base is made, if that is `tiny`.
        reasoning: Train problems whose reasoning the actor learns.
        refinements: How many of them it also learns to refine.
        judgements: Train problems with two responses of which the actor learns to say which is better; of a
            `scripted` teacher alone.
        critiques: Train problems with critiques, before the filter.
        actor_sft: Fields of trl's `SFTConfig`; empty takes the base as actor.
        critic_sft: Fields of trl's `SFTConfig`; empty takes the base as SFT critic.
        seed: Seed of the cold start, shared by all seeds of the run.
    """

    shipped: str | None = None
    teacher: TeacherConfig = field(default_factory=TeacherConfig)
    base: BaseConfig | None = None
    reasoning: int = 21_973
    refinements: int = 12_000
    judgements: int = 0
    critiques: int = 6_000
    actor_sft: dict[str, Any] = field(default_factory=dict)
    critic_sft: dict[str, Any] = field(default_factory=dict)
    seed: int = 0

    def __post_init__(self) -> None:
        _one_of("cold_start.teacher.kind", self.teacher.kind, TEACHERS)
        _at_least(1, "cold_start.", reasoning=self.reasoning, critiques=self.critiques)
        _at_least(0, "cold_start.", refinements=self.refinements, judgements=self.judgements)
        if self.judgements and self.teacher.kind != "scripted":
            raise UserError("cold_start.judgements: only the teacher `scripted` writes them; set it to 0.")
