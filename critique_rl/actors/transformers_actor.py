"""The actor in this process: batched `transformers` generation, on CPU or GPU."""

from __future__ import annotations

import contextlib
import hashlib
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from threading import Lock
from typing import Any

import torch
from tqdm import tqdm
from transformers import (
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    GenerationConfig,
    LogitsProcessorList,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    ProcessorMixin,
    SuppressTokensLogitsProcessor,
)

from critique_rl.actors.base import ActorError, GreedyCache, check_request
from critique_rl.actors.decoding import (
    contiguous_head,
    decode,
    greedy,
    left_padded,
    refusal,
    shared_beginnings,
)
from critique_rl.actors.encoding import EncodedPrompt, Features
from critique_rl.actors.loading import has_vision, load_encoder, load_frozen, placement
from critique_rl.actors.sampler import SeededSampler
from critique_rl.actors.unknown import Unknown
from critique_rl.types import NO_REPLY, Conversation, Generation, Sampling, child_seed

_VISION_TOKEN = re.compile(r"(image|video|vision|boi|eoi)\w*_token_(id|index)")

BATCH_TOKENS = 32_768
"""Most tokens of a batch whose number of sequences is not given."""


class TransformersActor:
    """A causal language model of `transformers` behind the `Actor` protocol.

    Sampling never touches torch's global random state, so an actor inside a trainer cannot change the trainer's
    draws. Prompt `i` draws from its own stream: neither `batch_size` nor the other prompts alter its sample.
    Of the checkpoint's `generation_config` only the end-of-sequence ids count: Qwen2.5 ships a repetition penalty
    that would silently change greedy decoding. The end-of-sequence ids and the template's end-of-turn token end a
    reply. There are no stop strings: one such as "Human" cuts answers about humans.

    A thought that the template's generation prompt opens belongs to the reply: its text then starts with
    `<think>`. Special tokens inside texts are plain text: `<|im_end|>` in a question is read as `< |im_end|>`.

    A model whose config has a vision part also takes images if its processor has the form of Qwen-VL's: a grid
    of patches for each image. Each image is preprocessed once per call; its pixels stay in memory only from the
    first batch that needs them to the last. The model never writes its tokens for images and videos.

    The class is not an `nn.Module`: TRL takes a module among the reward functions for a reward model.

    Args:
        model: Directory or hub id, loaded and frozen here; or a model in memory, which is borrowed: its
            `requires_grad` flags stay, its train/eval mode is restored after each call. An adapter is merged
            into its base.
        tokenizer: Tokenizer, or its path. Required with a model in memory; by default loaded from `model`. A
            model with vision takes its processor, or the path of one; with a tokenizer it reads text only.
        gguf_file: Name of a GGUF file inside `model`.
        base: Directory or hub id of an adapter's base, instead of the one that the adapter names.
        batch_size: Most sequences generated at once; by default as many as have 32,768 tokens together, with
            padding and `max_tokens` each.
        device: Device to load to; by default CUDA if there is one. A model in memory stays on its device.
        dtype: Type of the weights, such as `bfloat16`; `fastest` is bfloat16 where the device has it in
            hardware, else float32; `auto` is the checkpoint's. By default float32 on CPU, where bfloat16 makes
            greedy output depend on the batch and the processor, and elsewhere `fastest`.
        cache_size: Greedy generations remembered; by default 50,000, and 0 for a model in memory, whose
            weights may change between calls.
        max_unknown: Largest share of prompts that may not fit the context, see `actors.unknown`.
        progress: Label of a progress bar for calls of more than four batches, if stderr is a terminal.

    Attributes:
        name: The path or hub id.
        sequences_generated: Sequences generated so far; cache hits and duplicates do not count.
        unknown: Prompts so far that did not fit the context.
        control_tokens: Prompts so far with special tokens of the model inside a text. They are read as plain text.

    Raises:
        ActorError: The model at `model` cannot be loaded, or its tokenizer has no chat template.
    """

    def __init__(
        self,
        model: str | Path | PreTrainedModel,
        tokenizer: str | Path | PreTrainedTokenizerBase | ProcessorMixin | None = None,
        *,
        gguf_file: str | None = None,
        base: str | None = None,
        batch_size: int | None = None,
        device: str | None = None,
        dtype: str | torch.dtype | None = None,
        cache_size: int | None = None,
        max_unknown: float = 0.05,
        progress: str | None = None,
    ) -> None:
        if batch_size is not None and batch_size < 1:
            raise ActorError(f"batch_size must be at least 1, got {batch_size}")
        self._owned = isinstance(model, str | Path)
        self._model: Any  # `generate` comes from a mix-in that PEFT wrappers only forward to
        if isinstance(model, str | Path):
            self.name = str(model)
            tokenizer = self.name if tokenizer is None else tokenizer
            vision = gguf_file is None and has_vision(base or self.name)
            auto: Any = AutoModelForImageTextToText if vision else AutoModelForCausalLM
            device, dtype = placement(device, dtype)
            loaded = load_frozen(auto, self.name, base=base, dtype=dtype, gguf_file=gguf_file)
            self._model = loaded.to(device).requires_grad_(False).eval()
        else:
            self.name = str(model.config._name_or_path or type(model).__name__)
            self._model = model
            if tokenizer is None:
                raise ActorError("a model in memory needs its tokenizer: TransformersActor(model, tokenizer)")
            if any(option is not None for option in (gguf_file, base, device, dtype)):
                raise ActorError("gguf_file, base, device and dtype apply to a model loaded from a path only")
            vision = getattr(model.config, "vision_config", None) is not None
        self._encoder = load_encoder(tokenizer, self.name, gguf_file, vision=vision, base=base)
        self._tokenizer = self._encoder.tokenizer
        self._encoder.check_template()
        self._batch_size = batch_size
        self._progress = progress
        default_cache = 50_000 if self._owned else 0
        self._cache = GreedyCache(default_cache if cache_size is None else cache_size)
        self._stop_ids = self._encoder.stop_ids(self._model.generation_config)
        self._vision_ids = self._find_vision_ids()
        self._generate_reason = refusal(self._model)  # why `generate` of transformers writes the replies
        pad_id = self._tokenizer.pad_token_id
        self._pad_id = self._stop_ids[0] if pad_id is None else int(pad_id)
        remedy = "lower the limits of `lengths`, or take a model with a longer context."
        self._unknown = Unknown(self.name, max_unknown, remedy)
        self._lock = Lock()  # train/eval mode is state of the model: one call at a time
        self.sequences_generated = 0
        self.control_tokens = 0

    @property
    def unknown(self) -> int:
        """Prompts so far that did not fit the context; their replies are unknown."""
        return self._unknown.unknown

    @property
    def context(self) -> int | None:
        """Most tokens of prompt and reply together; None if the model's config does not say."""
        return getattr(self._model.config.get_text_config(), "max_position_embeddings", None)

    @property
    def settings(self) -> dict[str, Any]:
        """What can change its texts besides the weights: batch size, type of the weights, device."""
        model, size = self._model, self._batch_size or f"{BATCH_TOKENS} tokens"
        return {"batch_size": size, "dtype": str(model.dtype), "device": str(model.device)}

    def generate(self, prompts: Sequence[Conversation], sampling: Sampling) -> list[Generation]:
        """Generate one reply per prompt, in order; see `Actor.generate`.

        Raises:
            ActorError: More prompts than `max_unknown` allows exceed the model's context with `max_tokens`, the
                chat template refuses a prompt, an image cannot be read, or the model takes no images. All prompts
                are checked before any reply is generated.
        """
        check_request(prompts, sampling)
        if not prompts:
            return []
        encoded = self._encoder.encode(prompts)
        self.control_tokens += self._encoder.warn_of_control_tokens(prompts, "actor")
        fitting = self._fitting(encoded, sampling.max_tokens)
        replies = [NO_REPLY] * len(prompts)
        for i, reply in zip(fitting, self._write(encoded, sampling, fitting), strict=True):
            replies[i] = reply
        return replies

    def _write(
        self, encoded: Sequence[EncodedPrompt], sampling: Sampling, indices: list[int]
    ) -> list[Generation]:
        """One reply for each of the `indices`; greedy ones that are remembered are not generated."""
        if sampling.temperature > 0:
            return self._run(encoded, sampling, indices)
        asked = [encoded[i] for i in indices]
        keys = [(p.text, *(image.digest for image in p.images), sampling.max_tokens) for p in asked]
        return self._cache.generate(keys, partial(self._run, asked, sampling))

    @property
    def identity(self) -> dict[str, str]:
        """A hash of some values of each parameter: within a second another one for other weights.

        Values count in bfloat16, so that the type that the weights are loaded in does not matter.
        """
        digest = hashlib.sha256()
        for name, parameter in sorted(self._model.named_parameters()):
            flat = parameter.detach().flatten()
            sample = flat[:: max(1, flat.numel() // 64)].to(torch.bfloat16).cpu().contiguous()
            digest.update(
                repr((name, tuple(parameter.shape))).encode() + sample.view(torch.uint8).numpy().tobytes()
            )
        return {"weights": digest.hexdigest()[:16]}

    def fingerprint(self) -> str:
        """SHA-256 over the name, type, shape and bytes of every parameter: training must not change it."""
        digest = hashlib.sha256()
        for name, parameter in sorted(self._model.named_parameters()):
            digest.update(repr((name, str(parameter.dtype), tuple(parameter.shape))).encode())
            data = parameter.detach().cpu().contiguous().flatten().view(torch.uint8)
            digest.update(data.numpy().tobytes())
        return digest.hexdigest()

    def render(self, prompt: Conversation) -> str:
        """The text that the model reads; it ends in exactly the prefill if there is one. An image is one token.

        Raises:
            ActorError: The chat template refuses the conversation.
        """
        return self._encoder.render(prompt, 0)

    def _find_vision_ids(self) -> list[int]:
        """Tokens of images and videos; in a reply they would refer to an image that does not exist."""
        config = self._model.config
        if getattr(config, "vision_config", None) is None:
            return []
        fields = config.to_dict().items()
        ids = {value for name, value in fields if isinstance(value, int) and _VISION_TOKEN.fullmatch(name)}
        return sorted(ids - set(self._stop_ids))

    def _fitting(self, encoded: Sequence[EncodedPrompt], max_tokens: int) -> list[int]:
        """Numbers of the prompts that fit the context; the others are counted."""
        context = self.context
        if context is not None and max_tokens >= context:
            raise ActorError(
                f"max_tokens={max_tokens} leaves no room for a prompt in the context of {context} tokens of "
                f"{self.name}: lower it."
            )
        unknown, fitting = self._unknown.call(len(encoded)), []
        for index, prompt in enumerate(encoded):
            length = len(prompt.ids)
            if context is None or length + max_tokens <= context:
                fitting.append(index)
            else:
                limits = f"{length} tokens and max_tokens={max_tokens} exceed {context}"
                unknown.add(index, f"does not fit the context: {limits}")
        unknown.report()
        return fitting

    def _run(
        self, prompts: Sequence[EncodedPrompt], sampling: Sampling, indices: list[int]
    ) -> list[Generation]:
        """Generate for `indices`, longest prompts first: little padding, out of memory shows at once."""
        ordered = self._ordered(prompts, indices)
        batches = self._batches(ordered, [len(prompts[i].ids) + sampling.max_tokens for i in ordered])
        # For tqdm None means: no bar without a terminal.
        no_bar = None if self._progress is not None and len(batches) > 4 else True
        uses_left = Counter(image.digest for i in indices for image in prompts[i].images)
        features: dict[str, Features] = {}
        replies: dict[int, Generation] = {}
        with (
            self._lock,
            self._generation_mode(),
            tqdm(total=len(indices), desc=self._progress, disable=no_bar) as bar,
        ):
            for batch in batches:
                asked = [prompts[i] for i in batch]
                seeds = [child_seed(sampling.seed, i) for i in batch]
                images = [image for prompt in asked for image in prompt.images]
                for image in images:
                    if image.digest not in features:
                        features[image.digest] = self._encoder.preprocess(image)
                pixels = [features[image.digest] for image in images]
                replies.update(zip(batch, self._run_batch(asked, pixels, seeds, sampling), strict=True))
                uses_left.subtract(image.digest for image in images)
                # The pixels of a large set of images would not fit into memory.
                features = {digest: f for digest, f in features.items() if uses_left[digest] > 0}
                self.sequences_generated += len(batch)
                bar.update(len(batch))
        return [replies[i] for i in indices]

    def _batches(self, ordered: list[int], lengths: list[int]) -> list[list[int]]:
        """Cut into batches of `batch_size` sequences, or of a number of tokens with padding."""
        if self._batch_size is not None:
            size = self._batch_size
            return [ordered[start : start + size] for start in range(0, len(ordered), size)]
        batches: list[list[int]] = []
        longest = 0
        for index, length in zip(ordered, lengths, strict=True):
            longest = max(longest, length)
            if not batches or (len(batches[-1]) + 1) * longest > BATCH_TOKENS:
                batches.append([])
                longest = length
            batches[-1].append(index)
        return batches

    def _ordered(self, prompts: Sequence[EncodedPrompt], indices: list[int]) -> list[int]:
        """The longest first; where a batch reads what its prompts share once, those that start alike together."""
        if self._generate_reason:
            return sorted(indices, key=lambda i: len(prompts[i].ids), reverse=True)
        groups = [
            sorted((indices[row] for row in group.rows), key=lambda i: len(prompts[i].ids), reverse=True)
            for group in shared_beginnings([prompts[i].ids for i in indices])
        ]
        return [
            i for group in sorted(groups, key=lambda g: len(prompts[g[0]].ids), reverse=True) for i in group
        ]

    def _run_batch(
        self, asked: list[EncodedPrompt], features: Sequence[Features], seeds: list[int], sampling: Sampling
    ) -> list[Generation]:
        prompts = [prompt.ids for prompt in asked]
        if not self._generate_reason:
            sampler = SeededSampler(seeds, sampling) if sampling.temperature > 0 else None
            replies = decode(
                self._model,
                prompts,
                greedy if sampler is None else sampler.draw,
                max_tokens=sampling.max_tokens,
                stop_ids=self._stop_ids,
                pad_id=self._pad_id,
            )
            return [self._decode(reply, prompt) for prompt, reply in zip(asked, replies, strict=True)]
        width, device = max(map(len, prompts)), self._model.device
        ids_BT, mask_BT = left_padded(prompts, self._pad_id, width, device)
        processors = LogitsProcessorList()
        if self._vision_ids:  # before the sampler, which leaves one token alone
            processors.append(SuppressTokensLogitsProcessor(self._vision_ids, device=str(device)))
        if sampling.temperature > 0:
            processors.append(SeededSampler(seeds, sampling, width))
        with contiguous_head(self._model):
            output_BT = self._model.generate(
                input_ids=ids_BT,
                attention_mask=mask_BT,
                generation_config=self._generation_config(sampling.max_tokens),
                logits_processor=processors,
                synced_gpus=False,  # each process asks on its own, whatever it trains beside
                **self._encoder.image_inputs(features, ids_BT),
            )
        replies = output_BT[:, width:].tolist()
        return [self._decode(reply, prompt) for prompt, reply in zip(asked, replies, strict=True)]

    def _decode(self, reply: list[int], prompt: EncodedPrompt) -> Generation:
        end = next((i for i, token in enumerate(reply) if token in self._stop_ids), None)
        options = {"skip_special_tokens": True, "clean_up_tokenization_spaces": False}
        text = prompt.opened + str(self._tokenizer.decode(reply[:end], **options))
        return Generation(
            text, len(prompt.ids), len(reply) if end is None else end + 1, truncated=end is None
        )

    def _generation_config(self, max_tokens: int) -> GenerationConfig:
        # Every value is set: `generate` fills what is None from the checkpoint's own generation_config.
        return GenerationConfig(
            max_new_tokens=max_tokens,
            min_length=0,
            eos_token_id=self._stop_ids,
            pad_token_id=self._pad_id,
            do_sample=False,  # SeededSampler leaves one candidate; argmax then draws nothing
            num_beams=1,
            num_return_sequences=1,
            temperature=1.0,
            top_k=50,
            top_p=1.0,
            typical_p=1.0,
            epsilon_cutoff=0.0,
            eta_cutoff=0.0,
            repetition_penalty=1.0,
            no_repeat_ngram_size=0,
            use_cache=True,  # a trainer switches it off in model.config
            disable_compile=True,
        )

    @contextlib.contextmanager
    def _generation_mode(self) -> Iterator[None]:
        """Evaluation mode without gradients; afterwards each module of a borrowed model has its mode again."""
        training = [module for module in self._model.modules() if module.training]
        # Tensors that a borrowed model might cache under inference mode could not take part in its training.
        no_gradients = torch.inference_mode() if self._owned else torch.no_grad()
        self._model.eval()
        try:
            with no_gradients:
                yield
        finally:
            for module in training:
                module.training = True
