"""Memory of a training on one GPU by part: a rough formula, meant to be right within a quarter.

What stays: weights, gradients, AdamW's two moments, the reference of the KL, PPO's value model, and frozen models
in the same process. What comes and goes, of which the largest counts: the cache of the critiques that are drawn,
that of the actor's replies, the reference that a pass brings together, activations and output layer of an update.

trl loads policy and reference in float32 whatever the autocast type, so that small updates are not rounded away.
An adapter shares its weights with its reference. DDP copies gradients into buckets. Autocast keeps 16-bit copies
of float32 weights. FSDP brings 16-bit layers together one by one, but trl wraps the reference as one piece.
DeepSpeed holds 16-bit weights and their float32 originals; trl brings those of ZeRO-3 together to draw critiques.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from critique_rl.runs.launch import GIB, Launch
from critique_rl.runs.sizes import Shape

TILE = 4096 * 32_768
"""Logits that trl's output layer holds at once on a GPU: tokens times words."""
LIVE_WEIGHTS = 1e9
"""Most weights that ZeRO-3 has together by default (`stage3_max_live_parameters`)."""
EYE = Shape(32, 1280, 3420, 1280, 0)
"""Shape of the part that reads images, as in Qwen2.5-VL."""
PATCH = 14 * 14
"""Pixels that it reads as one position."""
RUNTIME, FRAGMENTS = 2 * GIB, 0.05
"""CUDA and NCCL, and the share of all else that the allocator loses."""


@dataclass(frozen=True, kw_only=True)
class Frozen:
    """A frozen model beside the training.

    Attributes:
        parameters: Number of weights.
        weight_bytes: Bytes of a loaded weight.
        shape: Shape of the model.
        tokens: Tokens of its largest batch.
    """

    parameters: int
    weight_bytes: int
    shape: Shape
    tokens: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Training:
    """What the memory of one training depends on, in numbers of one process.

    Attributes:
        parameters: Number of weights.
        shape: Shape of the model.
        trained: Number of weights with a gradient; below `parameters` for an adapter.
        rows: Rows of a micro-batch.
        tokens: Most tokens of a row, prompt and completion.
        completion: Those of the completion.
        drawn: Completions that are drawn at once; 0 where another program draws them.
        reference: Whether a second model is the reference.
        values: Whether PPO's value model learns beside it.
        half: Whether it computes in 16 bits.
        weight_bytes: Bytes of a loaded weight.
        recomputes: Whether activations are computed again in the backward pass.
        pixels: Most pixels of an image of a row.
        engine: Bytes that vLLM keeps in the same process.
        actor: The actor in the same process.
        scorer: The scorer in the same process.
    """

    parameters: int
    shape: Shape
    trained: int
    rows: int
    tokens: float
    completion: float
    drawn: float = 0.0
    reference: bool = False
    values: bool = False
    half: bool = True
    weight_bytes: int = 4
    recomputes: bool = True
    pixels: float = 0.0
    engine: float = 0.0
    actor: Frozen | None = None
    scorer: Frozen | None = None


class Need(NamedTuple):
    """Bytes on each GPU.

    Attributes:
        kept: Parts that stay.
        phases: Parts of each phase of an RL step; the largest phase counts.
    """

    kept: dict[str, float]
    phases: dict[str, dict[str, float]]

    @property
    def peak(self) -> dict[str, float]:
        """Parts of the largest phase."""
        return max(self.phases.values(), key=lambda parts: sum(parts.values()))

    @property
    def parts(self) -> dict[str, float]:
        """All parts that are there at the same time, at the worst moment."""
        parts = {**self.kept, **self.peak}
        return {**parts, "CUDA and fragments": RUNTIME + FRAGMENTS * sum(parts.values())}

    @property
    def total(self) -> float:
        """Bytes at the worst moment."""
        return sum(self.parts.values())


def need(t: Training, launch: Launch) -> Need:
    """Memory of a training with a launch; parts of zero are left out."""
    kept = _state(t, launch)
    kept |= {"value model": 16.0 * t.parameters * t.values}
    for name, model in (("actor", t.actor), ("scorer", t.scorer)):
        kept[name] = float(model.parameters * model.weight_bytes) if model else 0.0
    kept["vLLM"] = t.engine
    sampling, update = _brought_together(t, launch)
    answers = t.actor and cache(t.actor.shape, t.actor.tokens, t.actor.weight_bytes)
    phases = {
        "drawing critiques": {
            "KV cache": cache(t.shape, t.drawn * t.tokens, 2 if t.half else 4),
            "logits": 12.0 * t.drawn * t.shape.vocabulary,  # float32, scaled, and as probabilities
            "weights brought together": sampling if t.drawn else 0.0,
        },
        "replies of the actor": {"KV cache of the actor": answers or 0.0},
        "scoring": {"reference brought together": 2.0 * t.parameters * _whole_reference(t, launch)},
        "update": {
            "activations": activations(t, launch),
            "logits and output layer": _head(t, launch),
            "weights brought together": update,
        },
    }
    present = {phase: {name: size for name, size in parts.items() if size} for phase, parts in phases.items()}
    return Need(
        {name: size for name, size in kept.items() if size},
        {phase: parts for phase, parts in present.items() if parts},
    )


