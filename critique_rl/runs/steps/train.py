"""The step that trains a stage: of Critique-RL, or by a method that it is compared with."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from critique_rl.config.methods import METHODS
from critique_rl.config.reading import as_dict, check_options
from critique_rl.methods.base import FIRST, Inputs
from critique_rl.methods.options import option
from critique_rl.runs.context import Context
from critique_rl.runs.cost import Cost, hours, supervised
from critique_rl.runs.folder import Artifact, RunFolder, training_state
from critique_rl.runs.kind import Plan, Recipe, StepKind
from critique_rl.runs.step import Step
from critique_rl.types import UserError, child_seed

if TYPE_CHECKING:
    from critique_rl.actors import Actor
    from critique_rl.training.config import CriticConfig


class TrainKind(StepKind):
    """One stage; its method is a name in `critique_rl.methods`."""

    command = "train"
    all_ranks = True

    def artifacts(self, folder: RunFolder, seed: int | None) -> Iterable[Artifact]:
        stages = folder.config.stages if seed is not None else ()
        return [folder.artifact(f"seed{seed}/{name}", name, seed) for name in stages]

    def plan(self, artifact: Artifact, plan: Plan) -> Recipe:
        stage, seed = plan.config.stages[artifact.subject], artifact.seed
        inputs = ["actor", *plan.pool_step(seed), plan.model_step(stage.start, seed)]
        settings = as_dict(stage) | {"keep_rl_steps": stage.keep_rl_steps or []}
        return Recipe({"stage": settings, **plan.texts, "seed": seed}, inputs)

    def check(self, context: Context) -> None:
        """Check the options of every stage, its adapter, and that its method takes images where there are some."""
        from peft import LoraConfig

        from critique_rl.methods import method

        config = context.config
        pictured = any(p.image is not None for task in config.train for p in context.problems(task))
        for name, stage in config.stages.items():
            if pictured and not METHODS[stage.method].images:
                raise UserError(
                    f"stages.{name}.method: '{stage.method}' is not made for questions with images."
                )
            check_options(LoraConfig, stage.lora or {}, f"stages.{name}.lora")
            try:
                method(stage.method).check(stage.trainer)
            except UserError as error:
                raise stage_error(name, stage.method, error) from error

    def make(self, step: Step, context: Context) -> None:
        """Training by RL goes on from its last checkpoint."""
        from critique_rl.methods import method

        stage = context.config.stages[step.subject]
        inputs = stage_inputs(context.folder, step.subject, step.seed, context)
        method(stage.method).train(replace(inputs, identity=step.digest))

    def cost(self, folder: RunFolder, artifact: Artifact, size: Callable[[str], int | None]) -> Cost:
        stage = folder.config.stages[artifact.subject]
        logs = [
            training_state(place).get("log_history", [])
            for place in (artifact.directory / FIRST, artifact.directory)
        ]
        rollouts = [entry for log in logs for entry in log if "completions/mean_length" in entry]
        parameters = size(str(artifact.directory))
        if not rollouts:
            return supervised(self.command, artifact, stage.label, parameters)
        passes, beta = (option(as_dict(stage), key) for key in ("num_iterations", "beta"))
        drawn = int(sum(max((entry.get("num_tokens") or 0 for entry in log), default=0) for log in logs))
        refined = int(sum(entry.get("tokens/actor") or 0 for entry in rollouts))
        actor = size(folder.actor_path)
        flops = None
        if parameters is not None and (actor is not None or not refined):
            again = (
                2 if beta else 1
            )  # log-probabilities of the model that drew the rollout, and of the reference
            flops = parameters * drawn * (6.0 * passes + 2.0 + 2.0 * again) + 2.0 * (actor or 0) * refined
        spent = hours(artifact.directory)
        if spent is None:
            spent = _logged_hours(logs)
        return Cost(stage.label, self.command, 1, drawn * passes, drawn + refined, flops, spent)


def stage_inputs(folder: RunFolder, name: str, seed: int | None, context: Context | None = None) -> Inputs:
    """Inputs of a stage's method.

    Args:
        folder: Folder of the run.
        name: The stage.
        seed: Seed of the run.
        context: Gives actor, pool and rater; None where only the configuration of the trainer is asked for.
    """
    from peft import LoraConfig

    from critique_rl.prompts import prompt_set

    def needs() -> Context:
        if context is None:
            raise ValueError("stage_inputs: no context to load models and data from")
        return context

    def actor() -> Actor:
        return needs().actor()

    stage = folder.config.stages[name]
    check_options(LoraConfig, stage.lora or {}, f"stages.{name}.lora")
    shown: dict[str, Any] = {} if context is None else {"display": context.display}
    return Inputs(
        start=folder.model_path(stage.start, seed),
        output=Path(folder.model_path(name, seed)),
        load_actor=actor,
        load_pool=lambda: needs().pool(seed),
        load_rater=lambda: needs().rater(seed),
        prompts=prompt_set(folder.config.prompts),
        lengths=folder.config.lengths,
        seed=child_seed(seed or 0, name),
        options=stage.trainer,
        lora=LoraConfig(**stage.lora) if stage.lora else None,
        keep_rl_steps=stage.keep_rl_steps or (),
        checkpoint_rl_steps=stage.checkpoint_rl_steps,
        **shown,
    )


def trainer_args(
    folder: RunFolder, name: str, seed: int | None = None, **overrides: Any
) -> CriticConfig | None:
    """The trainer's configuration of one stage; None where its method is no `PlannedMethod`.

    Args:
        folder: Folder of the run.
        name: The stage.
        seed: Seed of the run; None takes the first.
        overrides: Options that win over those of the stage.

    Raises:
        UserError: An option is unknown or invalid.
    """
    from critique_rl.methods import PlannedMethod, method

    stage = folder.config.stages[name]
    planned = method(stage.method)
    if not isinstance(planned, PlannedMethod):
        return None
    inputs = stage_inputs(folder, name, folder.config.seeds[0] if seed is None else seed)
    try:
        args: CriticConfig = planned.arguments(inputs, **overrides)
    except UserError as error:
        raise stage_error(name, stage.method, error) from error
    return args


def stage_error(name: str, method: str, error: UserError) -> UserError:
    """An error of a method's options, with the stage in the place of the method."""
    return UserError(f"stages.{name}.trainer: {str(error).removeprefix(f'{method}: ')}")


def _logged_hours(logs: Sequence[Sequence[dict[str, Any]]]) -> float:
    """Hours from the log, where the marker holds none.

    The time of an optimizer step is logged as the mean over an RL step. `train_runtime`, logged at the end of a
    training, counts from its last start.
    """
    seconds = 0.0
    for log in logs:  # each counts its steps from 1
        before = 0
        for entry in (entry for entry in log if "completions/mean_length" in entry):
            seconds += (entry["step"] - before) * (entry.get("step_time") or 0.0)
            before = entry["step"]
    runtimes = [entry["train_runtime"] for log in logs for entry in log if "train_runtime" in entry]
    return max([seconds, *runtimes]) / 3600
