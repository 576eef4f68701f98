"""Work of each step of a run in passes over texts, decoding and updates, and the seconds that it takes.

Loading, grading and the optimizer are left out, and all texts of a kind are as long as their mean: right within a
factor of about two, not more. A step that has begun counts whole.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch

from critique_rl.actors.loading import fastest_dtype, init_options, placement
from critique_rl.actors.transformers_actor import BATCH_TOKENS
from critique_rl.config.data import TaskConfig
from critique_rl.config.reading import as_dict
from critique_rl.methods.options import defaults, option, rollout_size
from critique_rl.runs.context import Context
from critique_rl.runs.launch import DEFAULT_GPU, GPUS, Gpu, Launch
from critique_rl.runs.lengths import Tokens, assumed_counts, token_counts
from critique_rl.runs.problems import protocol_of, published_size
from critique_rl.runs.roofline import Limits, Model, reading, updating, writing
from critique_rl.runs.sizes import Size, model_size
from critique_rl.runs.step import Step
from critique_rl.tasks import DataError
from critique_rl.types import UserError, first_line

KEPT = 0.5
"""Share of the critiques that the filter of the cold start keeps."""
DEPTH = 32
"""Layers of a model whose config cannot be read here."""
NOT_HERE = (RuntimeError, AssertionError, AttributeError)
"""What torch raises for a device or a type that it does not have."""


class Workload:
    """Seconds of single steps.

    Args:
        context: Problems and configuration of the run.
        size: Size of the base; None reads it when it is needed.
        measure: Gives the limits of a kind of device in a type.
        launch: Launch to plan for instead of one process on this machine.
        gpu: Its cards; `measure` is not asked about them.

    Attributes:
        limits: Limits that were asked for, by type and device.
        served: Whether texts were left out that a server writes.
        assumed: Whether lengths are half of their limits, because no problem could be read.
    """

    def __init__(
        self,
        context: Context,
        size: Size | None,
        measure: Callable[[str, str], Limits],
        launch: Launch | None = None,
        gpu: Gpu = GPUS[DEFAULT_GPU],
    ) -> None:
        self.context, self.config, self._measure = context, context.config, measure
        self._launch, self._gpu = launch, gpu
        self._sizes = {} if size is None else {self.config.base: size}
        self._lengths: dict[str, tuple[Tokens, int]] = {}
        self.limits: dict[str, Limits] = {}
        self.served = self.assumed = False

    def seconds(self, step: Step) -> float:
        """Seconds of one step.

        Raises:
            UserError: A size, the problems or a formula are missing.
        """
        kinds: dict[str, Callable[[Step], float]] = {
            **{"base": self._base, "actor": self._actor_sft, "sft": self._critic_sft, "pool": self._pool},
            **{"train": self._train, "evaluate": self._evaluate},
        }
        if step.kind not in kinds:
            raise UserError("there is no formula for it")
        return kinds[step.kind](step)

    # -- supervised training ----------------------------------------------------------------------------------

    def _base(self, step: Step) -> float:
        made = self.config.cold_start.base
        if made is None or self.config.base != "tiny":
            return 0.0
        t, _ = self._train_texts()
        return sum(
            self._sft(p.sft, self._examples(t, p.reasoning, p.critiques, p.refinements, p.judgements))
            for p in made.passes
        )

    def _actor_sft(self, step: Step) -> float:
        cold = self.config.cold_start
        if not cold.actor_sft or not self.config.own_actor:
            return 0.0
        t, problems = self._train_texts()
        solved, refined = min(problems, cold.reasoning), min(problems, cold.reasoning, cold.refinements)
        written = 0.0
        if cold.teacher.kind == "model":
            teacher = self._frozen(cold.teacher.actor)
            written = self._asked(teacher, refined, t.asks_response, t.response)
            written += self._asked(teacher, refined, t.asks_critique, t.critique)
            written += self._asked(teacher, refined, t.asks_refinement, t.refinement)
        return written + self._sft(cold.actor_sft, self._examples(t, solved, 0, refined, cold.judgements))

    def _critic_sft(self, step: Step) -> float:
        cold = self.config.cold_start
        if not cold.critic_sft:
            return 0.0
        t, problems = self._train_texts()
        drawn, actor = min(problems, cold.critiques), self._actor()
        written = self._asked(actor, drawn, t.asks_response, t.response)
        written += self._asked(actor, drawn, t.asks_refinement, t.refinement)
        if cold.teacher.kind == "model":
            written += self._asked(self._frozen(cold.teacher.actor), drawn, t.asks_critique, t.critique)
        return written + self._sft(cold.critic_sft, self._examples(t, 0, KEPT * drawn, 0, 0))

    @staticmethod
    def _examples(t: Tokens, *counts: float) -> list[tuple[float, float]]:
        """Number and length of examples: reasoning, critiques, refinements, judgements."""
        lengths = [t.asks_response + t.response, t.asks_critique + t.critique]
        lengths += [t.asks_refinement + t.refinement, t.asks_preference + t.critique]
        return list(zip(counts, lengths, strict=True))

    def _sft(self, options: Mapping[str, Any], examples: Sequence[tuple[float, float]]) -> float:
        get = {**defaults("sft"), **options}.__getitem__
        batch, count = get("per_device_train_batch_size"), sum(number for number, _ in examples)
        tokens = sum(number * min(length, get("max_length") or math.inf) for number, length in examples)
        epochs, processes = get("num_train_epochs"), self._processes(options)
        if get("max_steps") > 0:
            epochs = get("max_steps") * get("gradient_accumulation_steps") * batch * processes / count
        adapter, recomputes = self.config.cold_start.lora is not None, get("gradient_checkpointing")
        model = self._trained(options)
        updates = updating(model, tokens, count / batch, adapter=adapter, recomputes=recomputes)
        return epochs * updates / processes

    # -- RL ---------------------------------------------------------------------------------------------------

    def _train(self, step: Step) -> float:
        """One stage by RL: rollouts, passes for log-probabilities and updates, and what the actor writes."""
        stage, (t, _) = self.config.stages[step.subject], self._train_texts()
        get = partial(option, as_dict(stage))
        asks, length = {
            "critique_rl": (t.asks_critique, t.critique),
            "actor_rl": (t.asks_response, t.response),
            "pairwise_critic": (t.asks_preference, t.critique),
            "mixed": (t.asks_preference, t.critique),
        }.get(stage.method, (None, 0.0))
        rl_steps = get("rl_steps") or (None if stage.method == "critique_rl" else 500)
        if asks is None or rl_steps is None:
            raise UserError("there is no formula for its method" if asks is None else "`rl_steps` is not set")
        micro, accumulated = get("per_device_train_batch_size"), get("gradient_accumulation_steps")
        processes = self._processes(stage.trainer)  # each has its share of a rollout
        texts = rollout_size(get, processes) / processes
        calls, passes = texts / micro, get("num_iterations")
        share = 1 / get("num_generations") if get("share_prompts") and not t.pictured else 1.0
        whole = texts * (length + asks * (1.0 if get("gradient_checkpointing") else share))
        scored = (get("beta") != 0) + (accumulated != calls * passes)  # for the reference, and off-policy
        adapts = self.config.trains_adapter(step.subject)
        critic, gae = self._trained(stage.trainer), get("advantage") == "gae"
        seconds = reading(critic, texts * share * asks) + writing(critic, texts, length, texts)
        seconds += (scored + gae) * reading(critic, whole, calls)
        updates = partial(updating, critic, whole, calls, recomputes=get("gradient_checkpointing"))
        seconds += passes * (updates(adapter=adapts) + gae * updates(adapter=False))
        if get("response_source") == "online":
            asked = texts / get("num_generations")
            seconds += self._asked(self._actor(), asked, t.asks_response, t.response)
        if get("refinement_reward"):
            alike = t.asks_response + t.response  # the refinements of a group begin alike
            own = t.asks_refinement - alike + share * alike
            seconds += self._asked(self._actor(), texts, own, t.refinement)
        return rl_steps * seconds

    # -- texts of frozen models -------------------------------------------------------------------------------

    def _pool(self, step: Step) -> float:
        t, problems = self._train_texts()
        asked = min(problems, self.config.pool.problems or problems)
        rounds = math.ceil(self.config.pool.samples / self._processes({}))  # of the process with most
        return rounds * self._asked(self._actor(), asked, t.asks_response, t.response)

    def _evaluate(self, step: Step) -> float:
        m, config = step.subject, self.config
        t, problems = self._texts([m.task])
        protocol = protocol_of(m.protocol, self.context.prompts, config.lengths, step.seed or 0)
        roles, chains = self.context.folder.roles(m.row), m.protocol.samples * problems
        chunks = math.ceil(chains / protocol.chunk_size / self._processes({}))  # of the process with most
        chains = min(chains, chunks * protocol.chunk_size)
        trained = self._frozen(config.evaluation.critic, config.base) if roles else None
        actor = trained if "actor" in roles else self._actor()
        asked = partial(self._asked, most=protocol.chunk_size)
        seconds = asked(actor, chains, t.asks_response, t.response)
        if "critic" in roles and m.protocol.asks_critic:
            seconds += m.protocol.rounds * asked(trained, chains, t.asks_critique, t.critique)
        if "critic" in roles or not m.protocol.asks_critic:
            seconds += m.protocol.rounds * asked(actor, chains, t.asks_refinement, t.refinement)
        return seconds

    def _asked(
        self, model: Model | None, texts: float, asks: float, length: float, most: float = math.inf
    ) -> float:
        """Seconds in which a model reads prompts and writes texts; none where a server does."""
        if model is None or not texts:
            self.served |= model is None
            return 0.0
        rows = min(texts, most, model.batch_size or max(1, BATCH_TOKENS // (asks + length)))
        return reading(model, texts * asks, texts / rows) + writing(model, texts, length, rows)

    # -- models and problems ----------------------------------------------------------------------------------

    def _train_texts(self) -> tuple[Tokens, int]:
        return self._texts(self.config.train or self.context.folder.tasks())

    def _texts(self, tasks: Sequence[TaskConfig]) -> tuple[Tokens, int]:
        """Mean tokens of the problems of tasks, and the number of problems."""
        key = repr(tasks)
        if key not in self._lengths:
            self._lengths[key] = self._counted(tasks)
        return self._lengths[key]

    def _counted(self, tasks: Sequence[TaskConfig]) -> tuple[Tokens, int]:
        try:
            problems = [p for task in tasks for p in self.context.problems(task)]
        except DataError:
            raise
        except UserError:  # the hub is out of reach
            sizes = [published_size(task) for task in tasks]
            if None in sizes or any(task.source is not None for task in tasks):
                raise
            counts = (
                min(size or 0, task.limit or size or 0) for size, task in zip(sizes, tasks, strict=True)
            )
            return self._assumed(), sum(counts)
        if not problems:
            return self._assumed(), 0
        return token_counts(problems, self.context.prompts, self.config.lengths), len(problems)

    def _assumed(self) -> Tokens:
        """Lengths where no problem can be read; pairs are as long as half of their limit."""
        self.assumed, shape = True, self._size(self.config.base).shape
        tokens = assumed_counts(self.config.lengths, pictured=shape is not None and shape.sees)
        pairs = (stage.trainer.get("pairs", {}) for stage in self.config.stages.values())
        limit = max((each.get("max_prompt_tokens") or 0 for each in pairs), default=0)
        return tokens._replace(asks_preference=max(tokens.asks_preference, limit / 2))

    def _actor(self) -> Model | None:
        return self._frozen(self.config.actor, self.config.base) if self.config.loads_actor else None

    def _processes(self, options: Mapping[str, Any]) -> int:
        return 1 if self._launch is None or options.get("use_cpu") else self._launch.processes

    def _frozen(self, spec: Mapping[str, Any], base: str = "") -> Model | None:
        """A model that `make_actor` loads; None where another program has it."""
        if spec.get("backend", "transformers") != "transformers":
            return None
        if self._launch is not None and spec.get("device") in (None, "cuda"):
            device, dtype = "cuda", spec.get("dtype") or "bfloat16"
        else:
            device, dtype = placement(spec.get("device"), spec.get("dtype"))
        model = self._model(str(spec.get("model") or base), device, dtype)
        return replace(model, batch_size=spec.get("batch_size"))

    def _trained(self, options: Mapping[str, Any]) -> Model:
        """The model that a trainer with these options loads; on a GPU it computes in the fastest type."""
        if self._launch is not None and not options.get("use_cpu"):
            bf16 = options.get("bf16") is not False
            return self._model(self.config.base, "cuda", torch.bfloat16 if bf16 else torch.float32)
        device = "cuda" if torch.cuda.is_available() and not options.get("use_cpu") else "cpu"
        dtype = init_options(options.get("model_init_kwargs")).get("dtype")
        if dtype is None:
            dtype = fastest_dtype(device) if device == "cuda" and options.get("bf16", True) else torch.float32
        return self._model(self.config.base, device, dtype)

    def _model(self, base: str, device: str, dtype: Any) -> Model:
        size = self._size(base)
        if size.parameters is None:
            raise UserError(f"{base}: {size.remark}")
        kind, name = torch.device(device).type, str(dtype).removeprefix("torch.")
        name = "bfloat16" if name in ("auto", "fastest") else name
        layers = size.shape.layers if size.shape else DEPTH
        if self._launch is not None and kind == "cuda":
            self.limits[f"{name} on {self._gpu.name}"] = self._gpu.limits
            return Model(size.parameters, layers, getattr(torch, name).itemsize, self._gpu.limits)
        try:
            limits = self._measure(kind, name)
        except NOT_HERE as error:
            raise UserError(f"{name} on {kind} cannot be measured here: {first_line(error)}") from error
        self.limits[f"{name} on {kind}"] = limits
        return Model(size.parameters, layers, getattr(torch, name).itemsize, limits)

    def _size(self, base: str) -> Size:
        if base not in self._sizes:
            task = self.config.train[0].name if self.config.train else "modular_chain"
            gguf = self.config.base_gguf if base == self.config.base else None
            self._sizes[base] = model_size(base, gguf, task=task)
        return self._sizes[base]
