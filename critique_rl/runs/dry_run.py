"""The plan of a run as text, for `--dry-run`: models, data, steps, tokens, memory and hours; no weight is read."""

from __future__ import annotations

from dataclasses import replace

from critique_rl.actors.loading import check_location
from critique_rl.config.checks import unknown
from critique_rl.config.data import TaskConfig
from critique_rl.config.run import RunConfig
from critique_rl.runs.context import Context
from critique_rl.runs.estimate import time_lines
from critique_rl.runs.folder import RunFolder
from critique_rl.runs.run import Run
from critique_rl.runs.sizes import memory, model_size
from critique_rl.runs.steps.policy_benchmarks import lmms_eval_options
from critique_rl.runs.steps.train import trainer_args
from critique_rl.tasks import TASKS, DataError
from critique_rl.types import UserError, redacted

GIB = 2**30
PUBLISHED = {
    ("aqua", "train"): 97_467,
    ("aqua", "validation"): 254,
    ("aqua", "test"): 254,
    ("cnn_dailymail", "train"): 287_113,
    ("cnn_dailymail", "validation"): 13_368,
    ("cnn_dailymail", "test"): 11_490,
    ("gsm8k", "train"): 7_473,
    ("gsm8k", "test"): 1_319,
    ("math", "train"): 7_500,
    ("math", "test"): 5_000,
    ("math", "math500"): 500,
    ("svamp", "train"): 700,
    ("svamp", "test"): 300,
    ("theoremqa", "test"): 800,
}
"""Sizes of the published splits, with duplicates; for plans made out of the hub's reach."""
HELD_OUT = 0.1
"""Share of train that is held out by default where there is no published validation split."""


def describe(config: RunConfig, *, from_scratch: bool = False) -> str:
    """Plan of a run as text.

    The configuration is checked as `run` checks it. A hub or a GPU that is missing here is no error, since
    a plan is often made on another machine than the run.

    Raises:
        UserError: A setting is invalid, or a local file is missing or malformed.
    """
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
    if folder.policies:
        names = lmms_eval_options(config)["benchmarks"]
        lines.append(f"  policy benchmarks through lmms-eval: {', '.join(names)}")
    lines.append("stages:")
    for name in config.stages:
        lines += _stage(folder, name, size.parameters)
    lines += time_lines(run.context, planned, size)
    lines += [f"seeds: {', '.join(map(str, config.seeds))}", f"steps: {len(steps)}"]
    return str(redacted("\n".join([*lines, *(f"  {state}  {name}" for state, name in steps)])))


def _stage(folder: RunFolder, name: str, parameters: int | None) -> list[str]:
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
    critique = batch * (args.max_completion_length or 0)
    lines = [
        f"  {name} ({stage.label}): from {stage.start}, reward {rollout.reward}, {args.advantage}, "
        f"KL {args.beta:g} {args.kl_estimator} in the {args.kl_placement}",
        f"    {args.rl_steps} RL steps of {batch // group} {rollout.asked} x {group} critiques; learning rate "
        f"{args.learning_rate:g}; {args.optimizer_steps_per_rl_step} optimizer steps each"
        + (" in this one process, an N-th of that in N" if args.world_size == 1 else ""),
        f"    at most {critique:,} critique tokens and {rollout.refinement_tokens:,} refinement tokens an RL step",
    ]
    if parameters:
        adapts = bool(stage.lora or folder.config.cold_start.lora)
        state = memory(parameters, lora=adapts, reference=args.beta != 0) / GIB
        lines.append(f"    about {state:,.2f} GiB per GPU, unsharded, before activations and actor")
    return lines


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
        published = _published(task)
        why = str(error).splitlines()[0][:60]
        if published is None:
            return f"size unknown here ({why}...)"
        return f"{min(published, task.limit or published):,} problems as published ({why}...)"


def _published(task: TaskConfig) -> int | None:
    """How many problems the task has, as far as its published size tells."""
    size, options = PUBLISHED.get((task.name, task.split)), dict(task.options)
    held_out = options.pop("held_out", HELD_OUT)
    if size is None or options:
        return None
    cut = task.split == "train" and (task.name, "validation") not in PUBLISHED
    return round(size * (1 - held_out)) if cut else size


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
