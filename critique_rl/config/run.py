"""What a run is: one typed, documented dataclass per concern, read from YAML and checked before any work.

A typo is refused with the nearest name; nothing here touches the network or a model. What wins is as with trl's
`TrlParser`: overrides over the file, the file over the defaults, and the file's `env` over the environment.
"""

from __future__ import annotations

import os
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from critique_rl.config.checks import _at_least, _one_of, unknown
from critique_rl.config.cold_start import ColdStartConfig
from critique_rl.config.data import LengthConfig, PoolConfig, TaskConfig
from critique_rl.config.evaluation import EvaluationConfig
from critique_rl.config.extensions import import_extensions
from critique_rl.config.methods import PLACES
from critique_rl.config.reading import _environment, _near, _override, build, parse_yaml
from critique_rl.config.training import RESERVED, StageConfig
from critique_rl.prompts import prompt_set
from critique_rl.tasks.scripted import SCRIPTED
from critique_rl.types import UserError

EXPERIMENTS = Path(__file__).resolve().parents[2] / "experiments"
"""Configurations, table scripts and results of a checkout; an installed package has none."""


@dataclass(frozen=True)
class RunConfig:
    """A whole run.

    Attributes:
        name: Name of the run; results go to `runs/<name>` unless `output` says otherwise.
        base: Model that actor and critic start from: directory, hub id, or `tiny` for one made on the spot.
        prompts: Prompt set.
        train: Problems of the cold start and of the pool; may be empty if neither is needed.
        stages: RL stages in order, by name.
        evaluation: What is measured in the end.
        base_gguf: GGUF file inside `base`.
        actor: Frozen actor as `make_actor` takes it; empty is the SFT actor in this process. `batch_size` and
            `device` alone may be set for that.
        actor_server: Base URL of an OpenAI-compatible server that serves this run's own actor, once that is
            made; where it runs is no setting of any step.
        cold_start: Fine-tuning before RL.
        pool: The response pool.
        lengths: Token limits.
        scorer: What scores replies that are neither right nor wrong, as `critique_rl.scoring.make_scorer` takes
            it; each stage then has a `tolerance`.
        seeds: Every seed repeats pool, stages and evaluation.
        threads: CPU threads of torch; None leaves it alone.
        output: Directory of the run.
        extensions: Python files, found from the configuration's folder, and installed modules that are imported
            first. They put tasks, prompt sets, rewards and actor backends of one's own into the registries.
    """

    name: str
    base: str
    prompts: str
    train: list[TaskConfig]
    stages: dict[str, StageConfig]
    evaluation: EvaluationConfig
    base_gguf: str | None = None
    actor: dict[str, Any] = field(default_factory=dict)
    actor_server: str | None = None
    cold_start: ColdStartConfig = field(default_factory=ColdStartConfig)
    pool: PoolConfig = field(default_factory=PoolConfig)
    lengths: LengthConfig = field(default_factory=LengthConfig)
    scorer: dict[str, Any] | None = None
    seeds: list[int] = field(default_factory=lambda: [0])
    threads: int | None = None
    output: str | None = None
    extensions: list[str] | None = None

    def __post_init__(self) -> None:
        import_extensions(self.extensions or ())
        prompt_set(self.prompts)
        if not self.train and not self._brings_its_data():
            raise UserError(
                "train is empty: name a task. Only stages that learn from pairs of `pairs.origin` do "
                "without, where nothing is fine-tuned before."
            )
        if not self.seeds or len(set(self.seeds)) != len(self.seeds):
            raise UserError(f"seeds must be distinct and at least one, got {self.seeds}.")
        _at_least(1, "", threads=self.threads)
        if "api_key" in self.actor or "api_key" in self.cold_start.teacher.actor:
            raise UserError(
                "api_key: a configuration is stored with each result; set OPENAI_API_KEY instead."
            )
        if self.scorer is not None and self.pool.balanced:
            raise UserError("pool.balanced: scored replies are neither right nor wrong; set it to false.")
        self._check_scripted()
        for row in self.evaluation.rows or ():
            _one_of("evaluation.rows", row, ("no_critic", "sft", *self.stages))
        known = ["sft", "actor"]
        by_ours = ["critique_rl", *(name for name, place in PLACES.items() if place.by_rl)]
        for name, stage in self.stages.items():
            if stage.start not in known:
                raise UserError(
                    unknown(f"stages.{name}.start", stage.start, known) + " A stage starts from one above it."
                )
            if not name.replace("_", "").isalnum() or name in RESERVED:
                raise UserError(
                    f"stages: '{name}' is no name for a stage; use letters, digits and underscores, "
                    f"and none of {', '.join(RESERVED)}."
                )
            _at_least(1, f"stages.{name}.", checkpoint_rl_steps=stage.checkpoint_rl_steps)
            _one_of(f"stages.{name}.method", stage.method, ("critique_rl", *PLACES))
            if self.scorer is not None and stage.method != "critique_rl":
                raise UserError(
                    f"stages.{name}.method: '{stage.method}' is not made for replies with scores."
                )
            if (self.scorer is None) != (stage.trainer.get("tolerance") is None):
                raise UserError(
                    f"stages.{name}.trainer.tolerance goes with `scorer`: set both where replies are scored."
                )
            if stage.method != "critique_rl" and stage.checkpoint_rl_steps != StageConfig.checkpoint_rl_steps:
                where = (
                    f"set stages.{name}.trainer.checkpoint_rl_steps"
                    if stage.method in by_ours
                    else "leave it out"
                )
                raise UserError(
                    f"stages.{name}.checkpoint_rl_steps has no effect with method '{stage.method}': {where}."
                )
            if stage.method not in by_ours and (stage.lora or stage.keep_rl_steps):
                raise UserError(f"stages.{name}: lora and keep_rl_steps are for {', '.join(by_ours)}.")
            known.append(name)

    def check(self) -> None:
        """Refuse settings that do not go together."""

    def _brings_its_data(self) -> bool:
        """Whether no problem is ever asked in training."""
        cold = self.cold_start
        return not (self.base == "tiny" or cold.actor_sft or cold.critic_sft) and all(
            stage.method in ("pairwise_critic", "label_sft") and stage.trainer.get("pairs", {}).get("origin")
            for stage in self.stages.values()
        )

    def _check_scripted(self) -> None:
        """Scripted texts are of one task and one prompt set; elsewhere they would be nonsense."""
        if self.base == "tiny" and self.cold_start.base is None:
            raise UserError("base 'tiny' is made on the spot: cold_start.base must say how.")
        scripted = self.base == "tiny" or self.cold_start.teacher.kind == "scripted"
        tasks = {task.name for task in self.train}
        if scripted and (len(tasks) > 1 or not tasks <= set(SCRIPTED) or self.prompts != "compact"):
            raise UserError(
                f"base 'tiny' and teacher 'scripted' know one of the tasks {', '.join(SCRIPTED)} with prompts "
                f"'compact' alone, got {', '.join(sorted(tasks))} with '{self.prompts}'."
            )

    @property
    def own_actor(self) -> bool:
        """Whether the actor is one that the run makes from the base, and not one that was given."""
        return self.actor.get("backend", "transformers") == "transformers" and not self.actor.get("model")

    @property
    def loads_actor(self) -> bool:
        """Whether this process loads the actor's weights; else a server or a backend of one's own answers."""
        return self.actor.get("backend", "transformers") == "transformers" and not self.actor_server

    @property
    def directory(self) -> Path:
        """Where the run writes."""
        return Path(self.output or f"runs/{self.name}")


def load_config(path: str | Path, overrides: typing.Sequence[str] = ()) -> RunConfig:
    """Read a run's YAML file, and set the environment variables of its `env`.

    As in trl's `TrlParser`, `env` is a mapping beside the settings, and wins over a variable that is set already.
    It is no setting of the run: no result names it, and no step is refused because it has changed. What a library
    reads when it is imported must be set before that: from the command line all come after this but numpy.

    Args:
        path: The file.
        overrides: `a.b.c=value` items that win over the file; the value is YAML. `env.NAME=value` too.

    Raises:
        UserError: No such file, no valid YAML, an unknown or missing key, a value of the wrong type.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"no config at {path}.{_near(path)}")
    try:
        data = parse_yaml(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not valid YAML: {error}") from error
    if not isinstance(data, dict):
        raise UserError(f"{path} holds no mapping of settings.")
    for item in overrides:
        _override(data, item)
    environment = _environment(data.pop("env", {}), f"{path}: env")
    given = data.get("extensions")
    if isinstance(given, list):
        beside = [str(path.parent / e) if str(e).endswith(".py") else e for e in given]
        data["extensions"] = beside
    config: RunConfig = build(RunConfig, data, str(path))
    os.environ.update(environment)
    return config
