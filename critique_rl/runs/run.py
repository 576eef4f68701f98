"""A run as steps with an artifact each: base, actor, SFT critic, and for each seed pool, stages, evaluation.

A finished step is skipped; one that was cut off goes on (RL from its last checkpoint, evaluation after its
last record); one whose settings have changed is refused with the difference shown.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from critique_rl.actors.reward_model import make_scorer
from critique_rl.benchmarks import PairJudgement, evaluate_benchmark, grouped_by_item, load_reward_benchmark
from critique_rl.benchmarks import policy as policy_benchmarks
from critique_rl.benchmarks.pairs import PairEvaluation
from critique_rl.cold_start.teachers import ModelTeacher, ReferenceTeacher, ScriptedTeacher, Teacher
from critique_rl.config.cold_start import TeacherConfig
from critique_rl.config.data import TaskConfig
from critique_rl.config.evaluation import BenchmarkConfig, ProtocolConfig
from critique_rl.config.extensions import import_extensions
from critique_rl.config.methods import PLACES
from critique_rl.config.reading import as_dict, check_options
from critique_rl.config.run import RunConfig
from critique_rl.display import Display
from critique_rl.evaluation.episodes import read_episodes
from critique_rl.evaluation.protocol import evaluate
from critique_rl.grading.scoring import Rater, Scorer
from critique_rl.prompts import prompt_set
from critique_rl.records import is_first_process, read_records, wait_for, written_once
from critique_rl.runs import preflight
from critique_rl.runs.problems import load_problems
from critique_rl.runs.protocol import protocol_of
from critique_rl.runs.step import KINDS, Step
from critique_rl.self_critique import ActorJudge
from critique_rl.tasks.scripted import SCRIPTED
from critique_rl.training.checkpoints import _convert_gguf, copy_model, last_checkpoint, merge_adapter
from critique_rl.types import Problem, Sampling, UserError, child_seed

if TYPE_CHECKING:
    from datasets import Dataset

    from critique_rl.actors import Actor
    from critique_rl.evaluation.intervals import ByProblem
    from critique_rl.training.config import CriticConfig

# Options of an actor that say how fast it writes, not what: a run may go on with others.
ACTOR_MEANS = (
    "batch_size",
    "cache_size",
    "concurrency",
    "device",
    "max_retries",
    "progress",
    "timeout_s",
)
LMMS_EVAL_MEANS = ("python", "processes", "batch_size")  # the same of lmms-eval
ROWS = {"no_critic": "No critic", "sft": "SFT critic"}


@dataclass(frozen=True)
class Measurement:
    """What one row of a table is measured on.

    Attributes:
        row: `no_critic`, `sft`, the name of a stage, or `STAGE@STEP` for the critic after an RL step that the
            stage keeps.
        task: What is asked.
        protocol: How.
        actor: Another actor than the run's own, as `make_actor` takes it: a path, a hub id or a URL.
        name: Tells it from another protocol with the same row and task; part of the folder's name.
    """

    row: str
    task: TaskConfig
    protocol: ProtocolConfig
    name: str = ""
    actor: str | None = None

    @property
    def stage(self) -> str:
        """The step that makes the critic."""
        return self.row.partition("@")[0]


class Run:
    """A configured run: its steps, and what each of them does.

    Args:
        config: The configuration.
        display: Where progress is shown.
        from_scratch: Make the cold-start models even if the package ships them.
        measurements: What is measured in the end; None takes all rows on all tasks of the configuration.
        judged: Rows that the benchmarks measure; None takes all.
    """

    def __init__(
        self,
        config: RunConfig,
        *,
        display: Display | None = None,
        from_scratch: bool = False,
        measurements: Sequence[Measurement] | None = None,
        judged: Sequence[str] | None = None,
    ) -> None:
        # This may be another process than that of the configuration.
        import_extensions(config.extensions or ())
        self.config = config
        self.display = display or Display()
        self.prompts = prompt_set(config.prompts)
        self.shipped: Path | None = None
        if config.cold_start.shipped and not from_scratch:
            self.shipped = shipped_directory(config.cold_start.shipped)
        measured = config.evaluation
        self.measurements = (
            [
                Measurement(row, task, measured.protocol)
                for task in measured.tasks
                for row in measured.rows or self.rows()
            ]
            if measurements is None
            else list(measurements)
        )
        judging = (measured.rows or self.rows()) if judged is None else judged
        self.benchmarks = [(row, b) for b in measured.benchmarks for row in judging]
        asked = measured.policy_benchmarks
        self.policies = [row for row in judging if self.is_policy(row)] if asked is not None else []
        self.measured_tasks = [
            m.task
            for i, m in enumerate(self.measurements)
            if m.task not in [earlier.task for earlier in self.measurements[:i]]
        ]
        self._problems: dict[str, list[Problem]] = {}
        self._actor: Actor | None = None
        self._scorer: Scorer | None = None

    # -- the plan -----------------------------------------------------------------------------------------

    def steps(self) -> list[Step]:
        """All steps in order."""
        config, steps = self.config, list[Step]()

        def add(
            name: str, kind: str, settings: dict[str, Any], run: Callable[[], None], *needs: Step
        ) -> Step:
            settings = {**settings, "inputs": {n.name: n.digest for n in needs}}
            plain = json.loads(json.dumps(settings))  # as it will be read back, for the comparison
            directory = config.directory / name
            steps.append(Step(name, kind, directory, plain, tuple(n.name for n in needs), run))
            return steps[-1]

        prompts = {"name": self.prompts.name, "version": self.prompts.version}
        lengths = as_dict(config.lengths)
        given = {key: value for key, value in config.actor.items() if key not in ACTOR_MEANS}
        data = {"prompts": prompts, "train": [as_dict(t) for t in config.train], "lengths": lengths}
        scored = {} if config.scorer is None else {"scorer": config.scorer}
        data |= scored
        if self.shipped is None:
            cold = as_dict(config.cold_start)
            origin = {"base": config.base, "base_gguf": config.base_gguf, "made": cold.pop("base")}
            base = add("base", "base", {**data, **origin, "seed": cold["seed"]}, self._make_base)
            actor = add(
                "actor", "actor", {**data, "cold_start": cold, "actor": given}, self._make_actor, base
            )
            sft = add("sft", "sft", {**data, "cold_start": cold}, self._make_sft, base, actor)
        else:
            origin = {"shipped": config.cold_start.shipped}
            made = {**origin, **_digest(self.shipped / "actor"), "actor": given}
            actor = Step("actor", "actor", self.shipped, made, (), _nothing)
            sft = Step("sft", "sft", self.shipped, origin | _digest(self.shipped / "sft"), (), _nothing)
        for seed in config.seeds:
            pools = []
            if config.train:
                pools.append(
                    add(
                        f"seed{seed}/pool",
                        "pool",
                        {**data, "pool": as_dict(config.pool), "seed": seed},
                        lambda seed=seed: self._make_pool(seed),  # type: ignore[misc]
                        actor,
                    )
                )
            critics = {"actor": actor, "sft": sft}
            for name, stage in config.stages.items():
                critics[name] = add(
                    f"seed{seed}/{name}",
                    "train",
                    {"stage": as_dict(stage), "prompts": prompts, "lengths": lengths, "seed": seed},
                    lambda seed=seed, name=name: self._train(seed, name),  # type: ignore[misc]
                    actor,
                    *pools,
                    critics[stage.start],
                )
            pairwise = [m for m in self.measurements if self.judges(m)]
            candidates = [self._sampled(m) for m in pairwise]
            held_out = [replace(m, row="no_critic") for m in candidates]
            evaluated = dict[str, Step]()
            for m in [*self.measurements, *candidates, *held_out]:
                name = self._measured(seed, m)
                if name in evaluated:
                    continue
                evaluated[name] = add(
                    name,
                    "evaluate",
                    {
                        "task": as_dict(m.task),
                        "protocol": as_dict(m.protocol),
                        "actor": m.actor,
                        "prompts": prompts,
                        "lengths": lengths,
                        "seed": seed,
                    },
                    lambda seed=seed, m=m: self._evaluate(seed, m),  # type: ignore[misc]
                    actor,
                    *(pools if scored else []),  # its scores give the scale of the ratings
                    *([critics[m.stage]] if m.stage in critics else []),
                )
            for m, drawn, own in zip(pairwise, held_out, candidates, strict=True):
                add(
                    self._judged(seed, m),
                    "judge",
                    {
                        "pairwise": as_dict(config.evaluation.pairwise),
                        "prompts": prompts,
                        "lengths": lengths,
                        "seed": seed,
                    },
                    lambda seed=seed, m=m: self._judge(seed, m),  # type: ignore[misc]
                    *(evaluated[n] for n in dict.fromkeys(self._measured(seed, x) for x in (drawn, own))),
                )
            for row, benchmark in self.benchmarks:
                add(
                    f"seed{seed}/judge/{row}/{benchmark.name}",
                    "judge",
                    {"benchmark": as_dict(benchmark), "prompts": prompts, "lengths": lengths, "seed": seed},
                    lambda seed=seed, row=row, b=benchmark: self._judge_benchmark(seed, row, b),  # type: ignore[misc]
                    critics.get(row.partition("@")[0], actor),
                )
            for row in self.policies:
                asked = self.policy_benchmarks()
                add(
                    f"seed{seed}/benchmarks/{row}",
                    "evaluate",
                    {"policy_benchmarks": {k: v for k, v in asked.items() if k not in LMMS_EVAL_MEANS}},
                    lambda seed=seed, row=row: self._measure_policy(seed, row),  # type: ignore[misc]
                    critics.get(row.partition("@")[0], actor),
                )
        return steps

    def is_policy(self, row: str) -> bool:
        """Whether the model of a row answers questions."""
        return row == "no_critic" or "actor" in self.roles(row)

    def judges(self, m: Measurement) -> bool:
        """Whether the model of a row is measured as a critic of pairs: a policy, with its own samples."""
        return self.config.evaluation.pairwise is not None and self.is_policy(m.row) and not m.name

    def _sampled(self, m: Measurement) -> Measurement:
        """The same with several samples of each problem."""
        how = self.config.evaluation.pairwise
        assert how is not None
        few = [n for n in (m.task.limit, how.problems) if n is not None]
        return replace(
            m,
            task=replace(m.task, limit=min(few, default=None)),
            protocol=ProtocolConfig(samples=how.samples, response_temperature=how.temperature),
            name="sampled",
        )

    def _judged(self, seed: int, m: Measurement) -> str:
        return f"seed{seed}/judge/{m.row}/{m.task.title}-{m.task.split}"

    def pair_evaluation(self, seed: int, m: Measurement) -> PairEvaluation:
        """A row's model as a critic of pairs; its samples must have been drawn."""
        how, sampled = self.config.evaluation.pairwise, self._sampled(m)
        assert how is not None
        return PairEvaluation(
            how,
            name=f"{m.row}, seed {seed}",
            held_out=read_episodes(self.records(seed, replace(sampled, row="no_critic"))),
            own=read_episodes(self.records(seed, sampled)),
            seed=child_seed(seed, "pairs"),
            directory=self.config.directory / self._judged(seed, m),
        )

    def _judge(self, seed: int, m: Measurement) -> None:
        self.pair_evaluation(seed, m).run(
            self._model(m.row, seed), self.prompts, self.config.lengths.critique, self.display.advance
        )

    def _model(self, row: str, seed: int) -> Actor:
        """The model of a row; that of `no_critic` is the actor."""
        from critique_rl.actors import TransformersActor

        return self.actor() if row == "no_critic" else TransformersActor(self.model_path(row, seed))

    def _judge_benchmark(self, seed: int, row: str, benchmark: BenchmarkConfig) -> None:
        judge = ActorJudge(
            self._model(row, seed),
            prompts=self.prompts,
            thinking=benchmark.thinking,
            max_tokens=self.config.lengths.critique,
        )
        found = evaluate_benchmark(
            load_reward_benchmark(benchmark.name, benchmark.origin, image_root=benchmark.image_root),
            judge,
            seed=seed,
            records=self.benchmark_records(seed, row, benchmark),
            name=f"{row}, seed {seed}",
            on_progress=self.display.advance,
        )
        table = self.benchmark_records(seed, row, benchmark).with_name("summary.json")
        table.write_text(json.dumps(found.summary, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")

    def benchmark_values(self, seed: int, row: str, benchmark: BenchmarkConfig) -> ByProblem:
        """Metrics by pair of a benchmark that was judged, see `reward_benchmarks.grouped_by_item`."""
        records = self.benchmark_records(seed, row, benchmark)
        return grouped_by_item(read_records(records, PairJudgement))

    def benchmark_records(self, seed: int, row: str, benchmark: BenchmarkConfig) -> Path:
        """File of the judgements of one row on one benchmark."""
        return self.config.directory / f"seed{seed}" / "judge" / row / benchmark.name / "pairs.jsonl"

    def policy_benchmarks(self) -> dict[str, Any]:
        """How lmms-eval is called, `policy_benchmarks.command`, with its benchmarks by name."""
        how = self.config.evaluation.policy_benchmarks
        assert how is not None
        return as_dict(how) | {"benchmarks": how.benchmarks or list(policy_benchmarks.SELF_SCORED)}

    def _measure_policy(self, seed: int, row: str) -> None:
        directory = self._policy_scores(seed, row)
        path = self.actor_path if row == "no_critic" else self.model_path(row, seed)
        merged = directory / "merged"
        if (Path(path) / "adapter_config.json").exists():
            path = merge_adapter(path, merged)
        policy_benchmarks.measure(path, directory, **self.policy_benchmarks())
        shutil.rmtree(merged, ignore_errors=True)

    def _policy_scores(self, seed: int, row: str) -> Path:
        return self.config.directory / f"seed{seed}" / "benchmarks" / row

    def benchmark_rows(self, arm: str, seeds: Sequence[int]) -> list[dict[str, Any]]:
        """Rows of one model for the result table, without its label: reward benchmarks, then policy benchmarks."""
        from critique_rl.evaluation.intervals import t_interval
        from critique_rl.evaluation.summary import summarise

        rows = []
        for row, benchmark in self.benchmarks:
            if row == arm:
                values = [self.benchmark_values(seed, row, benchmark) for seed in seeds]
                records = [str(self.benchmark_records(seed, row, benchmark)) for seed in seeds]
                rows.append((benchmark.name, summarise([[] for _ in values], values), records))
        if arm in self.policies:
            places = [self._policy_scores(seed, arm) for seed in seeds]
            scores = [policy_benchmarks.with_averages(policy_benchmarks.read_scores(p)) for p in places]
            for name in scores[0]:
                metrics = {"acc": t_interval([of[name] for of in scores])}
                rows.append((name, metrics, [str(p / policy_benchmarks.SCORES) for p in places]))
        return [{"dataset": name, "metrics": metrics, "records": paths} for name, metrics, paths in rows]

    def rows(self) -> dict[str, str]:
        """Rows of the result table: name of the critic -> label."""
        return ROWS | {name: stage.label for name, stage in self.config.stages.items()}

    def roles(self, row: str) -> tuple[str, ...]:
        """What the model of a row is in the protocol: `critic`, `actor`, both or, of `no_critic`, neither."""
        name = row.partition("@")[0]
        if name == "no_critic":
            return ()
        method = self.config.stages[name].method if name in self.config.stages else "critique_rl"
        return ("critic",) if method == "critique_rl" else PLACES[method].roles

    def execute(self, kinds: Sequence[str] = KINDS) -> None:
        """Run the steps, all or those of some kinds.

        Args:
            kinds: Of `KINDS`.

        Raises:
            UserError: Settings differ from those an artifact was made with, data or a server is missing
                (all checked before any step is run), or an input of a selected step is.
        """
        steps = self.steps()
        pending = [step for step in steps if not step.finished()]
        selected = [step for step in pending if step.kind in kinds]
        left_out = {step.name for step in pending} - {step.name for step in selected}
        for step in selected:
            missing = left_out.intersection(step.inputs)
            if missing:
                raise UserError(
                    f"step '{step.name}' needs {', '.join(sorted(missing))}: run that first, or "
                    "`critique-rl run`."
                )
        if selected:
            preflight.check(self)
        for step in selected:
            with self.display.step(step.name, steps.index(step) + 1, len(steps)):
                step.execute()

    # -- inputs -------------------------------------------------------------------------------------------

    def problems(self, task: TaskConfig) -> list[Problem]:
        """Problems of one task, loaded once.

        Raises:
            UserError: They cannot be loaded, or there are none.
        """
        key = json.dumps(as_dict(task), sort_keys=True)
        if key not in self._problems:
            self._problems[key] = load_problems(task, self.display)
        return self._problems[key]

    def train_problems(self, most: int | None, purpose: str) -> list[Problem]:
        """Train problems of all tasks in an order of `purpose`'s own, at most `most` of them."""
        every = [p for task in self.config.train for p in self.problems(task)]
        if most is not None and len(every) < most:
            self.display.note(f"{purpose}: {len(every):,} problems, not {most:,}")
        return sorted(every, key=lambda p: child_seed(0, purpose, p.id))[:most]

    def model_path(self, name: str, seed: int | None = None) -> str:
        """Directory of the actor, the SFT critic or, with a seed, a stage's critic, also `STAGE@STEP`."""
        if name in ("actor", "sft"):
            return str((self.shipped or self.config.directory) / name)
        stage, at, step = name.partition("@")
        directory = self.config.directory / f"seed{seed}" / stage
        return str(directory / f"rl_step-{step}" if at else directory)

    @property
    def actor_path(self) -> str:
        """Where the actor's weights are: as given, or in the run's folder."""
        return str(self.config.actor.get("model") or self.model_path("actor"))

    def actor(self) -> Actor:
        """The frozen actor, loaded or connected to on first use."""
        from critique_rl.actors import make_actor

        if self._actor is None:
            spec = dict(self.config.actor)
            if self.config.actor_server:
                spec = {"backend": "openai", "base_url": self.config.actor_server}
            if spec.setdefault("backend", "transformers") == "transformers":
                spec["model"] = self.actor_path
            self._actor = make_actor(spec)
        return self._actor

    def scorer(self) -> Scorer | None:
        """What scores replies, loaded on first use; None where they are graded."""
        if self._scorer is None and self.config.scorer is not None:
            self._scorer = make_scorer(self.config.scorer)
        return self._scorer

    def rater(self, seed: int) -> Rater | None:
        """The scorer with the scale that the pool of a seed gives it; None where replies are graded."""
        from critique_rl.pool import score_range

        scorer = self.scorer()
        return None if scorer is None else Rater(scorer, score_range(self._pool(seed)))

    def stage_args(self, seed: int, name: str, **overrides: Any) -> CriticConfig:
        """The trainer's configuration for one stage of method `critique_rl` or `pairwise_critic`.

        Args:
            seed: Seed of the run.
            name: The stage.
            overrides: Options that win over the stage's own.

        Raises:
            UserError: An option is unknown or invalid.
        """
        from peft import LoraConfig

        from critique_rl.methods import pairwise_critic
        from critique_rl.training.config import machine_defaults
        from critique_rl.training.stage_config import CritiqueConfig

        stage, lengths = self.config.stages[name], self.config.lengths
        if stage.method == "pairwise_critic":
            return pairwise_critic.trainer_args(
                {**stage.trainer, **overrides},
                stage.method,
                output=Path(self.model_path(name, seed)),
                seed=child_seed(seed, name),
                prompts=self.config.prompts,
                max_completion_length=lengths.critique,
            )
        check_options(CritiqueConfig, stage.trainer, f"stages.{name}.trainer")
        check_options(LoraConfig, stage.lora or {}, f"stages.{name}.lora")
        options: dict[str, Any] = {
            "output_dir": self.model_path(name, seed),
            "seed": child_seed(seed, name),
            "prompts": self.config.prompts,
            "max_completion_length": lengths.critique,
            "response_max_tokens": lengths.response,
            "refinement_max_tokens": lengths.refinement,
            "disable_tqdm": True,
            "report_to": "tensorboard",
            "save_total_limit": 1,
            **machine_defaults(),
            **stage.trainer,
            **overrides,
        }
        try:
            args = CritiqueConfig(**options)
            if "save_strategy" not in options:
                every = stage.checkpoint_rl_steps * args.optimizer_steps_per_rl_step
                args = CritiqueConfig(**options, save_strategy="steps", save_steps=every)
        except (TypeError, ValueError, UserError) as error:
            raise UserError(f"stages.{name}.trainer: {error}") from error
        return args

    # -- what the steps do --------------------------------------------------------------------------------

    def _make_base(self) -> None:
        from critique_rl.cold_start import sft as cold_start
        from critique_rl.cold_start import tiny

        config, made, directory = self.config, self.config.cold_start.base, self.config.directory / "base"
        if config.base_gguf and is_first_process():
            _convert_gguf(config.base, config.base_gguf, directory)
        if config.base != "tiny" or made is None:
            return
        task = config.train[0].name
        scripts = SCRIPTED[task]
        solver, annotator = scripts.solver, scripts.annotator
        faulty = ScriptedTeacher(solver(**made.solver), annotator(), annotator())
        start = directory / "untrained"
        if is_first_process() and not start.exists():
            temporary = directory / "untrained.new"
            tiny_seed = child_seed(config.cold_start.seed, "base")
            tiny.save_untrained(temporary, seed=tiny_seed, task=task)
            os.replace(temporary, start)  # no process may read what another still writes
        wait_for(start.exists)
        for number, part in enumerate(made.passes):
            followed = annotator(**(part.polished or made.annotator))
            teacher = ScriptedTeacher(solver(), annotator(**made.annotator), followed, scripts.judging())
            seed = child_seed(config.cold_start.seed, "base pass", number)
            examples = cold_start.base_examples(
                self.train_problems(None, "base"),
                teacher,
                faulty,
                self.prompts,
                reasoning=part.reasoning,
                critiques=part.critiques,
                refinements=part.refinements,
                judgements=part.judgements,
                seed=seed,
            )
            figures = cold_start.fine_tune(str(start), examples, directory, seed=seed, options=part.sft)
            start = directory
            self.display.note(f"base, pass {number + 1}: {_short(figures)}")

    def _make_actor(self) -> None:
        from critique_rl.cold_start import sft as cold_start

        config, cold = self.config, self.config.cold_start
        if not config.own_actor:
            return  # a given actor is not fine-tuned; the step's settings record which one it is

        def examples() -> list[cold_start.Example]:
            problems, teacher = self.train_problems(cold.reasoning, "reasoning"), self._teacher(cold.teacher)
            return cold_start.actor_examples(
                problems,
                self._drafts(problems[: cold.refinements], teacher),
                teacher,
                self.prompts,
                refinements=cold.refinements,
                judgements=cold.judgements,
                keep_wrong=cold.teacher.kind == "scripted",
                seed=cold.seed,
                scorer=self.scorer(),
            )

        self._fine_tune("actor", examples, cold.actor_sft)

    def _make_sft(self) -> None:
        from critique_rl.cold_start import sft as cold_start

        config, cold = self.config, self.config.cold_start

        def examples() -> list[cold_start.Example]:
            return cold_start.critic_examples(
                self.train_problems(cold.critiques, "critiques"),
                self.actor(),
                self._teacher(cold.teacher),
                self.prompts,
                response=Sampling(config.lengths.response, config.pool.temperature),
                refinement=Sampling(config.lengths.refinement),
                seed=cold.seed,
                scorer=self.scorer(),
            )

        self._fine_tune("sft", examples, cold.critic_sft)

    def _fine_tune(
        self, name: str, examples: Callable[[], list[dict[str, Any]]], options: dict[str, Any]
    ) -> None:
        """Make the actor or the SFT critic from the base; without options it is the base itself."""
        from critique_rl.cold_start import sft as cold_start

        directory = self.config.directory / name
        if not options:
            copy_model(self._base(), directory)
            self._card(name)
            return
        rows = written_once(directory / "examples.jsonl", examples)
        seed = self.config.cold_start.seed
        figures = cold_start.fine_tune(self._base(), rows, directory, seed=seed, options=options)
        self._card(name)
        self.display.note(_short(figures))

    def _make_pool(self, seed: int) -> None:
        from critique_rl.pool import collect_pool

        config = self.config
        directory = config.directory / f"seed{seed}" / "pool"
        pool = collect_pool(
            self.train_problems(config.pool.problems, "pool"),
            self.actor(),
            self.prompts,
            samples=config.pool.samples,
            sampling=Sampling(config.lengths.response, config.pool.temperature),
            balanced=config.pool.balanced,
            seed=seed,
            rounds=directory / "rounds",
            scorer=self.scorer(),
            on_progress=self.display.advance,
        )
        pool.save_to_disk(str(directory / "table"))

    def _pool(self, seed: int) -> Dataset:
        from datasets import load_from_disk

        # in memory, or `map` would leave its cache files in the pool's folder
        table = self.config.directory / f"seed{seed}" / "pool" / "table"
        return load_from_disk(str(table), keep_in_memory=True)

    def _train(self, seed: int, name: str) -> None:
        if self.config.stages[name].method == "critique_rl":
            self._train_critic(seed, name)
        else:
            self._train_baseline(seed, name)
        self._card(name, seed)

    def _card(self, name: str, seed: int | None = None) -> None:
        """Write the model card of a checkpoint, whose figures the report adds."""
        from critique_rl.reports.model_card import write_cards

        if is_first_process():
            write_cards(self, name, seed)

    def _train_baseline(self, seed: int, name: str) -> None:
        stage = self.config.stages[name]
        from peft import LoraConfig

        from critique_rl.methods import Inputs, baseline

        baseline(stage.method).train(
            Inputs(
                start=self.model_path(stage.start, seed),
                output=Path(self.model_path(name, seed)),
                actor=self.actor(),
                pool=self._pool(seed) if self.config.train else None,
                prompts=self.prompts,
                lengths=self.config.lengths,
                seed=child_seed(seed, name),
                options=stage.trainer,
                on_progress=self.display.advance,
                lora=LoraConfig(**stage.lora) if stage.lora else None,
                keep_rl_steps=stage.keep_rl_steps,
            )
        )

    def _train_critic(self, seed: int, name: str) -> None:
        from peft import LoraConfig
        from transformers import PrinterCallback

        from critique_rl.grading import grade_batch
        from critique_rl.training.callbacks import DisplayCallback, KeepCallback
        from critique_rl.training.checkpoints import load_critic
        from critique_rl.training.stage_config import CritiqueConfig
        from critique_rl.training.stages import CritiqueTrainer

        stage, args = self.config.stages[name], self.stage_args(seed, name)
        assert isinstance(args, CritiqueConfig)
        start = load_critic(self.model_path(stage.start, seed))
        trainer = CritiqueTrainer(
            model=start,
            actor=self.actor() if args.refinement_reward or args.response_source == "online" else None,
            args=args,
            train_dataset=self._pool(seed),
            callbacks=[DisplayCallback(self.display, args.optimizer_steps_per_rl_step)],
            peft_config=LoraConfig(**stage.lora) if stage.lora and isinstance(start, str) else None,
            grader=self.rater(seed) or grade_batch,
        )
        trainer.remove_callback(PrinterCallback)  # it prints every log to stdout where there is no bar
        output = self.model_path(name, seed)
        keep = KeepCallback(
            stage.keep_rl_steps,
            args.optimizer_steps_per_rl_step,
            lambda step: trainer.save_model(self.model_path(f"{name}@{step}", seed)),
        )
        trainer.add_callback(keep)
        trainer.train(resume_from_checkpoint=last_checkpoint(output))
        trainer.save_model(output)
        if is_first_process():
            trainer.state.save_to_json(str(Path(output) / "trainer_state.json"))
        trainer.accelerator.wait_for_everyone()  # no process may read what another still writes

    def _evaluate(self, seed: int, m: Measurement) -> None:
        from critique_rl.actors import TransformersActor, make_actor

        roles = self.roles(m.row)
        trained = TransformersActor(self.model_path(m.row, seed)) if roles else None
        if trained is not None and "actor" in roles:
            actor: Actor = trained
        else:
            actor = self.actor() if m.actor is None else make_actor(m.actor)
        evaluate(
            self.problems(m.task),
            actor,
            trained if "critic" in roles else None,
            protocol_of(m.protocol, self.prompts, self.config.lengths, seed),
            records=self.records(seed, m),
            rater=self.rater(seed),
            on_progress=self.display.advance,
        )

    def results(self) -> tuple[list[dict[str, Any]], dict[str, list[list[dict[str, Any]]]]]:
        """Rows of the result table, and the training log of each stage by label, one list per seed.

        Raises:
            UserError: A step is not finished.
        """
        from critique_rl.evaluation.measures import by_round
        from critique_rl.evaluation.summary import summarise

        unfinished = [step.name for step in self.steps() if not step.finished()]
        if unfinished:
            raise UserError(f"not finished: {', '.join(unfinished)}; run `critique-rl run` first.")
        rows = []
        for m in self.measurements:
            per_seed = [read_episodes(self.records(seed, m)) for seed in self.config.seeds]
            judged: list[ByProblem] = (
                [self.pair_evaluation(seed, m).values() for seed in self.config.seeds]
                if self.judges(m)
                else [{} for _ in self.config.seeds]
            )
            if m.protocol.rounds > 1:
                rounds = by_round(range(1, m.protocol.rounds + 1))
                judged = [{**of, **rounds(seed)} for of, seed in zip(judged, per_seed, strict=True)]
            measured = summarise([[e for e in seed if e.round == 0] for seed in per_seed], judged)
            rows.append({"method": self.rows()[m.stage], "dataset": m.task.title, "metrics": measured})
        for arm in dict.fromkeys([*(row for row, _ in self.benchmarks), *self.policies]):
            for found in self.benchmark_rows(arm, self.config.seeds):
                rows.append({"method": self.rows()[arm], **{k: found[k] for k in ("dataset", "metrics")}})
        order = list(dict.fromkeys(row["dataset"] for row in rows))
        rows.sort(key=lambda row: order.index(row["dataset"]))
        histories = {
            stage.label: [self.history(seed, name) for seed in self.config.seeds]
            for name, stage in self.config.stages.items()
        }
        return rows, histories

    def history(self, seed: int, name: str) -> list[dict[str, Any]]:
        """Log of a stage, one entry per RL step; empty of a method that keeps none."""
        path = Path(self.model_path(name, seed)) / "trainer_state.json"
        state = json.loads(path.read_text("utf-8")) if path.exists() else {"log_history": []}
        return [row for row in state["log_history"] if "critic/parse_rate" in row]

    def records(self, seed: int, measurement: Measurement) -> Path:
        """File of the per-item records of one measurement."""
        return self.config.directory / self._measured(seed, measurement) / "records.jsonl"

    @staticmethod
    def _measured(seed: int, m: Measurement) -> str:
        return "/".join(
            (
                "seed" + str(seed),
                "evaluate",
                m.row,
                "-".join(filter(None, (m.task.title, m.task.split, m.name))),
            )
        )

    # -- parts of the cold start --------------------------------------------------------------------------

    def _base(self) -> str:
        """The model that actor and critic start from, as `from_pretrained` takes it."""
        made = self.config.base == "tiny" or self.config.base_gguf
        return str(self.config.directory / "base") if made else self.config.base

    def _drafts(self, problems: Sequence[Problem], teacher: Teacher) -> list[str]:
        """Responses that the actor learns to refine: the teaching model's own, or the teacher's."""
        seed = child_seed(self.config.cold_start.seed, "drafts")
        if not isinstance(teacher, ModelTeacher):
            return teacher.solve(problems, seed=seed)
        sampling = Sampling(self.config.lengths.response, self.config.pool.temperature, seed=seed)
        prompts = [self.prompts.reasoning_prompt(p.question, image=p.image) for p in problems]
        return [g.text for g in teacher.model.generate(prompts, sampling)]

    def _teacher(self, teacher: TeacherConfig) -> Teacher:
        from critique_rl.actors import make_actor

        if teacher.kind == "model":
            tokens = self.config.lengths.critique
            model = make_actor({"backend": "transformers", **teacher.actor})
            return ModelTeacher(model, self.prompts, max_tokens=tokens, temperature=teacher.temperature)
        if teacher.kind == "reference":
            return ReferenceTeacher()
        scripts = SCRIPTED[self.config.train[0].name]
        return ScriptedTeacher(
            scripts.solver(**teacher.solver),
            scripts.annotator(**teacher.annotator),
            scripts.annotator(**teacher.polished),
            scripts.judging(**teacher.judge),
        )


def shipped_directory(name: str) -> Path:
    """Directory of cold-start models inside the package.

    Raises:
        UserError: It is not there.
    """
    directory = Path(str(files("critique_rl"))) / name
    if not (directory / "actor" / "config.json").exists():
        raise UserError(f"cold_start.shipped: no models at {directory}; run with --from-scratch.")
    return directory


def _short(figures: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {value:.4g}" for name, value in figures.items())


def _digest(directory: Path) -> dict[str, str]:
    """Content of a model directory as a setting."""
    digest = hashlib.sha256()
    for path in sorted(directory.glob("*.safetensors")):
        digest.update(path.read_bytes())
    return {directory.name: digest.hexdigest()[:16]}


def _nothing() -> None:
    """The step of an artifact that is there already."""
