"""What a run is: one typed, documented dataclass per concern, read from YAML and checked before any work.

A typo is refused with the nearest name; nothing here touches the network or a model. What wins is as with trl's
`TrlParser`: overrides over the file, the file over the defaults, and the file's `env` over the environment.
"""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import importlib.util
import os
import re
import sys
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from critique_rl.baselines import PLACES
from critique_rl.evaluation import Course
from critique_rl.prompts import prompt_set
from critique_rl.teachers import SCRIPTED
from critique_rl.types import UserError, nearest


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
class StageConfig:
    """One training: of the critic by RL, or a baseline.

    Attributes:
        label: Row of the result table.
        start: What it starts from, and is held close to by RL: `sft` (the SFT critic), `actor` or the name of a
            stage above.
        method: `critique_rl`, or a name in `critique_rl.baselines.BASELINES`.
        trainer: Fields of `CritiqueConfig`, or the options of the baseline.
        lora: Fields of `peft.LoraConfig`; None trains all weights. For RL by our trainer alone, not for
            every baseline, as is `keep_rl_steps`.
        checkpoint_rl_steps: A resumable checkpoint every so many RL steps; the last one is kept. For
            `critique_rl`; baselines that are trained by RL have it among their options.
        keep_rl_steps: RL steps after which the critic is kept as a model of its own, `STAGE@STEP`.
    """

    label: str
    start: str = "sft"
    method: str = "critique_rl"
    trainer: dict[str, Any] = field(default_factory=dict)
    lora: dict[str, Any] | None = None
    checkpoint_rl_steps: int = 50
    keep_rl_steps: list[int] = field(default_factory=list)


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


@dataclass(frozen=True)
class ProtocolConfig(Course):
    """How problems go through the protocol: a course, see `critique_rl.evaluation.Course`, and its temperatures.

    Attributes:
        response_temperature: 0 is greedy.
        critique_temperature: The same for critiques.
        refinement_temperature: The same for refinements.
    """

    response_temperature: float = 0.0
    critique_temperature: float = 0.0
    refinement_temperature: float = 0.0


@dataclass(frozen=True)
class PairEvaluationConfig:
    """How the models of a table are measured as critics of pairs.

    Attributes:
        samples: Candidates of each problem.
        temperature: Sampling temperature of the candidates.
        problems: Most problems of a task, a subsample by its seed; None takes all.
        pairs: Most held-out pairs, a subsample by the seed; None takes all.
        both_orders: Whether the knock-out judges each pair in both orders; held-out pairs always are.
        thinking: Whether a judgement without `</think>` is unparsed.
    """

    samples: int = 128
    temperature: float = 1.0
    problems: int | None = None
    pairs: int | None = None
    both_orders: bool = True
    thinking: bool = True

    def __post_init__(self) -> None:
        for name in ("samples", "problems", "pairs"):
            value = getattr(self, name)
            if value is not None and value < (2 if name == "samples" else 1):
                raise UserError(f"evaluation.pairwise.{name}={value} is too small.")


@dataclass(frozen=True)
class BenchmarkConfig:
    """A reward benchmark, judged in both orders, see `critique_rl.reward_benchmarks`.

    Attributes:
        name: `VL-RewardBench` or `MM-RLHF-RewardBench`.
        origin: Local file in the published layout; None is the hub.
        image_root: Where relative image paths start.
        thinking: Whether a judgement without `</think>` is unparsed.
    """

    name: str
    origin: str | None = None
    image_root: str | None = None
    thinking: bool = True


@dataclass(frozen=True)
class PolicyBenchmarksConfig:
    """Benchmarks of policies that lmms-eval measures, see `critique_rl.policy_benchmarks.command`.

    Attributes:
        benchmarks: Names from the paper; None takes all that have a task and are scored without another model.
        python: Interpreter of an environment with lmms-eval and this package; None is that of the run.
        model: Name of the model class in lmms-eval.
        model_args: Further arguments of that class, for instance `max_pixels`.
        thinking: Whether each question ends with the suffix of training, and what is boxed is scored.
        processes: Processes, one for each GPU.
        batch_size: Questions at once in each process.
        max_new_tokens: Most tokens of a reply.
    """

    benchmarks: list[str] | None = None
    python: str | None = None
    model: str = "qwen2_5_vl"
    model_args: dict[str, Any] = field(default_factory=dict)
    thinking: bool = True
    processes: int = 1
    batch_size: int = 1
    max_new_tokens: int = 2048

    def __post_init__(self) -> None:
        _at_least(
            1,
            "evaluation.policy_benchmarks.",
            processes=self.processes,
            batch_size=self.batch_size,
            max_new_tokens=self.max_new_tokens,
        )


