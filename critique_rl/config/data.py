"""Settings of data: tasks, the response pool and text lengths."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from critique_rl.config.checks import at_least, one_of
from critique_rl.types import UserError


@dataclass(frozen=True)
class TaskConfig:
    """Problems of one data set.

    Attributes:
        name: Name of the task, see `critique_rl.tasks.TASKS`.
        split: `train`, `validation` or `test`.
        source: Local file or directory in the published layout; None loads from the hub.
        limit: Largest number of problems, a subsample by `seed`; None takes all.
        seed: Seed of the subsample, or of a generated task.
        options: Options of the task's loader.
        exclude: Tasks whose problems are left out here, for instance the evaluation tasks.
        ungradable: Treatment of gold answers that cannot be graded: `refuse` is an error, `drop` leaves them out.
        label: Name in the results; None takes `name`.
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

    def check(self) -> None:
        """Refuse an unknown choice, and a label that cannot name a folder."""
        for task in self.exclude:
            task.check()
        one_of("ungradable", self.ungradable, ("refuse", "drop"))
        if not self.title.replace("_", "").replace("-", "").isalnum():
            raise UserError(f"label: '{self.title}' names a folder; use letters, digits, '_' and '-'.")

    @property
    def title(self) -> str:
        """Name in the results."""
        return self.label or self.name


@dataclass(frozen=True)
class PoolConfig:
    """The response pool D_RL.

    Attributes:
        problems: Number of train problems to answer; None takes all.
        samples: Responses drawn per problem.
        temperature: Sampling temperature of the responses.
        balanced: Keep as many right as wrong responses.
    """

    problems: int | None = None
    samples: int = 10
    temperature: float = 0.7
    balanced: bool = True

    def check(self) -> None:
        """Refuse numbers that are too small."""
        at_least(1, "pool.", problems=self.problems, samples=self.samples)
        at_least(0, "pool.", temperature=self.temperature)


@dataclass(frozen=True)
class LengthConfig:
    """Largest number of tokens of each text.

    Attributes:
        response: Limit of a response.
        critique: Limit of a critique.
        refinement: Limit of a refinement.
    """

    response: int = 1024
    critique: int = 1536
    refinement: int = 1024

    def check(self) -> None:
        """Refuse limits below one token."""
        at_least(1, "lengths.", response=self.response, critique=self.critique, refinement=self.refinement)
