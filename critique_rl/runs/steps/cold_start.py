"""Steps before RL: the base where it is made on the spot or converted, the actor, the SFT critic."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from critique_rl.config.cold_start import TeacherConfig
from critique_rl.config.reading import as_dict, check_options, unknown
from critique_rl.records import is_first_process, wait_for, written_once
from critique_rl.runs.context import Context
from critique_rl.runs.cost import Cost, supervised
from critique_rl.runs.folder import Artifact, RunFolder
from critique_rl.runs.kind import Plan, Recipe, StepKind
from critique_rl.runs.step import Step
from critique_rl.tasks.scripted import SCRIPTED
from critique_rl.types import Sampling, UserError, child_seed

if TYPE_CHECKING:
    from critique_rl.cold_start.sft import Example
    from critique_rl.cold_start.teachers import Teacher


class _ColdStart(StepKind):
    """A model that all seeds share. Nothing is trained where the package ships it."""

    command: str
    all_ranks = True

    def artifacts(self, folder: RunFolder, seed: int | None) -> Iterable[Artifact]:
        return [folder.artifact(self.command)] if seed is None and folder.shipped is None else []

    def cost(self, folder: RunFolder, artifact: Artifact, size: Callable[[str], int | None]) -> Cost:
        return supervised(self.command, artifact, self.command, size(str(artifact.directory)))


class BaseKind(_ColdStart):
    """The model that actor and critic start from: trained on scripted texts, converted, or left where it is."""

    command = "base"

    def plan(self, artifact: Artifact, plan: Plan) -> Recipe:
        config, made = plan.config, as_dict(plan.config.cold_start)["base"]
        origin = {"base": config.base, "base_gguf": config.base_gguf, "made": made}
        return Recipe({**plan.data, **origin, "seed": config.cold_start.seed})

    def check(self, context: Context) -> None:
        """Check who teaches, and all options of supervised training."""
        if context.folder.shipped is None:
            check_cold_start(context)

    def make(self, step: Step, context: Context) -> None:
        from critique_rl.cold_start import sft, tiny
        from critique_rl.cold_start.teachers import ScriptedTeacher
        from critique_rl.training.checkpoints import convert_gguf

        config, made = context.config, context.config.cold_start.base
        if config.base_gguf and is_first_process():
            convert_gguf(config.base, config.base_gguf, step.directory)
        if config.base != "tiny" or made is None:
            return
        task = config.train[0].name
        scripts = SCRIPTED[task]
        solver, annotator = scripts.solver, scripts.annotator
        faulty = ScriptedTeacher(solver(**made.solver), annotator(), annotator())
        start = step.directory / "untrained"
        if is_first_process() and not start.exists():
            temporary = step.directory / "untrained.new"
            tiny.save_untrained(temporary, seed=child_seed(config.cold_start.seed, "base"), task=task)
            os.replace(temporary, start)  # or another process may read half a model
        wait_for(start.exists)
        for number, part in enumerate(made.passes):
            followed = annotator(**(part.polished or made.annotator))
            teacher = ScriptedTeacher(solver(), annotator(**made.annotator), followed, scripts.judging())
            seed = child_seed(config.cold_start.seed, "base pass", number)
            examples = sft.base_examples(
                context.train_problems(None, "base"),
                teacher,
                faulty,
                context.prompts,
                reasoning=part.reasoning,
                critiques=part.critiques,
                refinements=part.refinements,
                judgements=part.judgements,
                seed=seed,
            )
            figures = sft.fine_tune(str(start), examples, step.directory, seed=seed, options=part.sft)
            start = step.directory
            context.display.note(f"base, pass {number + 1}: {_short(figures)}")


class ActorKind(_ColdStart):
    """The frozen actor, fine-tuned from the base; a configured actor is left where it is."""

    command = "actor"

    def plan(self, artifact: Artifact, plan: Plan) -> Recipe:
        return Recipe({**plan.data, "cold_start": _recipe(plan), "actor": plan.actor}, ("base",))

    def make(self, step: Step, context: Context) -> None:
        from critique_rl.cold_start import sft

        cold = context.config.cold_start
        if not context.config.own_actor:
            return  # the settings of the step record which actor it is

        def examples() -> list[Example]:
            problems, teacher = context.train_problems(cold.reasoning, "reasoning"), _teacher(context)
            return sft.actor_examples(
                problems,
                teacher.draft(problems[: cold.refinements], seed=child_seed(cold.seed, "drafts")),
                teacher,
                context.prompts,
                refinements=cold.refinements,
                judgements=cold.judgements,
                keep_wrong=cold.teacher.kind == "scripted",
                seed=cold.seed,
                scorer=context.scorer(),
            )

        _fine_tune(step, context, examples, cold.actor_sft)


class SFTKind(_ColdStart):
    """The critic that RL starts from, fine-tuned on critiques that led to a right refinement."""

    command = "sft"

    def plan(self, artifact: Artifact, plan: Plan) -> Recipe:
        return Recipe({**plan.data, "cold_start": _recipe(plan)}, ("base", "actor"))

    def make(self, step: Step, context: Context) -> None:
        from critique_rl.cold_start import sft

        config, cold = context.config, context.config.cold_start

        def examples() -> list[Example]:
            return sft.critic_examples(
                context.train_problems(cold.critiques, "critiques"),
                context.actor(),
                _teacher(context),
                context.prompts,
                response=Sampling(config.lengths.response, config.pool.temperature),
                refinement=Sampling(config.lengths.refinement),
                seed=cold.seed,
                scorer=context.scorer(),
            )

        _fine_tune(step, context, examples, cold.critic_sft)


def _recipe(plan: Plan) -> dict[str, Any]:
    """Settings of the cold start but for how the base is made, which the base's own step holds."""
    recipe = {key: value for key, value in as_dict(plan.config.cold_start).items() if key != "base"}
    if recipe["lora"] is None:  # steps of older versions do not have it
        del recipe["lora"]
    return recipe


