"""Load frozen models, tokenizers and processors with `transformers`; errors name the location and the reason."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer, ProcessorMixin

from critique_rl.actors.base import ActorError
from critique_rl.actors.encoding import PromptEncoder
from critique_rl.adapters import base_of, is_adapter
from critique_rl.sharding import loading_whole
from critique_rl.types import UserError, first_line
from critique_rl.vision.models import is_vision_model, load_processor

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?")


def check_location(location: str) -> None:
    """Tell a mistyped path from a hub id, before the hub is asked for it.

    Raises:
        ActorError: `location` is neither a directory nor of the form of a hub id.
    """
    if not Path(location).is_dir() and not _HUB_ID.fullmatch(location):
        reason = "not a directory, and not the form of a hub id (owner/name)"
        raise ActorError(f"no model at {location}: {reason}")


def has_vision(location: str) -> bool:
    """Whether the model at `location` takes images; False also without a config, which loading then reports."""
    check_location(location)
    try:
        return is_vision_model(location)
    except UserError:
        return False


def placement(device: str | None, dtype: str | torch.dtype | None) -> tuple[str, str | torch.dtype]:
    """Fill in the defaults: a GPU if there is one; float32 on CPU, elsewhere the fastest type.

    Of several processes on a machine each takes its own GPU.

    On CPU the default is the same on all machines, because greedy output in bfloat16 depends on the processor.
    """
    if device is None and torch.cuda.is_available():
        device = f"cuda:{int(os.environ.get('LOCAL_RANK', '0')) % torch.cuda.device_count()}"
    device = device or "cpu"
    if dtype == "fastest" or (dtype is None and torch.device(device).type != "cpu"):
        return device, fastest_dtype(device)
    return device, torch.float32 if dtype is None else dtype


def fastest_dtype(device: str) -> torch.dtype:
    """bfloat16 where the device multiplies it in hardware, else float32.

    Processors do so with AVX-512 BF16 or AMX; on others it is slower than float32.
    """
    if torch.device(device).type == "cuda":
        able = torch.cuda.is_bf16_supported(including_emulation=False)
    elif torch.device(device).type == "cpu":
        known: Any = getattr(torch.cpu, "get_capabilities", dict)()  # torch below 2.10 does not say
        able = bool(known.get("avx512_bf16") or known.get("amx_bf16"))
    else:
        able = False
    return torch.bfloat16 if able else torch.float32


def init_options(options: Mapping[str, Any] | None) -> dict[str, Any]:
    """Arguments of `from_pretrained` for a model that is trained in this process, its `dtype` filled in.

    `fastest` becomes the type that it stands for on this machine; see `fastest_dtype`.
    """
    options = dict(options or {})
    if options.get("dtype") == "fastest":
        device = "cuda" if torch.cuda.is_available() else "cpu"
        options["dtype"] = str(fastest_dtype(device)).removeprefix("torch.")
    return options


def load_frozen(auto: Any, location: str, *, base: str | None = None, **options: Any) -> Any:
    """Load a model that is not trained; an adapter becomes part of its base, whose speed it then has.

    The model is whole in this process, also beside a training that shares its weights with other processes.

    Weights and adapter are added in float32 and rounded once: bfloat16 would swallow most of what RL changes, a
    fraction of the distance between two of its numbers.

    Args:
        auto: Auto class of `transformers` that loads it.
        location: Directory or hub id of whole weights, or directory of an adapter.
        base: Directory or hub id of an adapter's base, instead of the one that the adapter names.
        options: Further arguments of `from_pretrained`.

    Raises:
        ActorError: It cannot be loaded, or `base` is given for whole weights.
    """
    if not is_adapter(location):
        if base is not None:
            raise ActorError(f"base is for adapters, and {location} holds none: leave it out.")
        return load_pretrained(auto, "model", location, **options)
    from peft import PeftModel

    named = base or base_of(location)
    dtype = options.get("dtype")
    dtype = getattr(torch, dtype, None) if isinstance(dtype, str) else dtype  # None is the type of the file
    if dtype is not None:
        options["dtype"] = torch.float32
    try:
        model = load_pretrained(auto, "model", named, **options)
    except ActorError as error:
        raise ActorError(
            f"{location} is an adapter on {named}: {error} Say where that is with `base`."
        ) from error
    try:
        with loading_whole():
            merged = PeftModel.from_pretrained(model, location).merge_and_unload()
    except (OSError, ValueError, RuntimeError) as error:
        raise ActorError(f"the adapter {location} does not fit {named}: {first_line(error)}") from error
    return merged if dtype is None else merged.to(dtype)


def load_pretrained(auto: Any, kind: str, location: str, **options: Any) -> Any:
    """Load a model, whole in this process, or a tokenizer.

    Args:
        auto: Auto class of `transformers` that loads it.
        kind: Word for it in messages.
        location: Directory or hub id.
        options: Further arguments of `from_pretrained`; those that are None are left out.

    Raises:
        ActorError: It cannot be loaded.
    """
    check_location(location)
    try:
        with loading_whole():
            return auto.from_pretrained(location, **{k: v for k, v in options.items() if v is not None})
    except (OSError, ValueError) as error:
        is_dir = Path(location).is_dir()
        place = f" in directory {location}" if is_dir else f": {location} is no directory, and as a hub id"
        raise ActorError(f"cannot load a {kind}{place}: {first_line(error)}") from error


def load_encoder(
    source: Any, name: str, gguf_file: str | None, *, vision: bool, base: str | None = None
) -> PromptEncoder:
    """Build the encoder of the model `name` from a tokenizer or processor.

    A processor that cannot be loaded is not an error yet: the model may be needed for text alone.

    Args:
        source: Tokenizer or processor, or its path; the folder of an adapter may leave them to its base.
        name: Name of the model.
        gguf_file: GGUF file of the model; it holds the tokenizer too.
        vision: Whether the model takes images.
        base: Base of an adapter, instead of the one that the adapter names.

    Raises:
        ActorError: The tokenizer cannot be loaded.
    """
    no_images = "" if vision else f"{name} is a model without vision"
    if isinstance(source, str | Path):
        location = str(source)
        if is_adapter(location) and not (Path(location) / "tokenizer_config.json").is_file():
            location = base or base_of(location)
        if vision:
            check_location(location)
            try:
                source = load_processor(location)
            except UserError as error:
                no_images = str(error)
        if not isinstance(source, ProcessorMixin):
            gguf_file = gguf_file if location == name else None
            source = load_pretrained(AutoTokenizer, "tokenizer", location, gguf_file=gguf_file)
    if not isinstance(source, ProcessorMixin):
        no_images = no_images or f"{name} was given a tokenizer, and images need its processor"
        return PromptEncoder(name, source, None, no_images)
    if not no_images and "image_grid_thw" not in source.model_input_names:
        no_images = f"its processor has another form than Qwen-VL's; serve {name}, and use OpenAIActor"
    return PromptEncoder(name, source.tokenizer, source, no_images)
