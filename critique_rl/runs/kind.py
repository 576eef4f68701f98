"""The interface of a kind of step, and the plan: all steps of a run in order, each with settings and inputs."""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from critique_rl.config.reading import as_dict
from critique_rl.prompts import prompt_set
from critique_rl.runs.cost import Cost, time_alone
from critique_rl.runs.folder import Artifact, RunFolder
from critique_rl.runs.step import Step
from critique_rl.types import redacted

if TYPE_CHECKING:
    from critique_rl.runs.context import Context

ACTOR_SPEED = (
    *("batch_size", "cache_size", "concurrency", "device", "progress"),
    *("max_retries", "max_unknown", "outage_s", "timeout_s"),
)
"""Options of an actor that change its speed or patience, not its output: a run may go on with others."""


class Recipe(NamedTuple):
    """All that determines an artifact.

    Attributes:
        settings: Settings; a change of one is refused where the artifact exists.
        inputs: Names of the steps whose artifacts are read.
    """

    settings: Mapping[str, Any]
    inputs: Sequence[str] = ()


def _without_speed(actor: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in actor.items() if name not in ACTOR_SPEED}


class StepKind(ABC):
    """A kind of step. A new kind is one module with a subclass, and one line in `critique_rl.runs.steps`.

    Attributes:
        command: Subcommand that runs its steps; several kinds may share one.
        all_ranks: Whether its steps use every process of a distributed launch.
    """

    command: str
    all_ranks = False

    @abstractmethod
    def artifacts(self, folder: RunFolder, seed: int | None) -> Iterable[Artifact]:
        """Artifacts of one seed, or for None those that all seeds share."""

    @abstractmethod
    def plan(self, artifact: Artifact, plan: Plan) -> Recipe:
        """Settings and inputs of one artifact; loads no model and no data."""

    def check(self, context: Context) -> None:  # noqa: B027 - most kinds have nothing to check
        """Refuse what would fail hours later; called once, before any step works.

        Raises:
            UserError: The message names the setting and says what to do.
        """

    @abstractmethod
    def make(self, step: Step, context: Context) -> None:
        """Make one artifact, or go on with it after an interruption."""

    def rows(self, folder: RunFolder, seeds: Sequence[int]) -> Iterable[dict[str, Any]]:
        """Rows of the result table: `row`, `dataset`, `metrics`, `records`. By default a kind has none."""
        return ()

    def cost(self, folder: RunFolder, artifact: Artifact, size: Callable[[str], int | None]) -> Cost:
        """Cost of one finished artifact, from its files; its time alone where nothing else is recorded.

        Args:
            folder: Folder of the run.
            artifact: The artifact.
            size: Counts the weights of a model by its path.
        """
        return time_alone(self.command, artifact)


class Plan:
    """Steps of a run in order, each after its inputs.

    Args:
        folder: Folder of the run.
        kinds: Kinds of steps, in the order of their steps within a seed.

    Attributes:
        steps: The steps; artifacts that the package ships are inputs, but no steps.
        texts: Settings of every step that asks a model.
        data: Settings of every step that learns from train problems, or draws responses to them.
        actor: Settings of the actor, without those that change its speed alone.
    """

    def __init__(self, folder: RunFolder, kinds: Mapping[str, StepKind]) -> None:
        self.folder, self.config = folder, folder.config
        self.steps: list[Step] = []
        self._known: dict[str, Step] = {}
        prompts = prompt_set(self.config.prompts)
        self.texts: dict[str, Any] = {
            "prompts": {"name": prompts.name, "version": prompts.version},
            "lengths": as_dict(self.config.lengths),
        }
        self.data: dict[str, Any] = {**self.texts, "train": [as_dict(task) for task in self.config.train]}
        self.data |= self.config.pixel_limits
        if self.config.scorer is not None:
            self.data["scorer"] = self.config.scorer
        self.actor = _without_speed(self.config.actor)
        if folder.shipped is not None:
            origin = {"shipped": self.config.cold_start.shipped}
            self._ship("actor", {**origin, "actor": self.actor})
            self._ship("sft", origin)
        for seed in (None, *self.config.seeds):
            for name, kind in kinds.items():
                for artifact in kind.artifacts(folder, seed):
                    self._add(name, kind, artifact)

    def model_step(self, row: str, seed: int | None) -> str:
        """Name of the step that makes the model of a row; the actor's where the row has no model of its own."""
        name = row.partition("@")[0]
        if name == "no_critic":
            return "actor"
        return name if name in ("actor", "sft") else f"seed{seed}/{name}"

    def loading(self, row: str) -> dict[str, Any]:
        """How the trained model of a row is loaded for its measurement; empty where that is by default."""
        settings = _without_speed(self.config.evaluation.critic)
        return {"critic": settings} if settings and row != "no_critic" else {}

    def pool_step(self, seed: int | None) -> list[str]:
        """Name of the step that draws the pool, in a list; an empty list where there are no train problems."""
        return [f"seed{seed}/pool"] if self.config.train else []

    def _add(self, name: str, kind: StepKind, artifact: Artifact) -> None:
        recipe = kind.plan(artifact, self)
        inputs = {needed: self._known[needed].digest for needed in recipe.inputs}
        # As read back from a marker, which holds no secrets.
        settings = redacted(json.loads(json.dumps({**recipe.settings, "inputs": inputs})))
        step = Step(
            **vars(artifact),
            kind=name,
            command=kind.command,
            settings=settings,
            inputs=tuple(inputs),
            all_ranks=kind.all_ranks,
        )
        self._known[step.name] = step
        self.steps.append(step)

    def _ship(self, name: str, settings: dict[str, Any]) -> None:
        """Make an artifact of the package known as an input."""
        settings = redacted(settings)
        assert self.folder.shipped is not None
        directory, content = self.folder.shipped / name, hashlib.sha256()
        for path in sorted(directory.glob("*.safetensors")):
            content.update(path.read_bytes())
        settings = {name: content.hexdigest()[:16], **settings}
        self._known[name] = Step(name, directory, kind=name, command=name, settings=settings)
