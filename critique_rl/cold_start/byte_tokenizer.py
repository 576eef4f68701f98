"""TODO docstring."""

from __future__ import annotations

from collections.abc import Sequence

from tokenizers import AddedToken
from transformers import PreTrainedTokenizerBase
from transformers.models.qwen2 import Qwen2Tokenizer


def byte_tokenizer(
    phrases: Sequence[str], *, chat_template: str, specials: Sequence[str] = ()
) -> PreTrainedTokenizerBase:
    """Byte-level tokenizer of Qwen2's class, with each phrase and each special text as a single token."""
    # A tokenizer of another class saved beside a Qwen2 config is silently reloaded as this one.
    from tokenizers.pre_tokenizers import ByteLevel

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
    tokenizer.chat_template = chat_template
    return tokenizer
