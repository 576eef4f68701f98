"""Load models that take images, and their processors; write conversations in the processors' form.

A processor that lacks a part is an error here. `AutoProcessor` may return the bare tokenizer instead, and training
would go on without images. A wrong padding side is as quiet: it shifts the positions of images.
"""

from __future__ import annotations

import inspect
from collections.abc import Collection
from pathlib import Path
from typing import Any, Literal

import torch
from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor, PreTrainedConfig
from transformers.models import qwen2_5_vl, qwen3_vl
from transformers.processing_utils import ProcessorMixin
from transformers.utils import is_torchvision_available

from critique_rl.adapters import base_of
from critique_rl.sharding import loading_whole
from critique_rl.types import Conversation, UserError, first_line
from critique_rl.vision.images import ImageError, open_image

_TOKENS = {
    "image_token": "<|image_pad|>",
    "video_token": "<|video_pad|>",
    "vision_start_token": "<|vision_start|>",
    "vision_end_token": "<|vision_end|>",
}
_SIZE_KEYS = {"min_pixels": "shortest_edge", "max_pixels": "longest_edge"}


def is_vision_model(path_or_id: str | Path) -> bool:
    """Whether the config of a model has a vision part; for an adapter, the config of its base.

    Raises:
        UserError: The config is missing, or `transformers` does not know its model type.
    """
    return getattr(_load_config(path_or_id), "vision_config", None) is not None


def load_vision_model(path: str | Path, *, dtype: str | torch.dtype = "auto") -> Any:
    """Load a model that reads images and text and writes text, whole in this process.

    Raises:
        UserError: The model has no vision part, or cannot be loaded.
    """
    _check_vision(path)
    try:
        with loading_whole():
            return AutoModelForImageTextToText.from_pretrained(path, dtype=dtype)
    except (OSError, ValueError, ImportError) as error:
        raise UserError(f"cannot load a model with vision at {path}: {first_line(error)}") from error


def load_processor(
    path: str | Path, *, min_pixels: int | None = None, max_pixels: int | None = None
) -> ProcessorMixin:
    """Load the processor of a model with vision: tokenizer, image processor and chat template.

    The tokenizer pads left, whatever its files say: generation needs that, and right padding would misalign the
    token types that place an image. Without torchvision the processors of Qwen2.5-VL and Qwen3-VL are loaded
    without their part for videos, which is not needed here; they save the class name of the complete processor.

    Args:
        path: Directory or hub id.
        min_pixels: Area to which smaller images are scaled up; None keeps the checkpoint's.
        max_pixels: Area to which larger images are scaled down; one token of Qwen2.5-VL is 28 x 28 pixels.

    Raises:
        UserError: The model has no vision part, its processor cannot be built (the message names a missing
            package), or it has no pixel limits.
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
    """A conversation in the processors' form: each content is a list of parts, the image before the text.

    All contents become lists: some templates, such as that of LLaVA 1.5, do not take strings.

    Args:
        conversation: Chat with or without images.
        images: "opened" inserts the pictures; "placeholders" only marks their places, enough for a chat template.

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


def placeholder_in(text: str, processor: Any) -> str | None:
    """Token of images or videos inside a text; there the model would look for a picture that is not there."""
    tokens = (getattr(processor, f"{kind}_token", None) for kind in ("image", "video"))
    return next((token for token in tokens if token and token in text), None)


def inputs_left_out(path: str | Path, processor: Any, passed: Collection[str]) -> list[str]:
    """Inputs that the model at `path` reads and its image processor makes, and that a trainer does not pass on.

    `passed` are the inputs that it does.
    """
    model: Any = AutoModelForImageTextToText._model_mapping[type(_check_vision(path))]
    reads = inspect.signature(model.forward).parameters
    return [n for n in processor.image_processor.model_input_names if n in reads and n not in passed]


def check_shown(size: tuple[int, int], processor: Any, name: str) -> None:
    """Check that the image processor takes an image of this width and height, as far as it says so.

    Raises:
        ImageError: It refuses the size; the message begins with `name`.
    """
    patches = getattr(processor.image_processor, "get_number_of_image_patches", None)
    width, height = size
    try:
        if patches is not None:
            patches(height, width, {})
    except ValueError as error:
        raise ImageError(f"{name}: an image of {width} x {height} pixels cannot be shown: {error}") from error


