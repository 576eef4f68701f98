"""Number of weights of a model and the shape of its decoder, without loading it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, NamedTuple

from critique_rl.adapters import base_of, is_adapter


class Shape(NamedTuple):
    """Shape of a decoder, in layers and numbers.

    Attributes:
        layers: Number of its layers.
        hidden: Width between layers.
        feed_forward: Inner width of a layer.
        keys: Width of the keys of a token in a layer; the values have the same.
        vocabulary: Number of tokens.
        sees: Whether it reads images.
    """

    layers: int
    hidden: int
    feed_forward: int
    keys: int
    vocabulary: int
    sees: bool = False


class Size(NamedTuple):
    """Size of a model.

    Attributes:
        parameters: Number of weights; None where nothing tells it.
        remark: The number for people, or why it is unknown.
        shape: Shape of its decoder; None where there is no config.
    """

    parameters: int | None
    remark: str
    shape: Shape | None = None


QWEN25_3B, QWEN25_7B = Shape(36, 2048, 11_008, 256, 151_936), Shape(28, 3584, 18_944, 512, 152_064)
PUBLISHED: dict[str, tuple[int, Shape]] = {
    "HuggingFaceTB/SmolLM2-135M-Instruct": (134_515_008, Shape(30, 576, 1536, 192, 49_152)),
    "Qwen/Qwen2.5-Coder-0.5B-Instruct-GGUF": (494_032_768, Shape(24, 896, 4864, 128, 151_936)),
    "Qwen/Qwen2.5-3B": (3_085_938_688, QWEN25_3B),
    "meta-llama/Llama-3.2-3B-Instruct": (3_212_749_824, Shape(28, 3072, 8192, 1024, 128_256)),
    "Qwen/Qwen2.5-7B": (7_615_616_512, QWEN25_7B),
    "Qwen/Qwen2.5-7B-Instruct": (7_615_616_512, QWEN25_7B),
    "Skywork/Skywork-Reward-V2-Llama-3.1-8B": (8_030_261_248, Shape(32, 4096, 14_336, 1024, 128_256)),
    "Qwen/Qwen2.5-VL-3B-Instruct": (3_754_622_976, QWEN25_3B._replace(sees=True)),
    "Qwen/Qwen2.5-VL-7B-Instruct": (8_292_166_656, QWEN25_7B._replace(sees=True)),
    "russwang/ThinkLite-VL-7B": (8_292_166_656, QWEN25_7B._replace(sees=True)),
    "XiaomiMiMo/MiMo-VL-7B-RL-2508": (8_301_791_232, Shape(36, 4096, 11_008, 1024, 151_680, sees=True)),
    "Qwen/Qwen3-VL-8B-Instruct": (8_767_123_696, Shape(36, 4096, 12_288, 1024, 151_936, sees=True)),
}
"""Weights and shapes of the models of `experiments/configs`; for plans made out of the hub's reach."""


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
        return Size(count, f"{count:,} parameters, made on the spot", _shape(model.config))
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText

    try:
        config = AutoConfig.from_pretrained(base, **({"gguf_file": gguf} if gguf else {}))
    except (OSError, ValueError):
        if base in PUBLISHED:
            count, shape = PUBLISHED[base]
            return Size(count, f"{_short(count)} parameters as published, {_unread(base)}", shape)
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
    return Size(count, f"{_short(count)} parameters", _shape(config))


def likely_shape(parameters: int) -> Shape:
    """Shape of a usual decoder of this many weights, where no config gives it; no heads share keys."""
    layers = 32 if parameters > 1e9 else 24
    hidden = 64 * max(1, round((parameters / (12 * layers)) ** 0.5 / 64))
    return Shape(layers, hidden, 4 * hidden, hidden, 152_064)


def _shape(config: Any) -> Shape | None:
    text = config.get_text_config()
    names = ("num_hidden_layers", "hidden_size", "intermediate_size", "vocab_size")
    numbers: list[Any] = [getattr(text, name, None) for name in names]
    if not all(isinstance(number, int) for number in numbers):
        return None
    layers, hidden, inner, vocabulary = numbers
    heads = getattr(text, "num_attention_heads", None) or 1
    groups = getattr(text, "num_key_value_heads", None) or heads
    keys = groups * (getattr(text, "head_dim", None) or hidden // heads)
    return Shape(layers, hidden, inner, keys, vocabulary, getattr(config, "vision_config", None) is not None)


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


def _short(count: int) -> str:
    return f"{count / 1e9:.2f} B" if count >= 1e9 else f"{count / 1e6:.1f} M"
