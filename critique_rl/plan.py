"""What a run would do, without loading weights: models, data, steps, tokens and memory, for `--dry-run`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from critique_rl.config import RunConfig
from critique_rl.pipeline import Run
from critique_rl.types import UserError

GIB = 2**30


def describe(config: RunConfig, *, from_scratch: bool = False) -> str:
    """Plan of a run as text.

    The configuration is checked as `run` checks it. Data that cannot be read here (a hub out of reach) is
    named as such instead of failing, since a plan is often made on another machine than the run.

    Raises:
        UserError: A setting is invalid, or a local file is missing or malformed.
    """
    run = Run(config, from_scratch=from_scratch)
    lines = [f"run {config.name} -> {config.directory}", f"prompts: {run.prompts.name}, version {run.prompts.version}"]
    parameters, detail = parameter_count(config.base)
    lines += [f"base: {config.base} ({detail})", f"actor: {_actor(config, run)}", "data:"]
    for role, tasks in (("train", config.train), ("evaluation", config.evaluation.tasks)):
        for task in tasks:
            try:
                size = f"{len(run.problems(task))} problems"
            except UserError as error:
                if task.source is not None:
                    raise
                size = f"size unknown here ({str(error).splitlines()[0][:90]})"
            lines.append(f"  {role}: {task.name}, {task.split}, {task.source or 'generated or from the hub'}: {size}")
    lines.append("stages:")
    for name, stage in config.stages.items():
        args = run.stage_args(config.seeds[0], name)
        prompts = args.generation_batch_size // args.num_generations
        completion = args.generation_batch_size * args.max_completion_length
        refine = args.generation_batch_size * args.refinement_max_tokens if args.refinement_reward else 0
        reward = f"{args.refinement_reward} + {args.beta_1:g} r_dis, {args.combination}" if args.refinement_reward else "r_dis"
        lines += [
            f"  {name} ({stage.label}): from {stage.start}, reward {reward}, {args.advantage}, "
            f"KL {args.beta:g} {args.kl_estimator} in the {args.kl_placement}",
            f"    {args.rl_steps} RL steps of {prompts} responses x {args.num_generations} critiques = "
            f"{args.optimizer_steps_per_rl_step} optimizer steps each, learning rate {args.learning_rate:g}",
            f"    at most {completion:,} critique tokens and {refine:,} refinement tokens an RL step",
        ]
        if parameters:
            lines.append(f"    about {memory(parameters, args, lora=stage.lora is not None) / GIB:.1f} GiB per GPU")
    seeds = ", ".join(map(str, config.seeds))
    lines += [f"seeds: {seeds}", f"steps: {len(run.steps())}"]
    lines += [f"  {'done' if step.finished() else 'to do'}  {step.name}" for step in run.steps()]
    return "\n".join(lines)


def parameter_count(base: str) -> tuple[int | None, str]:
    """Number of weights from the model's config alone, None where that is out of reach.

    Args:
        base: Directory, hub id or `tiny`.

    Returns:
        The number, and a remark for people.
    """
    if base == "tiny":
        from critique_rl import tiny

        count = sum(p.numel() for p in tiny.build_model(tiny.build_tokenizer(), seed=0).parameters())
        return count, f"{count:,} parameters, made on the spot"
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    try:
        config = AutoConfig.from_pretrained(base)
    except (OSError, ValueError):
        return None, "size unknown here: no config.json in reach"
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    model.tie_weights()
    count = sum(p.numel() for p in model.parameters())
    return count, f"{count / 1e9:.2f} B parameters"


def memory(parameters: int, args: Any, *, lora: bool) -> int:
    """Rough bytes per GPU of one rank's training state, without sharding, activations and the actor.

    Full fine-tuning holds weights and gradients in the training type, AdamW's two moments in the same type as
    the weights, and a frozen reference; an adapter holds the frozen weights once.
    """
    size = 2 if args.bf16 or args.fp16 else 4
    if lora:
        return parameters * size
    reference = 1 if args.beta else 0
    # trl loads the policy in float32 whatever the autocast type, so that small updates are not rounded away.
    return parameters * 4 * 4 + reference * parameters * 4


def _actor(config: RunConfig, run: Run) -> str:
    spec = config.actor
    if spec.get("backend") == "openai":
        return f"server at {spec.get('base_url')}, model {spec.get('model') or 'the first it serves'}"
    if spec.get("model"):
        return f"{spec['model']}, in this process"
    if run.shipped is not None:
        return f"shipped, {Path(run.shipped).name}/actor"
    return f"fine-tuned from {config.base}, in this process"
