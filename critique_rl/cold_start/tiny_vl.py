"""Vision-language models that need no download: real architectures and processors, 0.4 million weights.

They use the same processor, prompts, trainer and evaluation as Qwen2.5-VL and Qwen3-VL from the hub. An unknown
family is a `UserError`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.models.qwen2_5_vl import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
from transformers.models.qwen3_vl import Qwen3VLConfig, Qwen3VLForConditionalGeneration
from transformers.processing_utils import ProcessorMixin

from critique_rl.cold_start.from_scratch import byte_tokenizer, seeded_model
from critique_rl.config.checks import one_of
from critique_rl.tasks import drawings_teacher
from critique_rl.vision.models import IMAGE_ONLY

Family = Literal["qwen2_5_vl", "qwen3_vl"]

CONTEXT = 1024
PATCH = {"qwen2_5_vl": 14, "qwen3_vl": 16}
MERGE = 2
MIN_TOKENS, MAX_TOKENS = 4, 16
"""Tokens of an image; one token is 2 x 2 patches, so 84 x 56 pixels are 6 tokens of `qwen2_5_vl`."""

_HIDDEN, _LAYERS, _HEADS = 64, 3, 4
_SPREAD = 0.1
"""Standard deviation of initial weights, near 1/sqrt(width). The families' own 0.02 is for widths of thousands;
with it, the model learned nothing about the pictures from 20,000 examples."""
_VISION_SPECIALS = ("<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")


def build_tokenizer(phrases: Sequence[str] = drawings_teacher.PHRASES) -> PreTrainedTokenizerBase:
    """Byte-level tokenizer of Qwen2's class, with each phrase and each vision token as a single token."""
    return byte_tokenizer(phrases, chat_template="chatml_images", specials=_VISION_SPECIALS)


def build_processor(tokenizer: PreTrainedTokenizerBase, *, family: Family = "qwen2_5_vl") -> ProcessorMixin:
    """Processor of the family, without torchvision; images of 4 to 16 tokens are only rounded to whole tokens."""
    one_of("family", family, tuple(PATCH))
    token_side = PATCH[family] * MERGE
    image_processor = Qwen2VLImageProcessorPil(
        patch_size=PATCH[family],
        merge_size=MERGE,
        temporal_patch_size=2,
        size={"shortest_edge": MIN_TOKENS * token_side**2, "longest_edge": MAX_TOKENS * token_side**2},
    )
    processor_class: Any = IMAGE_ONLY[family]
    processor: ProcessorMixin = processor_class(
        image_processor=image_processor, tokenizer=tokenizer, chat_template=tokenizer.chat_template
    )
    return processor


def build_model(
    tokenizer: PreTrainedTokenizerBase, *, seed: int, family: Family = "qwen2_5_vl"
) -> PreTrainedModel:
    """Untrained model in float32; `seed` fixes its weights."""
    one_of("family", family, tuple(PATCH))
    head = _HIDDEN // _HEADS
    text: dict[str, Any] = {
        "vocab_size": len(tokenizer),
        "hidden_size": _HIDDEN,
        "intermediate_size": 2 * _HIDDEN,
        "num_hidden_layers": _LAYERS,
        "num_attention_heads": _HEADS,
        "num_key_value_heads": _HEADS,
        "max_position_embeddings": CONTEXT,
        "initializer_range": _SPREAD,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 1e6,
            "mrope_section": [head // 8, head // 8, head // 4],  # time, height and width share half a head
        },
        "bos_token_id": None,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    vision: dict[str, Any] = {
        "depth": 2,
        "hidden_size": _HIDDEN,
        "intermediate_size": _HIDDEN,
        "num_heads": _HEADS,
        "patch_size": PATCH[family],
        "spatial_merge_size": MERGE,
        "temporal_patch_size": 2,
        "out_hidden_size": _HIDDEN,
        "initializer_range": _SPREAD,
    }
    config_class: Any
    model_class: Any
    if family == "qwen2_5_vl":
        # A window is 2 x 2 tokens, so that both kinds of layers differ already on small images.
        vision |= {"window_size": 2 * MERGE * PATCH[family], "fullatt_block_indexes": [1]}
        config_class, model_class = Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration
    else:
        text["head_dim"] = head
        text["rope_parameters"]["mrope_interleaved"] = True
        vision |= {"num_position_embeddings": 64, "deepstack_visual_indexes": [0]}
        config_class, model_class = Qwen3VLConfig, Qwen3VLForConditionalGeneration
    names = ("vision_start_token_id", "vision_end_token_id", "image_token_id", "video_token_id")
    ids = map(tokenizer.convert_tokens_to_ids, _VISION_SPECIALS)
    config = config_class(
        text_config=text, vision_config=vision, tie_word_embeddings=True, **dict(zip(names, ids, strict=True))
    )
    return seeded_model(model_class, config, tokenizer, seed)


def save_untrained(
    directory: str | Path,
    *,
    seed: int,
    family: Family = "qwen2_5_vl",
    phrases: Sequence[str] = drawings_teacher.PHRASES,
) -> None:
    """Write an untrained model and its processor to a directory; each of the phrases is one token."""
    tokenizer = build_tokenizer(phrases)
    build_model(tokenizer, seed=seed, family=family).save_pretrained(directory)
    build_processor(tokenizer, family=family).save_pretrained(directory)
