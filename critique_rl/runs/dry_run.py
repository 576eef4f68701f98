"""The plan of a run as text, for `--dry-run`: models, data, steps, tokens, memory and hours; no weight is read."""

from __future__ import annotations

from dataclasses import replace

from critique_rl.actors.loading import check_location
from critique_rl.config.checks import unknown
from critique_rl.config.data import TaskConfig
from critique_rl.config.run import RunConfig
from critique_rl.runs.context import Context
from critique_rl.runs.estimate import time_lines
from critique_rl.runs.fit import memory_lines
from critique_rl.runs.folder import RunFolder
from critique_rl.runs.launch import DEFAULT_GPU, GPUS, Launch, read_launch
from critique_rl.runs.problems import PUBLISHED, published_size
from critique_rl.runs.run import Run
from critique_rl.runs.sizes import model_size
from critique_rl.runs.steps.policy_benchmarks import lmms_eval_options
from critique_rl.runs.steps.train import trainer_args
from critique_rl.tasks import TASKS, DataError
from critique_rl.types import UserError, redacted


def describe(
    config: RunConfig, *, from_scratch: bool = False, launch: str | None = None, gpu: str = DEFAULT_GPU
) -> str:
    """Plan of a run as text.

    The configuration is checked as `run` checks it. A hub or a GPU that is missing here is no error, since
    a plan is often made on another machine than the run.

    Args:
        config: The configuration.
        from_scratch: Make the cold-start models even if the package ships them.
        launch: accelerate configuration to plan for; None takes that of the configuration, or else one process.
        gpu: Name of the cards, a key of `GPUS`.

    Raises:
        UserError: A setting is invalid, a local file is missing or malformed, or a training does not fit the GPU.
    """
    if gpu not in GPUS:
        raise UserError(unknown("--gpu", gpu, list(GPUS)))
    card, path = GPUS[gpu], launch or config.launch
    started = read_launch(path) if path else None
    run = Run(config, from_scratch=from_scratch)
    folder, prompts = run.folder, run.context.prompts
    if folder.shipped is None and config.base != "tiny" and not config.base_gguf:
        try:
            check_location(config.base)
        except UserError as error:
            raise UserError(f"base: {error}") from error
    planned = run.steps()
    steps = [("done" if step.finished() else "to do", step.name) for step in planned]
    task = next((t.name for t in config.train), "modular_chain")
    size = model_size(config.base, config.base_gguf, task=task)
    lines = [
        f"run {config.name} -> {config.directory}",
        f"prompts: {prompts.name}, version {prompts.version}",
        f"base: {config.base}, {size.remark}",
        f"actor: {_actor(config, folder)}",
        "data:",
    ]
    lines += _data(run)
    lines.append("stages:")
    for name in config.stages:
        lines += _stage(folder, name, started or Launch())
    lines.append(f"launch: {started or Launch()}")
    lines += memory_lines(config, started or Launch(), card, size)
    lines += time_lines(run.context, planned, size, started, card)
    lines += [f"seeds: {', '.join(map(str, config.seeds))}", f"steps: {len(steps)}"]
    return str(redacted("\n".join([*lines, *(f"  {state}  {name}" for state, name in steps)])))


def _data(run: Run) -> list[str]:
    """Lines about tasks, scorer, pairs and benchmarks."""
    config, lines = run.config, list[str]()
    for role, tasks in (("train", config.train), ("evaluation", config.evaluation.tasks)):
        lines += [
            f"  {role}: {t.name}, {t.split}, from {t.source or _hub(t)}: {_size(run.context, t)}"
            for t in tasks
        ]
    if config.scorer is not None:
        lines.append(f"scorer: {config.scorer.get('model') or config.scorer.get('kind')}")
    for stage in config.stages.values():
        pairs = stage.trainer.get("pairs", {}).get("origin")
        lines += [f"  pairs: {pairs}"] if pairs else []
    lines += [f"  benchmark: {b.name}, from {b.origin or 'the hub'}" for b in config.evaluation.benchmarks]
    if run.folder.policies:
        names = lmms_eval_options(config)["benchmarks"]
        lines.append(f"  policy benchmarks through lmms-eval: {', '.join(names)}")
    return lines


def _stage(folder: RunFolder, name: str, launch: Launch) -> list[str]:
    """Lines about one stage."""
    from critique_rl.methods import PlannedMethod, method
    from critique_rl.training.config import machine_defaults

    # transformers refuses bf16 for a GPU that is not there; for a CPU it does not.
    elsewhere = {"use_cpu": True} if machine_defaults() else {}
    stage = folder.config.stages[name]
    args, planned = trainer_args(folder, name, **elsewhere), method(stage.method)
    if args is None or not isinstance(planned, PlannedMethod):
        return [f"  {name} ({stage.label}): from {stage.start}, baseline {stage.method}"]
    rollout = planned.rollout(args)
    batch, group = args.generation_batch_size or 0, args.num_generations or 1
    processes = 1 if stage.trainer.get("use_cpu") else launch.processes
    critique = batch * (args.max_completion_length or 0)
    return [
        f"  {name} ({stage.label}): from {stage.start}, reward {rollout.reward}, {args.advantage}, "
        f"KL {args.beta:g} {args.kl_estimator} in the {args.kl_placement}",
        f"    {args.rl_steps} RL steps of {batch // group} {rollout.asked} x {group} critiques; learning rate "
        f"{args.learning_rate:g}; {args.optimizer_steps_per_rl_step / processes:g} optimizer steps each",
        f"    at most {critique:,} critique tokens and {rollout.refinement_tokens:,} refinement tokens an RL step",
    ]


def _size(context: Context, task: TaskConfig) -> str:
    try:
        return f"{len(context.problems(task)):,} problems"
    except DataError:
        raise
    except UserError as error:  # the hub is out of reach
        if task.source is not None:
            raise
        splits = {"train", "validation", "test", *(s for name, s in PUBLISHED if name == task.name)}
        if task.split not in splits:
            raise UserError(unknown(f"task {task.name}: split", task.split, sorted(splits))) from error
        published = published_size(task)
        why = str(error).splitlines()[0][:60]
        if published is None:
            return f"size unknown here ({why}...)"
        return f"{min(published, task.limit or published):,} problems as published ({why}...)"


def _hub(task: TaskConfig) -> str:
    if task.name not in TASKS:
        raise UserError(unknown("task", task.name, list(TASKS)))
    return TASKS[task.name].hub or "a generator"


def _actor(config: RunConfig, folder: RunFolder) -> str:
    spec = config.actor
    if config.actor_server:
        return f"{_actor(replace(config, actor_server=None), folder)}; served at {config.actor_server}"
    if spec.get("backend") == "openai":
        return f"server at {spec.get('base_url')}, model {spec.get('model') or 'the first it serves'}"
    if spec.get("backend", "transformers") != "transformers":
        return f"backend {spec['backend']}"
    if spec.get("model"):
        return f"{spec['model']}, in this process"
    if folder.shipped is not None:
        return f"shipped, {folder.shipped.name}/actor"
    made = "fine-tuned from" if config.cold_start.actor_sft else "as it is:"
    return f"{made} {config.base}, in this process"