def _fine_tune(
    step: Step, context: Context, examples: Callable[[], list[Example]], options: dict[str, Any]
) -> None:
    """Train the base on examples; without options of training the artifact is the base itself."""
    from peft import LoraConfig

    from critique_rl.cold_start import sft
    from critique_rl.training.checkpoints import copy_model

    if not options:
        copy_model(context.base(), step.directory, context.config.pixel_limits)
        return
    rows = written_once(step.directory / "examples.jsonl", examples)
    cold = context.config.cold_start
    lora = LoraConfig(**cold.lora) if cold.lora else None
    figures = sft.fine_tune(
        context.base(),
        rows,
        step.directory,
        seed=cold.seed,
        options=options,
        lora=lora,
        limits=context.config.pixel_limits,
        on_progress=context.display.advance,
    )
    context.display.note(_short(figures))


def _teacher(context: Context) -> Teacher:
    from critique_rl.actors import make_actor
    from critique_rl.cold_start.teachers import ModelTeacher, ReferenceTeacher, ScriptedTeacher

    config: TeacherConfig = context.config.cold_start.teacher
    if config.kind == "model":
        tokens = context.config.lengths.critique
        model = make_actor({"backend": "transformers", **config.actor})
        return ModelTeacher(model, context.prompts, max_tokens=tokens, temperature=config.temperature)
    if config.kind == "reference":
        return ReferenceTeacher()
    scripts = SCRIPTED[context.config.train[0].name]
    return ScriptedTeacher(
        scripts.solver(**config.solver),
        scripts.annotator(**config.annotator),
        scripts.annotator(**config.polished),
        scripts.judging(**config.judge),
    )


def _short(figures: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {value:.4g}" for name, value in figures.items())


# -- checks -----------------------------------------------------------------------------------------------


def check_cold_start(context: Context) -> None:
    """Check the teacher and all options of supervised training.

    Raises:
        UserError: The teacher is incomplete, or an option is unknown or invalid.
    """
    cold = context.config.cold_start
    if cold.actor_sft or cold.critic_sft:
        if cold.teacher.kind == "model" and not cold.teacher.actor:
            raise UserError("cold_start.teacher.actor: say which model writes the texts.")
        check_actor(cold.teacher.actor, "cold_start.teacher.actor")
    scripts = [SCRIPTED[task.name] for task in context.config.train if task.name in SCRIPTED]
    solver, annotator, judge = scripts[0] if scripts else SCRIPTED["modular_chain"]
    check_options(solver, cold.teacher.solver, "cold_start.teacher.solver")
    check_options(annotator, cold.teacher.annotator, "cold_start.teacher.annotator")
    check_options(annotator, cold.teacher.polished, "cold_start.teacher.polished")
    if judge is not None:
        check_options(judge, cold.teacher.judge, "cold_start.teacher.judge")
    elif cold.teacher.judge or cold.judgements:
        raise UserError("cold_start.judgements: the task has no judge; leave it out.")
    trainings = {"cold_start.actor_sft": cold.actor_sft, "cold_start.critic_sft": cold.critic_sft}
    if cold.base is not None:
        check_options(solver, cold.base.solver, "cold_start.base.solver")
        check_options(annotator, cold.base.annotator, "cold_start.base.annotator")
        for i, part in enumerate(cold.base.passes):
            check_options(annotator, part.polished, f"cold_start.base.passes[{i}].polished")
            trainings[f"cold_start.base.passes[{i}].sft"] = part.sft
    from peft import LoraConfig
    from trl import SFTConfig

    from critique_rl.cold_start.sft import sft_args

    check_options(LoraConfig, cold.lora or {}, "cold_start.lora")
    for where, options in trainings.items():
        check_options(SFTConfig, options, where)
        sft_args(context.folder.directory, seed=0, options=options, where=where)


def check_actor(spec: Mapping[str, Any], where: str) -> None:
    """Check the options of an actor by name, which `make_actor` would do hours later.

    Raises:
        UserError: An option is unknown.
    """
    if spec.get("backend", "transformers") == "transformers":
        check_loading(spec, where, also=("backend",))


def check_loading(
    spec: Mapping[str, Any], where: str, *, leave_out: Sequence[str] = (), also: Sequence[str] = ()
) -> None:
    """Check the names of settings of a model in this process: those of `TransformersActor`, and `also` some.

    Raises:
        UserError: A setting is unknown, or one to `leave_out`.
    """
    from critique_rl.actors import TransformersActor

    names = [*inspect.signature(TransformersActor).parameters, *also]
    names = [name for name in names if name not in leave_out]
    for key in spec:
        if key not in names:
            raise UserError(unknown(f"{where}: setting", key, names))
