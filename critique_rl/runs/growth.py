"""A Stage II step on paper for many GPUs: which part bounds it, and how many servers of the actor keep it busy.

Arithmetic and decoding are the planner's, `runs.roofline`. Weights are in parts over all GPUs: each pass brings
each layer together, and an update also adds up its gradients. A part takes as long as the longer of its arithmetic
and its network, which overlap. The actor's servers work while the processes compute log-probabilities.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import NamedTuple

from critique_rl.runs.launch import Gpu
from critique_rl.runs.lengths import Tokens
from critique_rl.runs.roofline import Model, reading, updating, writing
from critique_rl.runs.sizes import Shape

PER_MACHINE = 8
INSIDE, BETWEEN = 300e9, 25e9
"""Bytes/s of a GPU one way, to the others of its machine and to other machines: NVLink of an A100, and a network
card of 200 Gbit/s for each GPU, by data sheet."""
MOVED = 0.7
"""Share of it that a collective reaches; a guess."""
HOP = 5e-6
"""Seconds from one GPU to the next in a collective; a guess."""
ROWS = 256
"""Most texts that a server writes at once: the default of vLLM."""


class Shapes(NamedTuple):
    """What a step does.

    Attributes:
        critiques: Critiques of a step on each GPU.
        group: Critiques of a response.
        rows: Critiques of a micro-batch.
        passes: Updates from each rollout.
        tokens: Mean lengths.
    """

    critiques: float
    group: int
    rows: int
    passes: int
    tokens: Tokens


class Part(NamedTuple):
    """Seconds of a part by arithmetic, with reading of memory, and by the network."""

    arithmetic: float
    network: float = 0.0

    @property
    def seconds(self) -> float:
        """Both overlap."""
        return max(self.arithmetic, self.network)

    @property
    def bound(self) -> str:
        """What bounds it."""
        return "network" if self.network > self.arithmetic else "arithmetic and memory"


class Step(NamedTuple):
    """A Stage II step on some GPUs.

    Attributes:
        parts: Seconds of the parts that follow each other on the training GPUs.
        by_transformers: Seconds of the critiques if transformers writes them: all weights move for each token.
        one_server: Seconds that one server of one GPU takes for all refinements.
    """

    parts: dict[str, Part]
    by_transformers: float
    one_server: float

    @property
    def seconds(self) -> float:
        """Seconds of the step where the actor is not waited for."""
        return sum(part.seconds for part in self.parts.values())

    @property
    def servers(self) -> int:
        """Fewest servers whose refinements are there when the log-probabilities are."""
        return math.ceil(self.one_server / self.parts["log-probabilities"].seconds)

    def busy(self, servers: float) -> float:
        """Share of the time in which the training GPUs work, with so many servers."""
        waits = max(0.0, self.one_server / servers - self.parts["log-probabilities"].seconds)
        return self.seconds / (self.seconds + waits)

    @property
    def longest(self) -> str:
        """Name of the longest part."""
        return max(self.parts, key=lambda name: self.parts[name].seconds)


def step(parameters: int, shape: Shape, work: Shapes, gpus: int, gpu: Gpu) -> Step:
    """A step of a full fine-tune in bfloat16 with recomputed activations; one GPU trains an adapter."""
    model = Model(parameters, shape.layers, 2, gpu.limits)
    vllm = replace(model, layers=0)  # its CUDA graphs have no calls of layers, which take time of their own
    t, critiques = work.tokens, work.critiques
    positions = critiques * (t.asks_critique + t.critique)
    calls = critiques / work.rows
    weights = collective(2.0 * parameters, shape.layers, gpus)  # once for each of a pass's micro-batches
    one = gpus == 1
    prompts = reading(model, critiques * t.asks_critique / work.group)
    parts = {
        # by vLLM beside the trainer, whose weights are brought together once
        "critiques": Part(prompts + writing(vllm, critiques, t.critique, critiques), weights),
        # of the policy and of the reference
        "log-probabilities": Part(2 * reading(model, positions, calls), 2 * calls * weights),
        # weights for the forward and the backward pass, then gradients
        "update": Part(
            work.passes * updating(model, positions, calls, adapter=one, recomputes=True),
            work.passes * calls * 3 * weights,
        ),
    }
    alone = Part(prompts + writing(model, critiques, t.critique, critiques), t.critique * weights)
    texts = critiques * gpus
    own = t.asks_refinement - (t.asks_response + t.response) * (1 - 1 / work.group)
    refined = reading(vllm, texts * own) + writing(vllm, texts, t.refinement, min(texts, ROWS))
    return Step(parts, alone.seconds, refined)


def collective(size: float, layers: int, gpus: int) -> float:
    """Seconds to bring `size` bytes together on all GPUs, layer by layer around a ring; a sum takes as long."""
    if gpus == 1:
        return 0.0
    rate = INSIDE if gpus <= PER_MACHINE else min(INSIDE, PER_MACHINE * BETWEEN)
    return size * (gpus - 1) / gpus / (MOVED * rate) + layers * (gpus - 1) * HOP
