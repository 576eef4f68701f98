"""Settings of a whole run, and how its YAML file is read.

Neither touches the network or a model. Overrides win over the file, the file over the defaults, and the file's
`env` over the environment, as with trl's `TrlParser`.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from critique_rl.config.checks import at_least, one_of, unknown
from critique_rl.config.cold_start import ColdStartConfig
from critique_rl.config.data import LengthConfig, PoolConfig, TaskConfig
from critique_rl.config.evaluation import EvaluationConfig
from critique_rl.config.extensions import import_extensions
from critique_rl.config.methods import METHODS
from critique_rl.config.reading import environment_variables, override, parse_yaml, similar_file, typed
from critique_rl.config.training import RESERVED, StageConfig
from critique_rl.prompts import prompt_set
from critique_rl.tasks.scripted import SCRIPTED
from critique_rl.types import UserError

EXPERIMENTS = Path(__file__).resolve().parents[2] / "experiments"
"""Configurations, table scripts and results of a checkout; an installed package has none."""
SERVER_OPTIONS = ("concurrency", "timeout_s", "max_retries", "outage_s", "max_unknown", "seeded")
"""Options of `OpenAIActor` that leave the distribution of its texts as it is."""


@dataclass(frozen=True)
class RunConfig:
    """A whole run.

    Attributes:
        name: Name of the run; results go to `runs/<name>` unless `output` names another directory.
        base: Model that actor and critic start from: directory, hub id, or `tiny`, which the run trains itself.
        prompts: Name of the prompt set.
        train: Tasks of the cold start and of the pool; may be empty if no step asks a problem.
        stages: Training stages by name, in order.
        evaluation: Measurements after training.
        base_gguf: GGUF file inside `base`.
        actor: Frozen actor, with the settings of `make_actor`; empty is the SFT actor in this process, for which
            `batch_size` and `device` may be set.
        actor_server: Base URL of an OpenAI-compatible server with this run's own actor, or of several with commas
            between them; no step depends on it.
        actor_server_options: Options of the client of `actor_server`: `concurrency`, `timeout_s`, `max_retries`,
            `outage_s`, `max_unknown`, and `seeded: false` where it takes no seed; no step depends on them.
        cold_start: Supervised fine-tuning before RL.
        pool: The response pool.
        lengths: Token limits.
        scorer: Scorer of replies that are neither right nor wrong, with the settings of
            `critique_rl.actors.reward_model.make_scorer`; each stage then has a `tolerance`.
        min_pixels: Smaller images are scaled up to this area, by every model that the run loads; None leaves it to
            the base's processor. A server has limits of its own.
        max_pixels: Larger images are scaled down to this area.
        seeds: Seeds; each repeats pool, stages and evaluation.
        threads: CPU threads of torch; None keeps torch's own number.
        launch: accelerate configuration, relative to the configuration's folder, to start the run with;
            `--dry-run` plans for it. None is one process on this machine.
        output: Directory of the run.
        extensions: Python files, relative to the configuration's folder, and installed modules. They are imported
            first and add your own tasks, prompt sets, rewards and actor backends to the registries.
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
    actor_server_options: dict[str, Any] = field(default_factory=dict)
    cold_start: ColdStartConfig = field(default_factory=ColdStartConfig)
    pool: PoolConfig = field(default_factory=PoolConfig)
    lengths: LengthConfig = field(default_factory=LengthConfig)
    scorer: dict[str, Any] | None = None
    min_pixels: int | None = None
    max_pixels: int | None = None
    seeds: list[int] = field(default_factory=lambda: [0])
    threads: int | None = None
    launch: str | None = None
    output: str | None = None
    extensions: list[str] | None = None

    def check(self) -> None:
        """Refuse unknown names, numbers out of range, and settings that exclude each other.

        Raises:
            UserError: A setting is wrong. Names that an extension adds are unknown before its import.
        """
        parts: list[Any] = [*self.train, self.cold_start, self.pool, self.lengths, self.evaluation]
        for part in parts:
            part.check()
        prompt_set(self.prompts)
        if not self.seeds or len(set(self.seeds)) != len(self.seeds):
            raise UserError(f"seeds must be distinct and at least one, got {self.seeds}.")
        at_least(1, "", threads=self.threads, min_pixels=self.min_pixels, max_pixels=self.max_pixels)
        if "api_key" in self.actor or "api_key" in self.cold_start.teacher.actor:
            raise UserError("api_key: configurations are stored with results; set OPENAI_API_KEY instead.")
        for option in self.actor_server_options:
            one_of("actor_server_options", option, SERVER_OPTIONS)
        if self.scorer is not None and self.pool.balanced:
            raise UserError("pool.balanced: scored replies are neither right nor wrong; set it to false.")
        for row in self.evaluation.rows or ():
            one_of("evaluation.rows", row, ("no_critic", "sft", *self.stages))
        starts = ["sft", "actor"]
        for name, stage in self.stages.items():
            self._check_stage(name, stage, starts)
            starts.append(name)
        self._check_train()

    def _check_stage(self, name: str, stage: StageConfig, starts: Sequence[str]) -> None:
        """Check one stage; `starts` are the models that it may start from."""
        where = f"stages.{name}"
        if stage.start not in starts:
            raise UserError(
                f"{unknown(f'{where}.start', stage.start, starts)} A stage starts from one above it."
            )
        if not name.replace("_", "").isalnum() or name in RESERVED:
            raise UserError(
                f"stages: '{name}' is no name for a stage; use letters, digits and underscores, "
                f"and none of {', '.join(RESERVED)}."
            )
        for limit in ("min_pixels", "max_pixels"):
            if stage.trainer.get(limit) is not None:
                raise UserError(
                    f"{where}.trainer.{limit} would show this critic other images than the models beside it see: "
                    f"set `{limit}` of the run."
                )
        at_least(1, f"{where}.", checkpoint_rl_steps=stage.checkpoint_rl_steps)
        one_of(f"{where}.method", stage.method, list(METHODS))
        method = METHODS[stage.method]
        if self.scorer is not None and not method.scored:
            raise UserError(f"{where}.method: '{stage.method}' does not work with scored replies.")
        if (self.scorer is None) != (stage.trainer.get("tolerance") is None):
            raise UserError(f"{where}.trainer.tolerance goes with `scorer`: set both, or neither.")
        if not method.checkpoints and stage.checkpoint_rl_steps != StageConfig.checkpoint_rl_steps:
            remedy = f"set {where}.trainer.checkpoint_rl_steps" if method.by_rl else "leave it out"
            raise UserError(
                f"{where}.checkpoint_rl_steps has no effect with method '{stage.method}': {remedy}."
            )
        if not method.by_rl and (stage.lora or stage.keep_rl_steps):
            by_rl = ", ".join(name for name, info in METHODS.items() if info.by_rl)
            raise UserError(f"{where}: lora and keep_rl_steps are for {by_rl}.")
        if stage.lora and self.cold_start.lora:
            raise UserError(f"{where}.lora: RL goes on with the adapter of cold_start.lora; leave it out.")

    def _check_train(self) -> None:
        """Check that there are train problems where a step asks some, and that scripted texts fit them."""
        cold, tiny = self.cold_start, self.base == "tiny"
        stages = self.stages.values()
        asking = (METHODS[s.method].problems or not s.trainer.get("pairs", {}).get("origin") for s in stages)
        if not self.train and (tiny or cold.actor_sft or cold.critic_sft or any(asking)):
            raise UserError(
                "train is empty: name a task. Only a run without a cold start, whose stages all learn from "
                "pairs of `pairs.origin`, needs none."
            )
        if tiny and cold.base is None:
            raise UserError("base 'tiny' is trained by the run: cold_start.base must say how.")
        tasks = {task.name for task in self.train}
        foreign = len(tasks) > 1 or not tasks <= set(SCRIPTED) or self.prompts != "compact"
        if (tiny or cold.teacher.kind == "scripted") and foreign:
            raise UserError(
                "base 'tiny' and teacher 'scripted' need prompts 'compact' and exactly one of the tasks "
                f"{', '.join(SCRIPTED)}; got {', '.join(sorted(tasks))} with '{self.prompts}'."
            )

    @property
    def pixel_limits(self) -> dict[str, int]:
        """Limits of the area of images that are set, as `load_processor` takes them."""
        limits = {"min_pixels": self.min_pixels, "max_pixels": self.max_pixels}
        return {name: limit for name, limit in limits.items() if limit is not None}

    @property
    def own_actor(self) -> bool:
        """Whether the run makes its actor from the base, instead of loading another model."""
        return self.actor.get("backend", "transformers") == "transformers" and not self.actor.get("model")

    @property
    def loads_actor(self) -> bool:
        """Whether this process loads the actor's weights; else a server or a backend of the user answers."""
        return self.actor.get("backend", "transformers") == "transformers" and not self.actor_server

    def trains_adapter(self, stage: str) -> bool:
        """Whether a stage trains an adapter: its own, or that of the cold start or stage it starts from."""
        own = self.stages.get(stage)
        return own is not None and bool(own.lora or self.cold_start.lora or self.trains_adapter(own.start))

    @property
    def directory(self) -> Path:
        """Directory of the run's files."""
        return Path(self.output or f"runs/{self.name}")


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> RunConfig:
    """Read a run's YAML file, import its extensions, check it, and set the environment variables of its `env`.

    `env` is a mapping beside the settings, as with trl's `TrlParser`; it wins over variables that are set already.
    Results do not store it, and no step depends on it. It has no effect on libraries that were imported before;
    the command line imports all but numpy later.

    Args:
        overrides: `a.b.c=value` items that win over the file; the value is YAML. `env.NAME=value` works too.

    Raises:
        UserError: The file is missing or not valid YAML, a key is unknown or missing, a value has the wrong type,
            an extension does not exist, or the check fails.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"no config at {path}.{similar_file(path)}")
    try:
        data = parse_yaml(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not valid YAML: {error}") from error
    if not isinstance(data, dict):
        raise UserError(f"{path} holds no mapping of settings.")
    for item in overrides:
        override(data, item)
    environment = environment_variables(data.pop("env", {}), f"{path}: env")
    extensions = data.get("extensions")
    if isinstance(extensions, list):
        data["extensions"] = [str(path.parent / e) if str(e).endswith(".py") else e for e in extensions]
    if isinstance(data.get("launch"), str):
        data["launch"] = os.path.normpath(path.parent / data["launch"])
    config: RunConfig = typed(RunConfig, data, str(path))
    import_extensions(config.extensions or ())
    config.check()
    os.environ.update(environment)
    return config