@dataclass(frozen=True)
class EvaluationConfig:
    """How the rows of the table are measured.

    Attributes:
        tasks: What is asked; never used before. May be empty where there are benchmarks.
        protocol: How.
        out_of_domain: Tasks unlike those of training, for the tables alone.
        rows: Critics that are measured, of `no_critic`, `sft` and the stages; None takes all.
        pairwise: How they are measured as critics of pairs; None leaves it out.
        benchmarks: Reward benchmarks whose pairs they judge.
        policy_benchmarks: Benchmarks that lmms-eval asks those of them that are policies; None leaves it out.
        most_samples: Largest K of the scaling curves of the tables.
        sampled_problems: Problems of a task that these curves use; None takes all.
    """

    tasks: list[TaskConfig]
    protocol: ProtocolConfig = field(default_factory=ProtocolConfig)
    out_of_domain: list[TaskConfig] = field(default_factory=list)
    most_samples: int = 128
    sampled_problems: int | None = None
    rows: list[str] | None = None
    pairwise: PairEvaluationConfig | None = None
    benchmarks: list[BenchmarkConfig] = field(default_factory=list)
    policy_benchmarks: PolicyBenchmarksConfig | None = None

    def __post_init__(self) -> None:
        _at_least(1, "evaluation.", most_samples=self.most_samples, sampled_problems=self.sampled_problems)
        names = [f"{task.title}, {task.split}" for task in [*self.tasks, *self.out_of_domain]]
        if not names and not self.benchmarks:
            raise UserError("evaluation.tasks is empty.")
        if twice := _twice(names):  # name and split call the file of records
            raise UserError(f"evaluation.tasks names {twice} twice.")
        for key, tasks in (("tasks", self.tasks), ("out_of_domain", self.out_of_domain)):
            if twice := _twice([task.title for task in tasks]):  # it calls the rows of a table
                raise UserError(f"evaluation.{key} names {twice} twice: give one of them a `label`.")


def _twice(names: Sequence[str]) -> str | None:
    """The first name that stands there more than once."""
    return next((name for name in names if names.count(name) > 1), None)


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


TEACHERS = ("model", "reference", "scripted")
# Names of other rows and folders of a seed.
RESERVED = ("actor", "sft", "no_critic", "pool", "evaluate", "judge", "benchmarks")


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


def import_extensions(extensions: typing.Sequence[str]) -> None:
    """Import files and modules that add to the registries, each once in a process.

    Raises:
        UserError: There is none of that name. What goes wrong inside of one is raised as it is.
    """
    for given in extensions:
        if not given.endswith(".py"):
            if importlib.util.find_spec(given.partition(".")[0]) is None:
                raise UserError(f"extensions: no module '{given}' is installed; a file ends in .py.")
            importlib.import_module(given)
            continue
        path = Path(given).resolve()
        name = f"critique_rl_extension_{hashlib.sha256(str(path).encode()).hexdigest()[:16]}"
        if name in sys.modules:
            continue
        spec = importlib.util.spec_from_file_location(name, path)
        if spec is None or spec.loader is None or not path.is_file():
            raise UserError(f"extensions: no file at {given}.")
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        try:
            spec.loader.exec_module(module)
        except BaseException:
            del sys.modules[name]  # so that the next import fails as well, and not later
            raise


