"""Whether the trainings of a run fit a GPU with a launch: lines of a plan, and the refusal where they do not."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

from critique_rl.actors.loading import init_options
from critique_rl.actors.transformers_actor import BATCH_TOKENS
from critique_rl.config.reading import as_dict
from critique_rl.config.run import RunConfig
from critique_rl.config.training import StageConfig
from critique_rl.methods.options import defaults, option, rollout_size
from critique_rl.runs.launch import GIB, Gpu, Launch
from critique_rl.runs.lengths import ASKED
from critique_rl.runs.memory import Frozen, Need, Training, adapter_weights, need
from critique_rl.runs.sizes import Size, likely_shape, model_size
from critique_rl.types import UserError

MOST_PIXELS = 12_845_056
"""Pixels that Qwen2.5-VL scales a larger image down to."""
TOKEN_PIXELS = 28 * 28
"""Pixels of an image's token."""
OF_WEIGHTS = (
    "spread the weights over GPUs (`--launch experiments/launch/fsdp2.yaml`, or one of more GPUs), or train an "
    "adapter (`lora`)"
)
REMEDIES = {
    "actor": "serve the actor (`actor_server`)",
    "scorer": "spread the weights over more GPUs",
    "vLLM": "lower vllm_gpu_memory_utilization, or let a server draw the critiques (`vllm_mode: server`)",
    "KV cache": "let vLLM draw the critiques (`use_vllm: true`), or lower generation_batch_size",
    "KV cache of the actor": "lower actor.batch_size, or serve the actor (`actor_server`)",
    "activations": "lower per_device_train_batch_size and raise gradient_accumulation_steps by as much",
    "logits and output layer": "lower per_device_train_batch_size",
}
"""What lowers a part; all others are of weights."""


class Planned(NamedTuple):
    """The memory of one training: its name, whether it is on the CPU, and what it needs."""

    name: str
    on_cpu: bool
    need: Need

    def lines(self, gpu: Gpu) -> list[str]:
        """Text: the sum, what stays, and each phase."""
        place = "on the CPU" if self.on_cpu else f"per GPU, of {gpu.memory / GIB:,.1f} ({gpu.name})"
        lines = [
            f"  {self.name}: {_gib(self.need.total)} GiB {place}",
            f"    stays: {_parts(self.need.kept)}",
        ]
        for phase, parts in self.need.phases.items():
            counts = "" if parts is not self.need.peak else " (counts)"
            lines.append(f"    {phase}{counts}: {_parts(parts)}")
        return lines


def memory_lines(config: RunConfig, launch: Launch, gpu: Gpu, size: Size) -> list[str]:
    """Memory of each training by part.

    Raises:
        UserError: A training does not fit the GPU, or its batch does not fit the processes; the message says what
            to do.
    """
    if size.parameters is None:
        return [f"memory: unknown, {size.remark}"]
    planned = list(trainings(config, launch, gpu, size))
    lines = [line for one in planned for line in one.lines(gpu)]
    for one in planned:
        if not one.on_cpu and one.need.total > gpu.memory:
            raise UserError(_refusal(one, launch, gpu))
    return (
        ["memory in GiB, a rough formula with every text at its limit (critique_rl/runs/memory.py):", *lines]
        if lines
        else []
    )


def trainings(config: RunConfig, launch: Launch, gpu: Gpu, size: Size) -> Iterator[Planned]:
    """Memory of supervised training and of each stage by RL; other methods have no formula."""
    cold = config.cold_start
    for name, given in (("actor SFT", cold.actor_sft), ("critic SFT", cold.critic_sft)):
        if given and (name != "actor SFT" or config.own_actor):
            get = {**defaults("sft"), **given}.__getitem__
            length = get("max_length") or 2 * (ASKED + config.lengths.critique)
            training = _training(
                config, given, size, get("per_device_train_batch_size"), length, length, cold.lora
            )
            yield _planned(name, given, training, launch)
    for name, stage in config.stages.items():
        by_rl = _stage(config, name, stage, launch, gpu, size)
        if by_rl is not None:
            yield _planned(name, stage.trainer, by_rl, launch)


def _planned(name: str, options: Mapping[str, Any], training: Training, launch: Launch) -> Planned:
    on_cpu = bool(options.get("use_cpu"))
    return Planned(name, on_cpu, need(training, Launch() if on_cpu else launch))


