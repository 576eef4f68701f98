"""Prompts of the actor in this process: from a conversation to token ids and image features."""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, cast

import torch
from jinja2 import TemplateError
from transformers import ProcessorMixin

from critique_rl.actors.base import ActorError
from critique_rl.pairwise_rewards import THINK, THINK_END
from critique_rl.types import Conversation, Message, UserError
from critique_rl.vision.images import image_bytes, open_image
from critique_rl.vision.models import parts

logger = logging.getLogger(__name__)

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
        opened: End of the prompt that belongs to the reply, see `PromptEncoder.opened`.
    """

    text: str
    ids: list[int]
    images: tuple[PromptImage, ...]
    opened: str = ""


@dataclass(frozen=True)
class PromptEncoder:
    """Renders conversations with a model's chat template and tokenizes them.

    Attributes:
        name: Name of the model, for messages.
        tokenizer: Its tokenizer.
        processor: Its processor of text and images; None where there is only a tokenizer.
        no_images: Reason why the model takes no images; empty if it takes them.
        options: Further arguments of the chat template.
    """

    name: str
    tokenizer: Any
    processor: Any
    no_images: str
    options: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, name: str, source: Any, options: Mapping[str, Any] | None = None) -> PromptEncoder:
        """Encoder of a tokenizer or processor in memory that someone else feeds with images."""
        whole = isinstance(source, ProcessorMixin)
        tokenizer = source.tokenizer if whole else source
        return cls(name, tokenizer, source if whole else None, "", options or {})

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
        opened = ["" if _prefill(prompt).strip() else self.opened for prompt in prompts]
        return [EncodedPrompt(*fields) for fields in zip(texts, ids, images, opened, strict=True)]

    @cached_property
    def opened(self) -> str:
        """The thought that the generation prompt opens in the model's place, as `<think>` and a line end.

        It belongs to the reply: without it, the reply starts inside a thought that nothing opened. Empty for most
        templates, and for those that open and close a thought at once.

        Raises:
            ActorError: The chat template fails on a plain chat.
        """
        tail = self._probe([{"role": "user", "content": _PROBE}], add_generation_prompt=True)
        start = tail.rfind(THINK)
        return "" if start < 0 or THINK_END in tail[start:] else tail[start:]

    @cached_property
    def _special(self) -> set[str]:
        """Texts of the special tokens, which decoding leaves out."""
        special = {str(t) for t in self.tokenizer.added_tokens_decoder.values() if t.special}
        return special | set(self.tokenizer.all_special_tokens)

    @cached_property
    def control_tokens(self) -> re.Pattern[str] | None:
        """Pattern of the special tokens of the tokenizer; None if it has none."""
        longest = sorted((token for token in self._special if len(token) > 1), key=len, reverse=True)
        return re.compile("|".join(map(re.escape, longest))) if longest else None

    def plain(self, messages: Conversation) -> Conversation:
        """The messages with each special token inside a text broken by a space, as in `< |im_end|>`.

        Otherwise a text could end its own turn and speak in the name of another.
        """
        return [cast(Message, {**m, "content": self._broken(m["content"])}) for m in messages]

    def warn_of_control_tokens(self, prompts: Sequence[Conversation], where: str) -> int:
        """Count the prompts with special tokens inside texts, and log number and first example."""
        pattern = self.control_tokens
        if pattern is None:
            return 0
        found = [
            (index, match[0])
            for index, prompt in enumerate(prompts)
            if (match := next(filter(None, (pattern.search(m["content"]) for m in prompt)), None))
        ]
        if found:
            index, token = found[0]
            logger.warning(
                "%s: texts of %d of %d prompts hold control tokens of %s, the first in prompt %d, %s: read as "
                "plain text, %s",
                *(where, len(found), len(prompts), self.name, index, token, self._broken(token)),
            )
        return len(found)

    def check_template(self) -> None:
        """Refuse a model without a chat template that writes messages, or whose thoughts lose their tags.

        Raises:
            ActorError: The message names the model and says what to do.
        """
        lost = {THINK, THINK_END} & self._special
        if lost:
            raise ActorError(
                f"the tokenizer of {self.name} marks {' and '.join(sorted(lost, reverse=True))} as special, so "
                "decoding would leave the tags of thoughts out: save a copy of the model, and there set "
                '"special" to false for these tokens in tokenizer.json and tokenizer_config.json, outside of any '
                "list of special tokens."
            )
        if not (self.processor or self.tokenizer).chat_template:
            fault = "has no chat template"
        else:
            prompt: Conversation = [{"role": "user", "content": _PROBE}]
            try:
                if _PROBE in self._template(prompt, add_generation_prompt=True):
                    return
                fault = "has a chat template that leaves out the user's message"
            except (TemplateError, ValueError) as error:
                fault = f"has a chat template that fails on a plain chat ({error})"
        raise ActorError(
            f"the tokenizer of {self.name} {fault}; use an instruction-tuned model, or set "
            "tokenizer.chat_template and save the tokenizer again"
        )

    def render(self, prompt: Conversation, index: int) -> str:
        """The text of a prompt, which ends in exactly the prefill if there is one; an image is one token.

        Raises:
            ActorError: The chat template refuses the conversation.
        """
        prompt = self.plain(prompt)
        prefill = _prefill(prompt)
        try:
            if prompt[-1]["role"] != "assistant":
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

    def stop_ids(self, generation_config: Any) -> list[int]:
        """Tokens that end a reply: end of sequence by tokenizer and checkpoint, end of turn by the template.

        Raises:
            ActorError: There is none, or the chat template fails on a plain chat.
        """
        stop: list[int] = []
        for ids in (self.tokenizer.eos_token_id, generation_config.eos_token_id):
            stop += [] if ids is None else [ids] if isinstance(ids, int) else list(ids)
        special = {i for i, token in self.tokenizer.added_tokens_decoder.items() if token.special}
        stop += [i for i in self.closing_ids()[:1] if i in special]
        if not stop:
            raise ActorError(f"{self.name} has no end-of-sequence token: its replies could never end")
        return list(dict.fromkeys(int(i) for i in stop))

    def closing_ids(self) -> list[int]:
        """What the template writes behind the text of an assistant's turn.

        Raises:
            ActorError: The chat template fails on a plain chat.
        """
        closing = self._probe([{"role": "user", "content": "?"}, {"role": "assistant", "content": _PROBE}])
        return list(self.tokenizer(closing, add_special_tokens=False)["input_ids"])

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

    def _probe(self, chat: Conversation, **options: Any) -> str:
        """What the template writes behind the probe in a plain chat."""
        try:
            return self._template(chat, **options).rpartition(_PROBE)[2]
        except TemplateError as error:
            raise ActorError(f"the chat template of {self.name} fails on a plain chat: {error}") from error

    def _broken(self, text: str) -> str:
        while self.control_tokens is not None and self.control_tokens.search(text):
            text = self.control_tokens.sub(lambda match: f"{match[0][:1]} {match[0][1:]}", text)
        return text

    def _template(self, messages: Sequence[Message], **options: Any) -> str:
        options = {**self.options, **options}
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


def _prefill(prompt: Conversation) -> str:
    """Start of the assistant's turn with which a prompt ends; empty if it ends in another turn."""
    return prompt[-1]["content"] if prompt[-1]["role"] == "assistant" else ""