class _Loader(yaml.SafeLoader):
    """Reads `1e-4` as a number, as YAML 1.2, Python and trl do; to YAML 1.1 it is text."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+\Z"), list("-+0123456789")
)


def parse_yaml(text: str) -> Any:
    """Read YAML as all settings are read.

    >>> parse_yaml("[1e-4, 3, yes, tiny]")
    [0.0001, 3, True, 'tiny']
    """
    return yaml.load(text, Loader=_Loader)  # a safe loader


def _near(path: Path) -> str:
    """A file that may have been meant: of the same folder, or a preset that is called by its name alone."""
    there = [*path.parent.glob("*.yaml"), *Path("experiments/configs").glob("*.yaml")]
    by_name = {known.stem: known for known in reversed(there)}  # the same folder wins
    close = difflib.get_close_matches(path.name.removesuffix(".yaml"), by_name, n=1)
    return f" Did you mean {by_name[close[0]]}?" if close else ""


def _environment(given: Any, where: str) -> dict[str, str]:
    """Environment variables as trl writes them, `str(value)`."""
    if not isinstance(given, dict):
        raise UserError(f"{where} must be a mapping of environment variables, got {given!r}.")
    for name, value in given.items():
        if not isinstance(name, str) or not name.isidentifier():
            raise UserError(f"{where}: {name!r} is no name of an environment variable.")
        if not isinstance(value, str | int | float) or "\0" in str(value):
            raise UserError(f"{where}.{name} must be a text, a number, true or false, got {value!r}.")
    return {name: str(value) for name, value in given.items()}


def as_dict(config: Any) -> dict[str, Any]:
    """The configuration as plain data, for result files and for comparison."""
    return dataclasses.asdict(config)


def differences(old: Any, new: Any, path: str = "") -> list[str]:
    """Lines `path: old -> new` for each setting in which two configurations differ."""
    if isinstance(old, dict) and isinstance(new, dict):
        lines = []
        for key in [*old, *(k for k in new if k not in old)]:
            lines += differences(old.get(key), new.get(key), f"{path}.{key}" if path else str(key))
        return lines
    return [] if old == new else [f"{path}: {old!r} -> {new!r}"]


def check_options(cls: type, options: Mapping[str, Any], where: str) -> None:
    """Check settings that are handed on to a dataclass: their names, and numbers and flags for their type.

    Args:
        cls: The dataclass, for instance trl's `SFTConfig`.
        options: Its fields, or some of them.
        where: How the configuration calls them.

    Raises:
        UserError: A name is unknown, or a value is of another type.
    """
    known = [f.name for f in dataclasses.fields(cls) if f.init]
    hints = typing.get_type_hints(cls)
    for key, value in options.items():
        if key not in known:
            raise UserError(unknown(f"{where}: setting", str(key), known))
        wanted = set(typing.get_args(hints[key]) or (hints[key],)) - {type(None)}
        if value is not None and (wanted in ({bool}, {int}) or (float in wanted and wanted <= {float, int})):
            _value(float if float in wanted else wanted.pop(), value, where, key)


def _override(data: dict[str, Any], item: str) -> None:
    key, equals, text = item.partition("=")
    names = key.split(".")
    if not equals or not all(names):
        raise UserError(f"override '{item}' is not of the form key=value.")
    try:
        value = parse_yaml(text)
    except yaml.YAMLError as error:
        raise UserError(f"override '{item}': its value is not valid YAML.") from error
    place: Any = data
    for depth, name in enumerate(names, start=1):
        at: Any = name
        if isinstance(place, list):
            if not name.isdigit() or int(name) >= len(place):
                raise UserError(f"override '{item}': '{name}' is no place in a list of {len(place)}.")
            at = int(name)
        elif not isinstance(place, dict):
            raise UserError(f"override '{item}': '{names[depth - 2]}' holds no settings.")
        if depth == len(names):
            place[at] = value
        elif isinstance(place, dict) and place.get(at) is None:
            place[at] = {}
        place = place[at]


def build(cls: Any, data: dict[str, Any], source: str, path: str = "") -> Any:
    """Make a dataclass of `data`, the settings at `path` of `source`, checking names and types.

    Raises:
        UserError: A name is unknown, a setting is missing, or a value is of another type.
    """
    fields = {f.name: f for f in dataclasses.fields(cls)}
    hints = typing.get_type_hints(cls)
    where = f"{source}: {path}" if path else source
    for key in data:
        if key not in fields:
            raise UserError(unknown(f"{where}: setting", str(key), list(fields)))
    required = [
        n
        for n, f in fields.items()
        if f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
    ]
    missing = [name for name in required if name not in data]
    if missing:
        raise UserError(f"{where}: missing setting(s) {', '.join(missing)}.")
    inside = f"{path}." if path else ""
    return cls(**{key: _value(hints[key], value, source, inside + key) for key, value in data.items()})


def _value(hint: Any, value: Any, source: str, path: str) -> Any:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    where = f"{source}: {path}"
    if origin in (types.UnionType, typing.Union):
        if value is None and type(None) in args:
            return None
        return _value(next(a for a in args if a is not type(None)), value, source, path)
    if dataclasses.is_dataclass(hint):
        if not isinstance(value, dict):
            raise UserError(f"{where} must be a mapping of settings, got {value!r}.")
        return build(hint, value, source, path)
    if origin is list:
        if not isinstance(value, list):
            raise UserError(f"{where} must be a list, got {value!r}.")
        return [_value(args[0], item, source, f"{path}[{i}]") for i, item in enumerate(value)]
    if origin is dict:
        if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
            raise UserError(f"{where} must be a mapping with names as keys, got {value!r}.")
        return {key: _value(args[1], item, source, f"{path}.{key}") for key, item in value.items()}
    if hint is Any:
        return value
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, hint) or (hint is int and isinstance(value, bool)):
        raise UserError(f"{where} must be {hint.__name__}, got {value!r}.")
    return value


def unknown(what: str, name: str, known: typing.Sequence[str]) -> str:
    """Message that `name` is none of the known names, with the nearest of them."""
    return f"{what} '{name}' is unknown. {nearest(name, known)}".rstrip()


def _one_of(what: str, name: str, known: typing.Sequence[str]) -> None:
    if name not in known:
        raise UserError(unknown(what, name, known))


def _at_least(least: int, where: str, **values: float | None) -> None:
    for name, value in values.items():
        if value is not None and not value >= least:
            raise UserError(f"{where}{name} must be at least {least}, got {value}.")
