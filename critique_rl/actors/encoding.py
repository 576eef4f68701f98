"""Prompts of the actor in this process: from a conversation to token ids and image features."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jinja2 import TemplateError

from critique_rl.actors.base import ActorError
from critique_rl.types import Conversation, Message, UserError
from critique_rl.vision.images import image_bytes, open_image
from critique_rl.vision.models import parts

_PROBE = "END-OF-TURN-PROBE"

Features = Mapping[str, torch.Tensor]
"""Output of an image processor for one image: `pixel_values` and `image_grid_thw`."""


@dataclass(frozen=True)
class PromptImage:
    """An image of a prompt.

    Attributes:
        source: Path of a file, or a `data:` URL.
        digest: SHA-256 of the content, as the file may be overwritten between calls.
        tokens: Number of tokens that it takes.
    """

    source: str
    digest: str
    tokens: int


@dataclass(frozen=True)
class EncodedPrompt:
    """A prompt as the model reads it.

    Attributes:
        text: The rendered chat, with one token for each image.
        ids: Token ids, with each image expanded to all its tokens.
        images: Images in the order of their tokens.
    """

    text: str
    ids: list[int]
    images: tuple[PromptImage, ...]


@dataclass(frozen=True)
class PromptEncoder:
    """Renders conversations with a model's chat template and tokenizes them.

    Attributes:
        name: Name of the model, for messages.
        tokenizer: Its tokenizer.
        processor: Its processor of text and images; None where there is only a tokenizer.
        no_images: Reason why the model takes no images; empty if it takes them.
    """

    name: str
    tokenizer: Any
    processor: Any
    no_images: str

    def encode(self, prompts: Sequence[Conversation]) -> list[EncodedPrompt]:
        """Encode prompts; images are measured, not preprocessed.

        Raises:
            ActorError: The template refuses a prompt, an image cannot be read, or the model takes no images.
        """
        known: dict[str, PromptImage] = {}
        images = [self._images(prompt, index, known) for index, prompt in enumerate(prompts)]
        texts = [self.render(prompt, index) for index, prompt in enumerate(prompts)]
        expanded = [self._expand(text, images[index], index) for index, text in enumerate(texts)]
        # The template has written the special tokens already; a second BOS would be added here.
        ids = self.tokenizer(expanded, add_special_tokens=False, truncation=False)["input_ids"]
        return [EncodedPrompt(*fields) for fields in zip(texts, ids, images, strict=True)]

    def render(self, prompt: Conversation, index: int) -> str:
        """The text of a prompt, which ends in exactly the prefill if there is one; an image is one token.

        Raises:
            ActorError: The chat template refuses the conversation.
        """
        prefill = prompt[-1]["content"] if prompt[-1]["role"] == "assistant" else None
        try:
            if prefill is None:
                return self._template(prompt, add_generation_prompt=True)
            if not prefill.strip():  # the template needs some text to continue
                return self._template(prompt[:-1], add_generation_prompt=True) + prefill
            text = self._template(prompt, continue_final_message=True)
        except (TemplateError, ValueError) as error:
            raise ActorError(f"the chat template of {self.name} refuses prompt {index}: {error}") from error
        if text.endswith(prefill):
            return text
        # Templates that trim messages (Llama 3, Gemma) make `transformers` strip the end of the prefill as
        # well, where "step by step:\n\n" and "step by step:" are different prompts: put it back.
        stripped = prefill.strip()
        if not text.endswith(stripped):
            raise ActorError(f"the chat template of {self.name} rewrites the prefill of prompt {index}")
        return text.removesuffix(stripped) + prefill

    def end_of_turn_ids(self) -> list[int]:
        """The special token with which the template ends a turn; [] if it ends turns without one.

        Raises:
            ActorError: The chat template fails on a plain chat.
        """
        probe: Conversation = [{"role": "user", "content": "?"}, {"role": "assistant", "content": _PROBE}]
        try:
            closing = self._template(probe).rpartition(_PROBE)[2]
        except TemplateError as error:
            raise ActorError(f"the chat template of {self.name} fails on a plain chat: {error}") from error
        closing_ids = self.tokenizer(closing, add_special_tokens=False)["input_ids"]
        special = {i for i, token in self.tokenizer.added_tokens_decoder.items() if token.special}
        return [i for i in closing_ids[:1] if i in special]

    def preprocess(self, image: PromptImage) -> Features:
        """Read an image and cut it into patches."""
        opened = open_image(image.source)
        return dict(self.processor.image_processor(images=[opened], return_tensors="pt"))

    def image_inputs(self, features: Sequence[Features], ids_BT: torch.Tensor) -> dict[str, torch.Tensor]:
        """Inputs of the model for the images of a batch, in the order of their tokens; {} without images."""
        if not features:
            return {}
        names = ("pixel_values", "image_grid_thw")
        inputs = {name: torch.cat([image[name] for image in features]).to(ids_BT.device) for name in names}
        if "mm_token_type_ids" in self.processor.model_input_names:
            # Without them the model places images as if they were text, with a warning at most.
            inputs["mm_token_type_ids"] = (ids_BT == self.processor.image_token_id).long()
        return inputs

    def _template(self, messages: Sequence[Message], **options: Any) -> str:
        if self.processor is None:
            return str(self.tokenizer.apply_chat_template(list(messages), tokenize=False, **options))
        chat = parts(list(messages), images="placeholders")
        return str(self.processor.apply_chat_template(chat, tokenize=False, **options))

    def _images(
        self, prompt: Conversation, index: int, known: dict[str, PromptImage]
    ) -> tuple[PromptImage, ...]:
        """Measure the images of a prompt; `known` has the images of the call so far, by source."""
        sources = [message["image"] for message in prompt if "image" in message]
        if sources and self.no_images:
            raise ActorError(f"prompt {index} has an image: {self.no_images}")
        for source in sources:
            if source not in known:
                try:
                    image, process = open_image(source), self.processor.image_processor
                    patches = process.get_number_of_image_patches(image.height, image.width, {})
                    digest = hashlib.sha256(image_bytes(source)).hexdigest()
                except (UserError, ValueError) as error:
                    raise ActorError(f"prompt {index}: {error}") from error
                known[source] = PromptImage(source, digest, tokens=patches // process.merge_size**2)
        return tuple(known[source] for source in sources)

    def _expand(self, text: str, images: Sequence[PromptImage], index: int) -> str:
        """Repeat the token of each image as often as the image has tokens."""
        if self.processor is None or self.no_images:
            return text
        token = self.processor.image_token
        first, *others = text.split(token)
        if len(others) != len(images):
            raise ActorError(
                f"prompt {index}: {token} stands {len(others)} times in its text, for images: {len(images)}; "
                "it must not be part of a message"
            )
        expanded = (token * image.tokens + piece for image, piece in zip(images, others, strict=True))
        return "".join([first, *expanded])
