"""The launch of a run, read from an accelerate configuration, and the GPUs that it is planned for."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import yaml

from critique_rl.runs.roofline import Limits
from critique_rl.types import UserError

GIB = 2**30
KINDS = {
    "one": "one process",
    "ddp": "whole weights on each GPU",
    "fsdp": "weights in parts by FSDP",
    "zero1": "optimizer in parts by ZeRO-1",
    "zero2": "optimizer and gradients in parts by ZeRO-2",
    "zero3": "weights in parts by ZeRO-3",
}
"""Ways to spread a training over processes, in words."""


class Gpu(NamedTuple):
    """A card.

    Attributes:
        name: Its name.
        memory: Bytes that programs get of it.
        limits: Arithmetic in bfloat16 without sparsity, in FLOP/s, and memory, in bytes/s, by its data sheet.
    """

    name: str
    memory: float
    limits: Limits


GPUS = {
    gpu.name: gpu
    for gpu in (
        Gpu("A100-40GB", 39.4 * GIB, Limits(312e12, 1.555e12)),
        Gpu("A100-80GB", 79.2 * GIB, Limits(312e12, 2.039e12)),
        Gpu("H100-80GB", 79.1 * GIB, Limits(989e12, 3.35e12)),
        Gpu("H200-141GB", 139.8 * GIB, Limits(989e12, 4.8e12)),
        Gpu("L40S-48GB", 44.4 * GIB, Limits(362e12, 0.864e12)),
        Gpu("RTX4090-24GB", 23.5 * GIB, Limits(165e12, 1.008e12)),
    )
}
"""Cards by name. The papers used the first of 80 GB, or its A800, which differs in the network alone."""
DEFAULT_GPU = "A100-80GB"


class Launch(NamedTuple):
    """How processes share a training.

    Attributes:
        kind: Key of `KINDS`.
        processes: Processes of all machines, one a GPU.
        machines: Number of machines.
        path: File that says so; empty for one process without a file.
        weights_on_cpu: Whether weights, gradients and optimizer wait in the CPU's memory.
        optimizer_on_cpu: Whether the optimizer does.
    """

    kind: str = "one"
    processes: int = 1
    machines: int = 1
    path: str = ""
    weights_on_cpu: bool = False
    optimizer_on_cpu: bool = False

    @property
    def shards(self) -> int:
        """Number of parts of the weights."""
        return self.processes if self.kind in ("fsdp", "zero3") else 1

    def __str__(self) -> str:
        count = "1 process" if self.processes == 1 else f"{self.processes} processes"
        where = f" on {self.machines} machines" if self.machines > 1 else ""
        how = f"{count}{where}" + (f", {KINDS[self.kind]}" if self.kind != "one" else "")
        return f"{self.path}: {how}" if self.path else how


def read_launch(path: str | Path) -> Launch:
    """Read an accelerate configuration.

    Raises:
        UserError: The file is missing, is no such configuration, or spreads weights in a way that is not planned.
    """
    try:
        data: Any = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(
            f"no launch at {path}: name an accelerate configuration, as in experiments/launch."
        ) from error
    except (OSError, yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read as an accelerate configuration: {error}") from error
    if not isinstance(data, dict) or "distributed_type" not in data:
        raise UserError(f"{path} is no accelerate configuration: it has no distributed_type.")
    processes, machines = (data.get(name, 1) for name in ("num_processes", "num_machines"))
    if not all(isinstance(count, int) and count > 0 for count in (processes, machines)):
        raise UserError(f"{path}: num_processes and num_machines must be numbers above 0.")
    said = str(data["distributed_type"] or "NO")
    fsdp, deepspeed = data.get("fsdp_config") or {}, data.get("deepspeed_config") or {}
    if said in ("NO", "False"):  # YAML reads an unquoted NO as False
        return Launch("one", 1, 1, str(path))
    if said in ("MULTI_GPU", "MULTI_CPU"):
        return Launch("ddp", processes, machines, str(path))
    if said == "FSDP":
        whole = str(fsdp.get("fsdp_reshard_after_forward", "")).upper()
        if whole in ("HYBRID_SHARD", "NO_SHARD", "SHARD_GRAD_OP") or data.get("parallelism_config"):
            raise UserError(
                f"{path}: only full sharding by FSDP is planned, not {whole or 'several meshes'}."
            )
        return Launch("fsdp", processes, machines, str(path), bool(fsdp.get("fsdp_offload_params")))
    stage = deepspeed.get("zero_stage")
    if said == "DEEPSPEED" and stage in (1, 2, 3):
        weights, optimizer = (
            str(deepspeed.get(f"offload_{part}_device") or "none") != "none"
            for part in ("param", "optimizer")
        )
        return Launch(f"zero{stage}", processes, machines, str(path), weights, optimizer or weights)
    raise UserError(
        f"{path}: distributed_type {said} is not planned; it must be NO, MULTI_GPU, FSDP, or DEEPSPEED with "
        "zero_stage 1 to 3 in the same file."
    )
