"""Settings of the cold start: its teacher, the base model and supervised fine-tuning."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from critique_rl.config.checks import at_least, one_of
from critique_rl.types import UserError


@dataclass(frozen=True)
class TeacherConfig:
    """Writer of the texts for the cold start, see `critique_rl.cold_start.teachers`.

    Attributes:
        kind: `model` (the paper's recipe), `reference` or `scripted`.
        actor: Backend of `model`, with settings like those of the run's `actor`.
        temperature: Sampling temperature of `model`.
        solver: Fields of `Solver`, for `scripted`.
        annotator: Fields of `Annotator`, for `scripted`.
        polished: Fields of `Annotator`, for the critiques that the actor learns to follow.
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
    """One pass of supervised training of the base `tiny`.

    Attributes:
        reasoning: Number of reasoning examples.
        critiques: Number of critiques of faulty responses.
        refinements: Number of refinements after critiques of faulty responses.
        sft: Fields of trl's `SFTConfig`.
        judgements: Number of preferences between two faulty responses.
        polished: Fields of `Annotator`, for the critiques before refinements; empty takes the base's `annotator`.
            Repeat the faults of the teacher's critiques here: only a base that has read such critiques learns to
            answer them as the teacher does.
    """

    reasoning: int
    critiques: int
    refinements: int
    sft: dict[str, Any]
    judgements: int = 0
    polished: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class BaseConfig:
    """Training of the base `tiny`: it learns the task and the formats from correct scripted texts.

    Attributes:
        solver: Fields of `Solver`: faults in the responses that the base learns to criticise.
        annotator: Fields of `Annotator`: how far the base's critiques go.
        passes: Passes over fresh texts, at least one.
    """

    solver: dict[str, float]
    annotator: dict[str, float]
    passes: list[BasePassConfig]


@dataclass(frozen=True)
class ColdStartConfig:
    """Supervised fine-tuning of base, actor and critic.

    Attributes:
        shipped: Directory with finished models `actor` and `sft`, relative to the package. They replace the
            training, except with `--from-scratch`.
        teacher: Writer of the texts for actor and critic.
        base: Training of the base `tiny`; None for any other base.
        reasoning: Number of train problems whose reasoning the actor learns.
        refinements: Number of these problems for which the actor also learns a refinement.
        judgements: Number of train problems with two responses for which the actor learns to name the better one;
            needs a `scripted` teacher.
        critiques: Number of train problems with critiques, before the filter.
        actor_sft: Fields of trl's `SFTConfig`; empty takes the base as actor.
        critic_sft: Fields of trl's `SFTConfig`; empty takes the base as SFT critic.
        lora: Fields of `peft.LoraConfig`: actor and SFT critic are adapters on the base, and RL goes on with the
            critic's. None trains all weights.
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
    lora: dict[str, Any] | None = None
    seed: int = 0

    def check(self) -> None:
        """Refuse an unknown teacher, numbers that are too small, and a base without training."""
        if self.base is not None and not self.base.passes:
            raise UserError("cold_start.base.passes is empty: an untrained base cannot learn from RL.")
        if self.lora is not None and self.base is not None:
            raise UserError(
                "cold_start.lora: a base that the run makes itself is trained whole; leave it out."
            )
        one_of("cold_start.teacher.kind", self.teacher.kind, ("model", "reference", "scripted"))
        at_least(1, "cold_start.", reasoning=self.reasoning, critiques=self.critiques)
        at_least(0, "cold_start.", refinements=self.refinements, judgements=self.judgements)
        if self.judgements and self.teacher.kind != "scripted":
            raise UserError("cold_start.judgements: only the teacher `scripted` writes them; set it to 0.")
