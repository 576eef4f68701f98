"""TODO docstring."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from critique_rl.config.checks import _at_least, _one_of
from critique_rl.types import UserError


@dataclass(frozen=True)
class TaskConfig:
    """Problems of one data set.

    Attributes:
        name: Name of the task, see `critique_rl.tasks.TASKS`.
        split: `train`, `validation` or `test`.
        source: Local file or directory in the published layout; None is the hub.
        limit: Most problems, a subsample by `seed`; None takes all.
        seed: Seed of the subsample, or of a generated task.
        options: Options of the task's loader.
        exclude: Tasks whose problems are left out here, for instance those that are evaluated.
        ungradable: What becomes of problems whose gold answer cannot be graded: `refuse` or `drop`.
        label: How results call it; None takes the name.
    """

    name: str
    split: str = "train"
    source: str | None = None
    limit: int | None = None
    seed: int = 0
    options: dict[str, Any] = field(default_factory=dict)
    exclude: list[TaskConfig] = field(default_factory=list)
    ungradable: str = "refuse"
    label: str | None = None

    def __post_init__(self) -> None:
        _one_of("ungradable", self.ungradable, ("refuse", "drop"))
        if not self.title.replace("_", "").replace("-", "").isalnum():
            raise UserError(f"label: '{self.title}' names a folder; use letters, digits, '_' and '-'.")

    @property
    def title(self) -> str:
        """How results call it."""
        return self.label or self.name


@dataclass(frozen=True)
class PoolConfig:
    """The response pool D_RL.

    Attributes:
        problems: Train problems asked.
        samples: Responses drawn per problem.
        temperature: Of the draw.
        balanced: As many right as wrong responses.
    """

    problems: int | None = None
    samples: int = 10
    temperature: float = 0.7
    balanced: bool = True

    def __post_init__(self) -> None:
        _at_least(1, "pool.", problems=self.problems, samples=self.samples)
        _at_least(0, "pool.", temperature=self.temperature)


@dataclass(frozen=True)
class LengthConfig:
    """Most tokens of each text.

    Attributes:
        response: Of a response.
        critique: Of a critique.
        refinement: Of a refinement.
    """

    response: int = 1024
    critique: int = 1536
    refinement: int = 1024

    def __post_init__(self) -> None:
        _at_least(1, "lengths.", response=self.response, critique=self.critique, refinement=self.refinement)
