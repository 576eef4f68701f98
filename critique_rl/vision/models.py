"""Models that see: how their processors are loaded, and how conversations with images are put to them.

A processor that cannot be loaded whole is an error here. `AutoProcessor` may hand out the bare tokenizer instead,
and training then goes on without images; so does a padding side that does not fit (image positions shift).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

import torch
from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor, PreTrainedConfig
from transformers.models import qwen2_5_vl, qwen3_vl
from transformers.processing_utils import ProcessorMixin
from transformers.utils import is_torchvision_available

from critique_rl.types import Conversation, UserError
from critique_rl.vision.images import open_image

_TOKENS = {
    "image_token": "<|image_pad|>",
    "video_token": "<|video_pad|>",
    "vision_start_token": "<|vision_start|>",
    "vision_end_token": "<|vision_end|>",
}
_SIZE_KEYS = {"min_pixels": "shortest_edge", "max_pixels": "longest_edge"}


def is_vision_model(path_or_id: str | Path) -> bool:
    """Whether the config of a model has a vision part; for an adapter that of its base.

    Raises:
        UserError: There is no config, or none that `transformers` knows.
    """
    return _has_vision(_load_config(path_or_id))


def load_vision_model(path: str | Path, *, dtype: str | torch.dtype = "auto") -> Any:
    """Load a model that reads images and text and writes text.

    Raises:
        UserError: It has no vision part, or cannot be loaded.
    """
    _check_vision(path)
    try:
        return AutoModelForImageTextToText.from_pretrained(path, dtype=dtype)
    except (OSError, ValueError, ImportError) as error:
        raise UserError(f"cannot load a model with vision at {path}: {_first_line(error)}") from error


def load_processor(
    path: str | Path, *, min_pixels: int | None = None, max_pixels: int | None = None
) -> ProcessorMixin:
    """Load the processor of a model with vision: tokenizer, image processor and chat template.

    Its tokenizer pads left, whatever its files say: generation needs it, and the token types that place an image
    would not line up with right padding.

    Without torchvision the processors of Qwen2.5-VL and Qwen3-VL lack their part for videos, which nothing here
    needs; they are loaded without it. Files that such a processor saves name the class of the whole one.

    Args:
        path: Directory or hub id.
        min_pixels: Smaller images are scaled up to this area; None keeps the checkpoint's.
        max_pixels: Larger images are scaled down to this area; one token of Qwen2.5-VL is 28 x 28 pixels.

    Raises:
        UserError: The model has no vision part, its processor cannot be built (the message names the missing
            package), or the pixel limits do not apply to it.
    """
    config = _check_vision(path)
    processor = _load_whole(path, config.model_type)
    processor.tokenizer.padding_side = "left"
    if not getattr(processor, "chat_template", None):
        processor.chat_template = processor.tokenizer.chat_template
    _limit_pixels(processor, path, min_pixels=min_pixels, max_pixels=max_pixels)
    return processor


def parts(
    conversation: Conversation, *, images: Literal["opened", "placeholders"] = "opened"
) -> list[dict[str, Any]]:
    """A conversation in the form that processors take: each content a list of parts, the image before the text.

    All contents become lists, because templates such as that of LLaVA 1.5 do not take strings.

    Args:
        conversation: With or without images.
        images: "opened" puts the pictures in; "placeholders" only marks where they stand, which is all that a
            chat template needs.

    Raises:
        ImageError: An image cannot be read.

    >>> parts([{"role": "user", "content": "What is it?", "image": "cat.png"}], images="placeholders")
    [{'role': 'user', 'content': [{'type': 'image'}, {'type': 'text', 'text': 'What is it?'}]}]
    """
    messages: list[dict[str, Any]] = []
    for message in conversation:
        content: list[dict[str, Any]] = [{"type": "text", "text": message["content"]}]
        if "image" in message:
            opened = {"image": open_image(message["image"])} if images == "opened" else {}
            content.insert(0, {"type": "image", **opened})
        rest = {key: value for key, value in message.items() if key not in ("content", "image")}
        messages.append({**rest, "content": content})
    return messages


class _ImageOnly(ProcessorMixin):
    """A processor of a Qwen-VL family without its part for videos, which needs torchvision."""

    video_processor_type: str

    # `transformers` takes the parts of a processor from this signature.
    def __init__(
        self, image_processor: Any = None, tokenizer: Any = None, chat_template: Any = None, **_: Any
    ) -> None:
        for name, token in _TOKENS.items():
            setattr(self, name, token)
            setattr(self, f"{name}_id", tokenizer.convert_tokens_to_ids(token))
        ProcessorMixin.__init__(self, image_processor, tokenizer, chat_template=chat_template)

    def to_dict(self) -> dict[str, Any]:
        """What is saved; with the part for videos named, where torchvision is the whole processor loads."""
        return {**super().to_dict(), "video_processor": {"video_processor_type": self.video_processor_type}}


# Named like the whole ones: the name of the class is saved as that of the class to load.
class Qwen2_5_VLProcessor(_ImageOnly, qwen2_5_vl.Qwen2_5_VLProcessor):
    """Processor of Qwen2.5-VL for images and text."""

    video_processor_type = "Qwen2VLVideoProcessor"


class Qwen3VLProcessor(_ImageOnly, qwen3_vl.Qwen3VLProcessor):
    """Processor of Qwen3-VL for images and text."""

    video_processor_type = "Qwen3VLVideoProcessor"


IMAGE_ONLY: dict[str, type[_ImageOnly]] = {"qwen2_5_vl": Qwen2_5_VLProcessor, "qwen3_vl": Qwen3VLProcessor}
"""By model type."""


def _load_config(path: str | Path) -> PreTrainedConfig:
    adapter = Path(path) / "adapter_config.json"
    if adapter.is_file() and not (Path(path) / "config.json").is_file():
        path = json.loads(adapter.read_text())["base_model_name_or_path"]
    try:
        return AutoConfig.from_pretrained(path)
    except (OSError, ValueError) as error:
        raise UserError(f"no config of a model at {path}: {_first_line(error)}") from error


def _has_vision(config: PreTrainedConfig) -> bool:
    return getattr(config, "vision_config", None) is not None


def _check_vision(path: str | Path) -> PreTrainedConfig:
    config = _load_config(path)
    if not _has_vision(config):
        raise UserError(
            f"{path} is a {config.model_type} model without vision; images need one such as Qwen2.5-VL or Qwen3-VL"
        )
    return config


def _load_whole(path: str | Path, model_type: str) -> ProcessorMixin:
    failure = "it has no image processor"
    if is_torchvision_available() or model_type not in IMAGE_ONLY:
        try:
            processor = AutoProcessor.from_pretrained(path)
            # For whatever it cannot build, it returns the first of tokenizer and others that it can.
            if _is_whole(processor):
                return processor
        except (OSError, ValueError, ImportError, TypeError) as error:
            failure = _first_line(error)
    if model_type in IMAGE_ONLY:
        try:
            return IMAGE_ONLY[model_type].from_pretrained(path)
        except (OSError, ValueError, ImportError, TypeError, AttributeError) as error:
            failure = _first_line(error)
    missing = (
        "" if is_torchvision_available() else "; the package torchvision is not installed and may be needed"
    )
    raise UserError(f"cannot load the processor of the {model_type} model at {path}: {failure}{missing}")


def _is_whole(processor: Any) -> bool:
    return all(getattr(processor, name, None) is not None for name in ("tokenizer", "image_processor"))


def _limit_pixels(processor: ProcessorMixin, path: str | Path, **limits: int | None) -> None:
    given = {name: value for name, value in limits.items() if value is not None}
    if not given:
        return
    size = dict(processor.image_processor.size)
    if set(size) != set(_SIZE_KEYS.values()):
        raise UserError(
            f"{', '.join(given)}: the image processor of {path} has no limits of area but sizes, {size}"
        )
    size |= {_SIZE_KEYS[name]: value for name, value in given.items()}
    if not 0 < size["shortest_edge"] <= size["longest_edge"]:
        raise UserError(
            f"min_pixels must be positive and at most max_pixels, got {size['shortest_edge']} and "
            f"{size['longest_edge']} for {path}"
        )
    # These classes call the areas edges. `min_pixels` and `max_pixels` of a call are deprecated names for them.
    processor.image_processor.size = type(processor.image_processor.size)(**size)


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
