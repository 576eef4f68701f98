"""Number of weights of a model, and the memory that its training needs, without loading it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, NamedTuple

from critique_rl.adapters import base_of, is_adapter


class Size(NamedTuple):
    """Size of a model.

    Attributes:
        parameters: Number of weights; None where nothing tells it.
        remark: The number for people, or why it is unknown.
        layers: Layers of its decoder; None where there is no config.
    """

    parameters: int | None
    remark: str
    layers: int | None = None


def model_size(base: str, gguf: str | None = None, *, task: str = "modular_chain") -> Size:
    """Size from the model's config alone, or else from its name.

    Args:
        base: Directory, hub id or `tiny`.
        gguf: GGUF file inside `base`.
        task: What `tiny` is made for; its vocabulary has the words of the task, and on pictures it sees.
    """
    if base == "tiny":
        from critique_rl.cold_start import tiny

        model, _ = tiny.untrained(task, seed=0)
        count = sum(p.numel() for p in model.parameters())
        return Size(count, f"{count:,} parameters, made on the spot", _layers(model.config))
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText

    try:
        config = AutoConfig.from_pretrained(base, **({"gguf_file": gguf} if gguf else {}))
    except (OSError, ValueError):
        named = re.search(r"(\d+(?:\.\d+)?)([bm])\b", base.lower())
        if named is None:
            return Size(None, f"size unknown, {_unread(base)}")
        count = int(float(named[1]) * (1e9 if named[2] == "b" else 1e6))
        return Size(count, f"{_short(count)} parameters by its name, {_unread(base)}")
    sees = getattr(config, "vision_config", None) is not None
    with torch.device("meta"):
        model = (AutoModelForImageTextToText if sees else AutoModelForCausalLM).from_config(config)
    model.tie_weights()
    count = sum(p.numel() for p in model.parameters())
    return Size(count, f"{_short(count)} parameters", _layers(config))


def _layers(config: Any) -> int | None:
    return getattr(config.get_text_config(), "num_hidden_layers", None)


def _unread(base: str) -> str:
    """Why the config of a model could not be read, and so is not checked."""
    from huggingface_hub import is_offline_mode

    if Path(base).is_dir():
        return "not checked: its config cannot be read"
    asked = "is not asked (offline)" if is_offline_mode() else "does not give it"
    return f"not checked: no such folder, none in the local cache, and the hub {asked}"


def parameters(path: str) -> int | None:
    """Number of weights of a model, an adapter with those of its base; None where it cannot be told.

    Args:
        path: Directory, hub id or URL.
    """
    from safetensors import safe_open

    directory = Path(path)
    if "://" in path:
        return None
    if not directory.is_dir():
        return model_size(path).parameters
    count = 0
    for file in directory.glob("*.safetensors"):
        with safe_open(file, "pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118 - it is no mapping
                size = 1
                for length in tensors.get_slice(name).get_shape():
                    size *= length
                count += size
    if is_adapter(directory):
        whole = parameters(base_of(directory))
        return None if whole is None else whole + count
    return count or None


def memory(parameters: int, *, lora: bool, reference: bool) -> int:
    """Rough bytes of one rank's training state, without sharding, activations and the actor.

    trl loads policy and reference in float32 whatever the autocast type, so that small updates are not
    rounded away. Full fine-tuning holds weights, gradients, AdamW's two moments and the reference; an
    adapter is small beside the weights, which it shares with its reference.
    """
    copies = 1 if lora else 4 + reference
    return 4 * copies * parameters


def _short(count: int) -> str:
    return f"{count / 1e9:.2f} B" if count >= 1e9 else f"{count / 1e6:.1f} M"