def adapter_weights(shape: Shape, rank: int) -> int:
    """Weights of an adapter on all linear layers, the most that `lora` trains."""
    inside = 4 * shape.hidden + 2 * (shape.hidden + shape.keys) + 3 * (shape.hidden + shape.feed_forward)
    return rank * shape.layers * inside


def cache(shape: Shape, tokens: float, number_bytes: int) -> float:
    """Keys and values of tokens in all layers."""
    return 2.0 * shape.layers * shape.keys * number_bytes * tokens


def activations(t: Training, launch: Launch) -> float:
    """What the backward pass of one micro-batch needs: the text's layers, and those that read images."""
    number = 2 if t.half else 4
    between = 4 if launch.kind in ("one", "ddp") else number  # autocast adds in float32
    kept = 0.0
    for shape, positions in ((t.shape, t.rows * t.tokens), (EYE, t.rows * t.pixels / PATCH)):
        inside = number * (6 * shape.hidden + 2 * shape.keys + 4 * shape.feed_forward)
        layer = positions * (inside + 2 * between * shape.hidden)
        if t.recomputes:  # inputs of all layers; one layer with its gradients
            kept += shape.layers * positions * between * shape.hidden + 2 * layer * (positions > 0)
        else:
            kept += shape.layers * layer
    return kept


def _state(t: Training, launch: Launch) -> dict[str, float]:
    """Weights, gradients, moments and reference on each GPU."""
    shards, kind, own = launch.shards, launch.kind, t.weight_bytes
    spread = launch.processes
    if kind == "fsdp":
        own = 4 if t.half and t.trained == t.parameters else own  # accelerate makes trained weights float32
    if kind.startswith("zero") and t.half:
        weights = 2.0 * t.parameters / shards + 4.0 * t.trained / spread
        gradients = 2.0 * t.trained / (1 if kind == "zero1" else spread)
        moments, reference = 8.0 * t.trained / spread, 2.0 * t.parameters / shards
    else:
        cut = spread if kind.startswith("zero") else shards
        number = 4 if t.trained < t.parameters else own  # an adapter is float32 on any base
        weights, gradients = own * t.parameters / shards, number * t.trained / cut
        gradients *= 2 if kind == "ddp" and launch.processes > 1 else 1
        moments, reference = 2.0 * number * t.trained / cut, t.weight_bytes * t.parameters / shards
    here, optimizer_here = not launch.weights_on_cpu, not launch.optimizer_on_cpu
    return {
        "weights": weights * here,
        "gradients": gradients * here,
        "moments": moments * (here and optimizer_here),
        "reference": reference * t.reference * here,
    }


def _whole_reference(t: Training, launch: Launch) -> bool:
    return t.reference and launch.kind == "fsdp"


def _brought_together(t: Training, launch: Launch) -> tuple[float, float]:
    """Bytes of 16-bit weights beside the shards, or beside float32 ones: in sampling and in an update."""
    shape = t.shape
    if launch.kind in ("one", "ddp"):
        copies = 2.0 * t.parameters if t.half and t.weight_bytes > 2 else 0.0
        return copies, copies
    if launch.kind == "fsdp":
        layer = (t.parameters - shape.vocabulary * shape.hidden) / shape.layers
        some = 2.0 * (2 * layer + 2 * shape.vocabulary * shape.hidden)
        return some, some
    if launch.kind == "zero3":
        return 2.0 * t.parameters, 2.0 * min(t.parameters, LIVE_WEIGHTS)
    return 0.0, 0.0


def _head(t: Training, launch: Launch) -> float:
    """A tile of logits, the output layer in the type of the pass, its float32 gradient, and that of its inputs."""
    shape = t.shape
    layer = shape.vocabulary * shape.hidden
    copy = (4 if launch.kind == "fsdp" or not t.half else 2) * layer
    gradient = 4 * layer if t.trained == t.parameters else 0
    tile = 4.0 * min(TILE, t.rows * t.completion * min(shape.vocabulary, 32_768))
    return tile + copy + gradient + 4.0 * t.rows * t.completion * shape.hidden
