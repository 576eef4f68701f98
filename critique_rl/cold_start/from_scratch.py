"""Parts of models that are made from nothing: a byte-level tokenizer, and seeded weights."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.resources import files
from typing import Any

import torch
from tokenizers import AddedToken
from tokenizers.pre_tokenizers import ByteLevel
from transformers import GenerationConfig, PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase
from transformers.models.qwen2 import Qwen2Tokenizer


def byte_tokenizer(
    phrases: Sequence[str], *, chat_template: str, specials: Sequence[str] = ()
) -> PreTrainedTokenizerBase:
    """Byte-level tokenizer of Qwen2's class, with each phrase and each special text as a single token.

    `chat_template` names a file of `assets/chat_templates`; its line ends are no part of the template.
    """
    # Saved beside a Qwen2 config, a tokenizer of another class would be reloaded as this one, without a warning.
    tokenizer = Qwen2Tokenizer(
        vocab={byte: i for i, byte in enumerate(sorted(ByteLevel.alphabet()))},
        merges=[],
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        unk_token="<|endoftext|>",
        extra_special_tokens=["<|im_start|>", *specials],
    )
    tokenizer.add_tokens([AddedToken(phrase, special=False, normalized=False) for phrase in phrases])
    tokenizer.padding_side = "left"
    template = files("critique_rl") / "assets" / "chat_templates" / f"{chat_template}.jinja"
    tokenizer.chat_template = "".join(template.read_text("utf-8").splitlines())
    return tokenizer


def seeded_model(
    model_class: Any, config: PreTrainedConfig, tokenizer: PreTrainedTokenizerBase, seed: int
) -> PreTrainedModel:
    """Untrained model in float32; `seed` fixes its weights, and torch's global generator does not move."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model: PreTrainedModel = model_class(config)
    model.generation_config = GenerationConfig(
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id
    )
    return model
