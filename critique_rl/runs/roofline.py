"""Limits of this machine, its best matmul and fastest read of memory, and the time of a model's work at them."""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

Shape = tuple[int, int, int]

MATMULS: tuple[Shape, ...] = (
    (1024, 896, 4864),
    (2048, 896, 4864),
    (2048, 4864, 896),
    (4096, 896, 4864),
)
"""Rows, inner size and columns of the products that measure the arithmetic limit: layers of the 0.5B shape."""
READ_BYTES = 1 << 30
"""Size of the array that measures the memory limit, far above any cache."""
QUICK_MATMULS: dict[str, tuple[Shape, ...]] = {"cpu": ((256, 896, 4864),), "cuda": ((8192, 4096, 8192),)}
"""The product of a plan, by kind of device: a processor without bfloat16 takes half a second for its own."""
QUICK_BYTES = 1 << 28
"""Size of the array of a plan, above most caches; a larger one takes a second to fill."""

LOGPS = "old and reference log-probabilities"
READING = 0.7
"""Share of the best matmul that a pass without a gradient reaches: 66 to 79 % with 0.5 B weights, see
docs/performance.md and experiments/results/bench/qwen2.5-0.5b-lora.json."""
WORKING = 0.45
"""Share of its limit that an update or decoding reaches, from the same place: an update 46 % of the best matmul;
steps of decoding take 160 and 107 ms, of which reading the weights and arithmetic at the limits are 64."""
LAYER_SECONDS = 1e-3
"""Time of a layer in a call, however small the model, from experiments/results/bench/tiny.json: with 2 layers a
Stage II step of 128 critiques takes 0.39 s, of which these formulas find half in arithmetic."""


class Limits(NamedTuple):
    """Limits of one device.

    Attributes:
        flop: Best matmul of one type, in FLOP/s.
        bandwidth: Best read of memory, in bytes/s.
    """

    flop: float
    bandwidth: float


@dataclass(frozen=True)
class Model:
    """A model as one part of a run loads it.

    Attributes:
        parameters: Number of weights.
        layers: Layers of its decoder.
        weight_bytes: Bytes of a weight.
        limits: Limits of its device, in its type.
        batch_size: Most texts that it writes at once; None is the default of `TransformersActor`.
    """

    parameters: int
    layers: int
    weight_bytes: int
    limits: Limits
    batch_size: int | None = None


@functools.cache
def quick_limits(device: str, dtype: str) -> Limits:
    """Limits of a kind of device, `cpu` or `cuda`, for a plan: within about a second, and a few percent lower."""
    shapes = QUICK_MATMULS.get(device, QUICK_MATMULS["cpu"])
    measured = machine_limits(device, [dtype], shapes=shapes, read_bytes=QUICK_BYTES, least=2, seconds=0.2)
    if device == "cuda":
        torch.cuda.empty_cache()
    return Limits(measured["flop_per_second"][dtype], measured["bytes_per_second"])


def machine_limits(
    device: str,
    dtypes: Iterable[str],
    *,
    shapes: Sequence[Shape] = MATMULS,
    read_bytes: int = READ_BYTES,
    least: int = 3,
    seconds: float = 0.5,
) -> dict[str, Any]:
    """Best matmul of each dtype in FLOP/s, and best read of memory in bytes/s, with the threads of torch.

    Args:
        device: Device, for instance `cpu`.
        dtypes: Names of torch's types.
        shapes: Rows, inner size and columns of the products; the best one counts.
        read_bytes: Size of the array that is read.
        least: Fewest times that each piece is timed.
        seconds: Time of each piece after which it is timed no more.
    """

    def fastest(work: Callable[[], Any]) -> float:
        times: list[float] = []
        while len(times) < least or (sum(times) < seconds and len(times) < 50):
            began = time.perf_counter()
            work()
            if device == "cuda":
                torch.cuda.synchronize()
            times.append(time.perf_counter() - began)
        return min(times)

    flop: dict[str, float] = {}
    for dtype in dtypes:
        for rows, inner, columns in shapes:
            a = torch.randn(rows, inner, device=device).to(getattr(torch, dtype))
            b = torch.randn(columns, inner, device=device).to(a.dtype).t()  # as a layer holds its weights
            rate = 2 * rows * inner * columns / fastest(lambda a=a, b=b: a @ b)  # type: ignore[misc]
            flop[dtype] = max(flop.get(dtype, 0.0), rate)
    big = torch.ones(read_bytes // 4, device=device)
    table, vector = big.view(-1, 4096), torch.ones(4096, device=device)
    reads: list[Callable[[], Any]] = [big.sum, big.max, lambda: table @ vector]
    return {"flop_per_second": flop, "bytes_per_second": read_bytes / min(map(fastest, reads))}


# -- formulas, in seconds -----------------------------------------------------------------------------------


def reading(model: Model, tokens: float, calls: float = 1) -> float:
    """A pass without a gradient: 2 FLOP a weight and token."""
    return 2 * model.parameters * tokens / (READING * model.limits.flop) + fixed(model, calls)


def writing(model: Model, texts: float, tokens: float, rows: float) -> float:
    """Writing of texts, `rows` at once: each step reads all weights and makes one token of each text."""
    batches = max(1, math.ceil(texts / rows))
    weights = model.parameters * model.weight_bytes / model.limits.bandwidth
    arithmetic = 2 * model.parameters * (texts / batches) / model.limits.flop
    return batches * (tokens * (weights + arithmetic) / WORKING + fixed(model, tokens))


def updating(model: Model, tokens: float, calls: float, *, adapter: bool, recomputes: bool) -> float:
    """Forward and backward passes: 6 FLOP a weight and token, 4 if the weights are frozen, 2 more to recompute."""
    flop = (4 if adapter else 6) + 2 * recomputes
    return flop * model.parameters * tokens / (WORKING * model.limits.flop) + fixed(model, 3 * calls)


def phase_seconds(bench: Mapping[str, Any], *, adapter: bool) -> dict[str, float]:
    """Seconds that the formulas give the phases of a Stage II step that `experiments/bench.py` measured.

    Args:
        bench: Content of its result file, of a shape with 0.5 B weights.
        adapter: Whether the weights were frozen.
    """
    ours, limits = bench["stage2"]["ours"], bench["limits"]
    turns = len(ours["all"])
    positions = {phase: count / turns for phase, count in ours["positions"].items()}
    rows, limit = ours["texts"]["critiques"]["rows"] / turns, 96
    rate = Limits(limits["flop_per_second"]["bfloat16"], limits["bytes_per_second"])
    model = Model(494_032_768, layers=24, weight_bytes=2, limits=rate)
    update, scored = (positions[phase] for phase in ("forward and backward", LOGPS))
    return {
        "critique prefill": reading(model, positions["critique prefill"]),
        "critique decode": writing(model, rows, limit, rows),
        "refine prefill": reading(model, positions["refine prefill"]),
        "refine decode": writing(model, rows, limit, rows),
        "forward and backward": updating(model, update, rows / 8, adapter=adapter, recomputes=False),
        LOGPS: reading(model, scored, rows / 8),
    }


def fixed(model: Model, calls: float) -> float:
    """What calls of a model take besides arithmetic and memory; a backward pass is two calls."""
    return calls * model.layers * LAYER_SECONDS