def _stage(
    config: RunConfig, name: str, stage: StageConfig, launch: Launch, gpu: Gpu, size: Size
) -> Training | None:
    """The training of a stage by RL; None for other methods."""
    get, lengths = partial(option, as_dict(stage)), config.lengths
    if stage.method == "score" and launch.shards > 1 and not get("use_cpu"):
        raise UserError(
            f"stages.{name}: each process of method 'score' draws texts by itself and needs whole weights: take a "
            f"launch like experiments/launch/ddp.yaml, not {launch.path}."
        )
    prompt, completion = {
        "critique_rl": (ASKED + lengths.response, lengths.critique),
        "actor_rl": (ASKED, lengths.response),
        "pairwise_critic": (ASKED + 2 * lengths.response, lengths.critique),
        "mixed": (ASKED + 2 * lengths.response, lengths.critique),
    }.get(stage.method, (0, 0))
    if not completion:
        return None
    prompt = stage.trainer.get("pairs", {}).get("max_prompt_tokens") or prompt
    rows, group = get("per_device_train_batch_size"), get("num_generations") or 1
    processes = 1 if get("use_cpu") else launch.processes
    texts = rollout_size(get, processes)
    check_batch(f"stages.{name}.trainer", texts, rows, processes, group)
    values = get("advantage") == "gae"
    if values and processes > 1 and launch.kind != "ddp":
        raise UserError(
            f"stages.{name}: advantage='gae' holds its value model whole and runs on one GPU or with a "
            f"launch like experiments/launch/ddp.yaml, not with {launch.path}."
        )
    engine, colocated = get("use_vllm"), get("vllm_mode") == "colocate"
    answers = get("refinement_reward") or get("response_source") == "online"
    adapts, own = config.trains_adapter(name), stage.lora or config.cold_start.lora
    training = _training(
        config, stage.trainer, size, rows, prompt + completion, completion, own, adapts=adapts
    )
    return replace(
        training,
        drawn=0.0 if engine else texts / processes,
        engine=gpu.memory * (get("vllm_gpu_memory_utilization") or 0.3) * bool(engine and colocated),
        reference=get("beta") != 0 and not adapts,
        values=values,
        pixels=_pixels(config, size, prompt),
        actor=_actor(config, size) if answers or config.train else None,
        scorer=_scorer(config),
    )


def _training(
    config: RunConfig,
    options: Mapping[str, Any],
    size: Size,
    rows: int,
    tokens: float,
    completion: float,
    lora: Mapping[str, Any] | None,
    *,
    adapts: bool | None = None,
) -> Training:
    """A training without what RL adds; `adapts` may be true of a start whose rank is not known here."""
    assert size.parameters is not None
    shape = size.shape or likely_shape(size.parameters)
    rank = (lora or {}).get("r", 8)
    adapter = adapter_weights(shape, rank) if (bool(lora) if adapts is None else adapts) else None
    dtype = str(init_options(options.get("model_init_kwargs")).get("dtype") or "float32")
    checkpointing, sixteen = options.get("gradient_checkpointing"), "16" in dtype
    return Training(
        parameters=size.parameters,
        shape=shape,
        trained=size.parameters if adapter is None else min(adapter, size.parameters - 1),
        rows=rows,
        tokens=tokens,
        completion=completion,
        half=sixteen or (options.get("bf16") is not False and not options.get("use_cpu")),
        weight_bytes=2 if sixteen else 4,
        recomputes=checkpointing is not False,
    )


def check_batch(where: str, texts: int, rows: int, processes: int, group: int) -> None:
    """Refuse a rollout that the processes cannot share.

    Raises:
        UserError: The message names the nearest rollout that they can.
    """
    step = rows * processes
    if texts % step == 0:
        return
    nearest = texts // step * step
    while nearest > 0 and nearest % group:
        nearest -= step
    remedy = f"set it to {nearest}" if nearest > 0 else "lower per_device_train_batch_size"
    raise UserError(
        f"{where}: generation_batch_size={texts} is no multiple of per_device_train_batch_size={rows} x "
        f"{processes} processes: {remedy}, or start another number of processes."
    )


def _pixels(config: RunConfig, size: Size, prompt: float) -> float:
    """Most pixels of an image whose tokens fit a prompt; 0 for a model that reads none."""
    sees = size.shape is not None and size.shape.sees
    return min(config.max_pixels or MOST_PIXELS, prompt * TOKEN_PIXELS) * sees


def _actor(config: RunConfig, base: Size) -> Frozen | None:
    spec, lengths = config.actor, config.lengths
    if not config.loads_actor:
        return None
    size = model_size(spec["model"]) if spec.get("model") else base
    if size.parameters is None:
        return None
    longest = ASKED + lengths.response + lengths.critique + lengths.refinement
    tokens = longest * spec["batch_size"] if spec.get("batch_size") else max(BATCH_TOKENS, longest)
    return _frozen(size, spec, tokens)


def _scorer(config: RunConfig) -> Frozen | None:
    spec = config.scorer or {}
    size = model_size(spec["model"]) if spec.get("model") else Size(None, "")
    return None if size.parameters is None else _frozen(size, spec)


def _frozen(size: Size, spec: Mapping[str, Any], tokens: float = 0.0) -> Frozen:
    assert size.parameters is not None
    number = 4 if spec.get("dtype") == "float32" else 2
    shape = size.shape or likely_shape(size.parameters)
    return Frozen(parameters=size.parameters, weight_bytes=number, shape=shape, tokens=tokens)


def _refusal(one: Planned, launch: Launch, gpu: Gpu) -> str:
    parts = one.need.parts
    largest = [name for name, _ in sorted(parts.items(), key=lambda item: -item[1]) if name in REMEDIES]
    state = sum(size for name, size in parts.items() if name not in REMEDIES)
    remedies = [OF_WEIGHTS] if state > sum(parts.values()) / 2 else []
    remedies += [REMEDIES[name] for name in largest[:2] if parts[name] > 0.1 * gpu.memory]
    return (
        f"{one.name} does not fit: about {_gib(one.need.total)} GiB per GPU with {launch}, and {gpu.name} has "
        f"{gpu.memory / GIB:,.1f}: {_parts(parts)}. To make it fit, {'; or '.join(remedies or [OF_WEIGHTS])}; "
        "`--gpu` names a larger card."
    )


def _parts(parts: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {_gib(size)}" for name, size in parts.items())


def _gib(size: float) -> str:
    return f"{size / GIB:,.1f}" if size > 0.05 * GIB else f"{size / GIB:,.2g}"