class _ImageOnly(ProcessorMixin):
    """A processor of a Qwen-VL family without the part for videos, which needs torchvision."""

    video_processor_type: str

    # `transformers` reads the parts of a processor from this signature.
    def __init__(
        self, image_processor: Any = None, tokenizer: Any = None, chat_template: Any = None, **_: Any
    ) -> None:
        for name, token in _TOKENS.items():
            setattr(self, name, token)
            setattr(self, f"{name}_id", tokenizer.convert_tokens_to_ids(token))
        ProcessorMixin.__init__(self, image_processor, tokenizer, chat_template=chat_template)

    def to_dict(self) -> dict[str, Any]:
        """Saved content. It names the part for videos, so that the complete processor loads with torchvision."""
        return {**super().to_dict(), "video_processor": {"video_processor_type": self.video_processor_type}}


# The class name is saved as the name of the class to load, so these have the names of the complete processors.
class Qwen2_5_VLProcessor(_ImageOnly, qwen2_5_vl.Qwen2_5_VLProcessor):
    """Processor of Qwen2.5-VL for images and text."""

    video_processor_type = "Qwen2VLVideoProcessor"


class Qwen3VLProcessor(_ImageOnly, qwen3_vl.Qwen3VLProcessor):
    """Processor of Qwen3-VL for images and text."""

    video_processor_type = "Qwen3VLVideoProcessor"


IMAGE_ONLY: dict[str, type[_ImageOnly]] = {"qwen2_5_vl": Qwen2_5_VLProcessor, "qwen3_vl": Qwen3VLProcessor}
"""Processors without a part for videos, by model type."""


def _load_config(path: str | Path) -> PreTrainedConfig:
    path = base_of(path)
    try:
        return AutoConfig.from_pretrained(path)
    except (OSError, ValueError) as error:
        raise UserError(f"no config of a model at {path}: {first_line(error)}") from error


def _check_vision(path: str | Path) -> PreTrainedConfig:
    config = _load_config(path)
    if getattr(config, "vision_config", None) is None:
        raise UserError(
            f"{path} is a {config.model_type} model without vision; images need one such as Qwen2.5-VL or Qwen3-VL"
        )
    return config


def _load_whole(path: str | Path, model_type: str) -> ProcessorMixin:
    failure = "it has no image processor"
    if is_torchvision_available() or model_type not in IMAGE_ONLY:
        try:
            processor = AutoProcessor.from_pretrained(path)
            # If it cannot build the processor, it returns the first part that it can build.
            if all(getattr(processor, part, None) is not None for part in ("tokenizer", "image_processor")):
                return processor
        except (OSError, ValueError, ImportError, TypeError) as error:
            failure = first_line(error)
    if model_type in IMAGE_ONLY:
        try:
            return IMAGE_ONLY[model_type].from_pretrained(path)
        except (OSError, ValueError, ImportError, TypeError, AttributeError) as error:
            failure = first_line(error)
    if not is_torchvision_available():
        failure += "; the package torchvision is not installed and may be needed"
    raise UserError(f"cannot load the processor of the {model_type} model at {path}: {failure}")


def _limit_pixels(processor: ProcessorMixin, path: str | Path, **limits: int | None) -> None:
    limits = {name: value for name, value in limits.items() if value is not None}
    if not limits:
        return
    size = dict(processor.image_processor.size)
    if set(size) != set(_SIZE_KEYS.values()):
        raise UserError(
            f"{', '.join(limits)}: the image processor of {path} has no limits of area but sizes, {size}"
        )
    size |= {_SIZE_KEYS[name]: value for name, value in limits.items()}
    if not 0 < size["shortest_edge"] <= size["longest_edge"]:
        raise UserError(
            f"min_pixels must be positive and at most max_pixels, got {size['shortest_edge']} and "
            f"{size['longest_edge']} for {path}"
        )
    # The classes call the areas edges; `min_pixels` and `max_pixels` are their deprecated names for them.
    processor.image_processor.size = type(processor.image_processor.size)(**size)
