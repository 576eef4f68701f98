"""Weights that several processes share: whole models beside them, and the part of a weight that is here.

Under ZeRO-3 `transformers` cuts each model that it loads into parts for all processes. A model that one process
loads for itself must be whole: the others would never send their parts.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def loading_whole() -> Iterator[None]:
    """Load models with `from_pretrained` inside as a single process would, without asking other processes."""
    from transformers.integrations import deepspeed

    reference: Any = deepspeed._hf_deepspeed_config_weak_ref  # there is a setter and no getter
    config = None if reference is None else reference()
    deepspeed.unset_hf_deepspeed_config()
    try:
        yield
    finally:
        if config is not None:
            deepspeed.set_hf_deepspeed_config(config)


def launched_in_parts() -> str:
    """What cuts the weights of each training into parts, by the variables of `accelerate launch`; else empty."""
    switches = {"FSDP": "ACCELERATE_USE_FSDP", "DeepSpeed": "ACCELERATE_USE_DEEPSPEED"}
    named = [name for name, switch in switches.items() if os.environ.get(switch, "").lower() in ("true", "1")]
    if named == ["DeepSpeed"]:
        stage = os.environ.get("ACCELERATE_DEEPSPEED_ZERO_STAGE", "")
        named = ["ZeRO-3"] if stage == "3" else []
    return named[0] if named else ""


def has_parts(accelerator: Any) -> str:
    """What cuts the weights of a training into parts; empty if nothing does."""
    if accelerator.distributed_type.value == "FSDP":
        return "FSDP"
    return "ZeRO-3" if getattr(accelerator.state.deepspeed_plugin, "zero_stage", 0) == 3 else ""


def is_dtensor(weight: Any) -> bool:
    """Whether FSDP2 has cut a weight into parts; its operations mix with no plain tensor."""
    tensor = sys.modules.get("torch.distributed.tensor")  # without it no weight is cut
    return tensor is not None and isinstance(weight, tensor.DTensor)


def part_here(weight: Any) -> Any:
    """The part of a weight that this process holds, without a gradient; all of it where it is not cut."""
    if is_dtensor(weight):
        return weight.to_local().detach()
    part = getattr(weight, "ds_tensor", None)  # ZeRO-3, which leaves the weight itself empty between passes
    if part is None:
        return weight.detach()
    import torch

    before = torch.distributed.get_rank(weight.ds_process_group) * part.ds_numel
    return part.detach().flatten()[: max(0, weight.ds_numel - before)]  # padding behind it was never written
