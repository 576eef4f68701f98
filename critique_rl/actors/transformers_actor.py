"""The actor in this process: batched `transformers` generation, on CPU or GPU."""

from __future__ import annotations

import contextlib
import hashlib
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any

import torch
from jinja2 import TemplateError
from tqdm import tqdm
from transformers import (
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoTokenizer,
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    ProcessorMixin,
    SuppressTokensLogitsProcessor,
)

from critique_rl.actors.base import ActorError, GreedyCache, check_request
from critique_rl.types import Conversation, Generation, Message, Sampling, UserError, child_seed
from critique_rl.vision.images import image_bytes, open_image
from critique_rl.vision.models import is_vision_model, load_processor, parts

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?")
_DEFAULT_CACHE = 50_000
_PROGRESS_MIN_BATCHES = 4
_PROBE = "END-OF-TURN-PROBE"
_VISION_TOKEN = re.compile(r"(image|video|vision|boi|eoi)\w*_token_(id|index)")


@dataclass(frozen=True)
class _Picture:
    """An image of a prompt: where it is, a hash of its content, and how many tokens it takes."""

    source: str
    digest: str
    tokens: int


@dataclass(frozen=True)
class _Row:
    """A prompt as the model reads it, images expanded to their tokens."""

    ids: list[int]
    pictures: tuple[_Picture, ...] = ()


_Features = Mapping[str, torch.Tensor]
"""What an image processor makes of one image: `pixel_values` and `image_grid_thw`."""


class TransformersActor:
    """A causal language model of `transformers` behind the `Actor` protocol.

    Sampling never touches torch's global random state, so an actor inside a trainer cannot change what the
    trainer draws, and prompt `i` draws from its own stream: neither `batch_size` nor the other prompts alter
    its sample. The checkpoint's own `generation_config` contributes its end-of-sequence ids and nothing else
    (Qwen2.5 ships a repetition penalty that would silently make "greedy" something else).

    There are no stop words: the end-of-sequence ids and the template's end-of-turn token end a reply.
    Stop strings such as "Human" cut answers about humans.

    A model whose config has a vision part also takes images, where its processor has the form of Qwen-VL's (a
    grid of patches for each image). Each image is preprocessed once per call, and its pixels are kept only from
    the first batch that needs them to the last. Such a model never writes its tokens for images and videos.

    Not an `nn.Module`: TRL takes a module among the reward functions for a reward model.

    Args:
        model: Directory or hub id, loaded and frozen here; or a model in memory, which is borrowed: its
            `requires_grad` flags stay, its train/eval mode is restored after each call.
        tokenizer: Tokenizer, or the path of one; needed with a model in memory, else loaded from `model`. For
            a model with vision its processor, or the path of one; with a bare tokenizer it reads text only.
        gguf_file: Name of a GGUF file inside `model`.
        batch_size: Most sequences generated at once.
        device: Where to load to; by default CUDA if there is one. A model in memory stays where it is.
        dtype: Weights' type; by default float32 on CPU (bfloat16 is slower there, and makes greedy output
            depend on the batch), elsewhere the checkpoint's.
        cache_size: Greedy generations remembered. By default 50,000 for a loaded model and 0 for a model in
            memory, whose weights may change between calls.
        progress: Label of a progress bar on stderr for calls of more than four batches; None shows none.
            Nothing is shown where stderr is not a terminal.

    Attributes:
        name: The path or hub id.
        sequences_generated: Sequences generated so far; cache hits and duplicates do not count.

    Raises:
        ActorError: Nothing loadable at `model`, or a tokenizer without chat template.
    """

    def __init__(
        self,
        model: str | Path | PreTrainedModel,
        tokenizer: str | Path | PreTrainedTokenizerBase | ProcessorMixin | None = None,
        *,
        gguf_file: str | None = None,
        batch_size: int = 64,
        device: str | None = None,
        dtype: str | torch.dtype | None = None,
        cache_size: int | None = None,
        progress: str | None = None,
    ) -> None:
        if batch_size < 1:
            raise ActorError(f"batch_size must be at least 1, got {batch_size}")
        self._model: Any  # `generate` comes from a mix-in that PEFT wrappers only forward to
        if isinstance(model, str | Path):
            self.name = str(model)
            self._owned = True
            tokenizer = self.name if tokenizer is None else tokenizer
            device = device or ("cuda" if torch.cuda.is_available() else "cpu")
            sees = gguf_file is None and _sees(self.name)
            self._model = _load_model(self.name, gguf_file, device, dtype, sees=sees)
        else:
            self.name = str(model.config._name_or_path or type(model).__name__)
            self._owned = False
            self._model = model
            if tokenizer is None:
                raise ActorError("a model in memory needs its tokenizer: TransformersActor(model, tokenizer)")
            if gguf_file is not None or device is not None or dtype is not None:
                raise ActorError("gguf_file, device and dtype apply to a model loaded from a path only")
            sees = getattr(model.config, "vision_config", None) is not None
        reader = _find_reader(tokenizer, self.name, gguf_file, sees=sees)
        self._processor, self._tokenizer, self._no_images = reader
        if not (self._processor or self._tokenizer).chat_template:
            raise ActorError(
                f"the tokenizer of {self.name} has no chat template; use an instruction-tuned model, or set "
                "tokenizer.chat_template and save the tokenizer again"
            )
        self._batch_size = batch_size
        self._progress = progress
        if cache_size is None:
            cache_size = _DEFAULT_CACHE if self._owned else 0
        self._cache = GreedyCache(cache_size)
        self._stop_ids = self._find_stop_ids()
        self._unwritten_ids = self._find_unwritten_ids()
        pad_id = self._tokenizer.pad_token_id
        self._pad_id = self._stop_ids[0] if pad_id is None else int(pad_id)
        self._lock = Lock()  # train/eval mode is state of the model: one call at a time
        self.sequences_generated = 0

    @property
    def context(self) -> int | None:
        """Most tokens of prompt and reply together, None if the model's config does not say."""
        return getattr(self._model.config.get_text_config(), "max_position_embeddings", None)

    def generate(self, prompts: Sequence[Conversation], sampling: Sampling) -> list[Generation]:
        """Generate one reply per prompt, in order; see `Actor.generate`.

        Raises:
            ActorError: A prompt plus `max_tokens` exceeds the model's context, the chat template refuses
                a prompt, or there is an image that cannot be read or that the model cannot see. All prompts
                are checked before anything is generated.
        """
        check_request(prompts, sampling)
        if not prompts:
            return []
        known: dict[str, _Picture] = {}
        pictures = [self._look(prompt, index, known) for index, prompt in enumerate(prompts)]
        rendered = [self._render(prompt, index) for index, prompt in enumerate(prompts)]
        expanded = [self._expand(text, pictures[index], index) for index, text in enumerate(rendered)]
        # The template has written the special tokens already; a second BOS would be added here.
        encoded = self._tokenizer(expanded, add_special_tokens=False, truncation=False)["input_ids"]
        self._check_lengths(encoded, sampling.max_tokens)
        rows = [_Row(ids, seen) for ids, seen in zip(encoded, pictures, strict=True)]

        def run(indices: list[int]) -> list[Generation]:
            return self._run(rows, indices, sampling)

        if sampling.temperature > 0:
            return run(list(range(len(prompts))))
        keys = [
            (text, *(picture.digest for picture in seen), sampling.max_tokens)
            for text, seen in zip(rendered, pictures, strict=True)
        ]
        return self._cache.generate(keys, run)

    def fingerprint(self) -> str:
        """SHA-256 over the name, type, shape and bytes of every parameter: training must not change it."""
        digest = hashlib.sha256()
        for name, parameter in sorted(self._model.named_parameters()):
            digest.update(repr((name, str(parameter.dtype), tuple(parameter.shape))).encode())
            data = parameter.detach().cpu().contiguous().flatten().view(torch.uint8)
            digest.update(data.numpy().tobytes())
        return digest.hexdigest()

    def render(self, prompt: Conversation) -> str:
        """The text the model sees for `prompt`; it ends in exactly the prefill, if there is one.

        An image is a single token of it.

        Raises:
            ActorError: The chat template refuses the conversation.
        """
        return self._render(prompt, 0)

    def _render(self, prompt: Conversation, index: int) -> str:
        prefill = prompt[-1]["content"] if prompt[-1]["role"] == "assistant" else None
        try:
            if prefill is None:
                return self._template(prompt, add_generation_prompt=True)
            if not prefill.strip():  # nothing the template could be told to continue
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

    def _template(self, messages: Sequence[Message], **options: Any) -> str:
        if self._processor is not None:
            shown = parts(list(messages), images="placeholders")
            return str(self._processor.apply_chat_template(shown, tokenize=False, **options))
        plain: list[Any] = list(messages)
        return str(self._tokenizer.apply_chat_template(plain, tokenize=False, **options))

    def _find_stop_ids(self) -> list[int]:
        """End-of-sequence ids of the checkpoint and tokenizer, and what the template ends a turn with."""
        stop: list[int] = []
        for ids in (self._tokenizer.eos_token_id, self._model.generation_config.eos_token_id):
            stop += [] if ids is None else [ids] if isinstance(ids, int) else list(ids)
        probe: Conversation = [{"role": "user", "content": "?"}, {"role": "assistant", "content": _PROBE}]
        try:
            closing = self._template(probe).rpartition(_PROBE)[2]
        except TemplateError as error:
            raise ActorError(f"the chat template of {self.name} fails on a plain chat: {error}") from error
        closing_ids = self._tokenizer(closing, add_special_tokens=False)["input_ids"]
        special = {i for i, token in self._tokenizer.added_tokens_decoder.items() if token.special}
        if closing_ids and closing_ids[0] in special:
            stop.append(closing_ids[0])
        if not stop:
            raise ActorError(f"{self.name} has no end-of-sequence token: its replies could never end")
        return list(dict.fromkeys(int(i) for i in stop))

    def _find_unwritten_ids(self) -> list[int]:
        """Tokens that stand for images: written by the model, they would ask for an image that is not there."""
        config = self._model.config
        if getattr(config, "vision_config", None) is None:
            return []
        found = {
            value
            for name, value in config.to_dict().items()
            if isinstance(value, int) and _VISION_TOKEN.fullmatch(name)
        }
        return sorted(found - set(self._stop_ids))

    def _look(self, prompt: Conversation, index: int, known: dict[str, _Picture]) -> tuple[_Picture, ...]:
        """The images of a prompt, measured but not preprocessed; `known` are those of the call so far."""
        sources = [message["image"] for message in prompt if "image" in message]
        if sources and self._no_images:
            raise ActorError(f"prompt {index} has an image: {self._no_images}")
        for source in sources:
            if source not in known:
                try:
                    known[source] = self._measure(source)
                except (UserError, ValueError) as error:
                    raise ActorError(f"prompt {index}: {error}") from error
        return tuple(known[source] for source in sources)

    def _measure(self, source: str) -> _Picture:
        image, process = open_image(source), self._processor.image_processor
        patches = process.get_number_of_image_patches(image.height, image.width, {})
        # The file may be overwritten before the next call: its name is not enough for the cache.
        digest = hashlib.sha256(image_bytes(source)).hexdigest()
        return _Picture(source, digest, tokens=patches // process.merge_size**2)

    def _expand(self, text: str, pictures: Sequence[_Picture], index: int) -> str:
        """Write the token of each image as often as the image has tokens."""
        if self._processor is None or self._no_images:
            return text
        token = self._processor.image_token
        first, *others = text.split(token)
        if len(others) != len(pictures):
            raise ActorError(
                f"prompt {index}: {token} stands {len(others)} times in its text, for images: {len(pictures)}; "
                "it must not be part of a message"
            )
        expanded = (token * p.tokens + piece for p, piece in zip(pictures, others, strict=True))
        return "".join([first, *expanded])

    def _check_lengths(self, encoded: Sequence[Sequence[int]], max_tokens: int) -> None:
        if self.context is None:
            return
        for index, ids in enumerate(encoded):
            if len(ids) + max_tokens > self.context:
                raise ActorError(
                    f"prompt {index} has {len(ids)} tokens; with max_tokens={max_tokens} it exceeds the "
                    f"context of {self.context} tokens of {self.name}"
                )

    def _run(self, rows: Sequence[_Row], indices: list[int], sampling: Sampling) -> list[Generation]:
        """Generate for `indices`, longest prompts first: little padding, out of memory shows at once."""
        by_length = sorted(indices, key=lambda i: len(rows[i].ids), reverse=True)
        batches = [by_length[s : s + self._batch_size] for s in range(0, len(by_length), self._batch_size)]
        shown = self._progress is not None and len(batches) > _PROGRESS_MIN_BATCHES
        waiting = Counter(picture.digest for i in indices for picture in rows[i].pictures)
        features: dict[str, _Features] = {}
        done: dict[int, Generation] = {}
        with (
            self._lock,
            self._generation_mode(),
            tqdm(total=len(indices), desc=self._progress, disable=None if shown else True) as bar,
        ):
            for batch in batches:
                seeds = [child_seed(sampling.seed, i) for i in batch]
                pictures = [picture for i in batch for picture in rows[i].pictures]
                for picture in pictures:
                    if picture.digest not in features:
                        features[picture.digest] = self._preprocess(picture)
                seen = [features[picture.digest] for picture in pictures]
                replies = self._run_batch([rows[i].ids for i in batch], seen, seeds, sampling)
                done.update(zip(batch, replies, strict=True))
                waiting.subtract(picture.digest for picture in pictures)
                # The pixels of a large set of images would not fit into memory.
                features = {digest: kept for digest, kept in features.items() if waiting[digest] > 0}
                self.sequences_generated += len(batch)
                bar.update(len(batch))
        return [done[i] for i in indices]

    def _preprocess(self, picture: _Picture) -> _Features:
        features: _Features = self._processor.image_processor(
            images=[open_image(picture.source)], return_tensors="pt"
        )
        return features

    def _run_batch(
        self,
        prompts: list[list[int]],
        images: Sequence[_Features],
        seeds: list[int],
        sampling: Sampling,
    ) -> list[Generation]:
        width = max(len(ids) for ids in prompts)
        device = self._model.device
        # Padded by hand: the tokenizer may belong to a trainer, and its padding side is the trainer's.
        ids_BT = torch.tensor([[self._pad_id] * (width - len(p)) + list(p) for p in prompts], device=device)
        mask_BT = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts], device=device)
        seen: dict[str, torch.Tensor] = {}
        if images:
            # One image after the other, in the order of their tokens.
            for name in ("pixel_values", "image_grid_thw"):
                seen[name] = torch.cat([features[name] for features in images]).to(device)
            if "mm_token_type_ids" in self._processor.model_input_names:
                # Without them the model would place images as if they were text, and warn of it at most.
                seen["mm_token_type_ids"] = (ids_BT == self._processor.image_token_id).long()
        processors = LogitsProcessorList()
        if self._unwritten_ids:  # before the sampler, which leaves one token alone
            processors.append(SuppressTokensLogitsProcessor(self._unwritten_ids, device=str(device)))
        if sampling.temperature > 0:
            processors.append(SeededSampler(seeds, sampling, width))
        output_BT = self._model.generate(
            input_ids=ids_BT,
            attention_mask=mask_BT,
            generation_config=self._generation_config(sampling.max_tokens),
            logits_processor=processors,
            **seen,
        )
        replies = output_BT[:, width:].tolist()
        return [self._read(reply, len(prompt)) for prompt, reply in zip(prompts, replies, strict=True)]

    def _read(self, reply: list[int], prompt_tokens: int) -> Generation:
        end = next((i for i, token in enumerate(reply) if token in self._stop_ids), None)
        text = self._tokenizer.decode(
            reply[:end], skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        return Generation(
            text=str(text),
            prompt_tokens=prompt_tokens,
            completion_tokens=len(reply) if end is None else end + 1,
            truncated=end is None,
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
        """Evaluation mode, no gradients; a borrowed model gets back the mode of each of its modules."""
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


class SeededSampler(LogitsProcessor):
    """Draws each next token with temperature and nucleus, from one random stream per sequence.

    `torch.multinomial` would draw for the whole batch from the global generator: the draw of one sequence
    would depend on its neighbours, and the trainer's randomness on the actor. Here sequence `b` at step `t`
    inverts its cumulative distribution at a uniform number that depends on `(seeds[b], t)` only.

    Args:
        seeds: One seed per sequence of the batch.
        sampling: Temperature and nucleus.
        prompt_width: Padded length of the prompts.
    """

    def __init__(self, seeds: Sequence[int], sampling: Sampling, prompt_width: int) -> None:
        if sampling.temperature <= 0:
            raise ValueError(f"temperature must be positive, got {sampling.temperature}")
        self._temperature = sampling.temperature
        self._top_p = sampling.top_p
        self._prompt_width = prompt_width
        self._uniform_BT = torch.stack(
            [torch.rand(sampling.max_tokens, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
        )

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        """Replace the scores (B, V) by 0 for the drawn token and -inf for all others."""
        step = input_ids.shape[1] - self._prompt_width
        probabilities_BV, tokens_BV = (
            (scores.float() / self._temperature).softmax(-1).sort(-1, descending=True)
        )
        cumulative_BV = probabilities_BV.cumsum(-1)
        # The nucleus ends with the token that reaches top_p; the draw is uniform over its mass.
        last_B1 = (cumulative_BV < self._top_p).sum(-1, keepdim=True).clamp(max=scores.shape[-1] - 1)
        target_B1 = self._uniform_BT[:, step, None].to(scores.device) * cumulative_BV.gather(-1, last_B1)
        # `minimum` for GPUs only: their parallel cumsum may dip by a rounding error and mislead the search.
        rank_B1 = torch.searchsorted(cumulative_BV, target_B1, right=True).minimum(last_B1)
        drawn_BV = torch.full_like(scores, -torch.inf).scatter_(-1, tokens_BV.gather(-1, rank_B1), 0.0)
        return drawn_BV  # type: ignore[return-value]


def _check_location(location: str) -> None:
    """Tell a mistyped path from a hub id, before the hub is asked for it."""
    if not Path(location).is_dir() and not _HUB_ID.fullmatch(location):
        raise ActorError(
            f"no model at {location}: not a directory, and not the form of a hub id (owner/name)"
        )


def _sees(location: str) -> bool:
    """Whether a model with vision is there; if nothing is, loading it says so."""
    _check_location(location)
    try:
        return is_vision_model(location)
    except UserError:
        return False


def _load_model(
    location: str, gguf_file: str | None, device: str, dtype: str | torch.dtype | None, *, sees: bool
) -> Any:
    _check_location(location)
    if dtype is None:
        dtype = torch.float32 if torch.device(device).type == "cpu" else "auto"
    options = {} if gguf_file is None else {"gguf_file": gguf_file}
    try:
        auto: Any = AutoModelForImageTextToText if sees else AutoModelForCausalLM
        model: Any = auto.from_pretrained(location, dtype=dtype, **options)
    except (OSError, ValueError) as error:
        raise ActorError(_load_failure("model", location, error)) from error
    return model.to(device).requires_grad_(False).eval()


def _load_tokenizer(location: str, gguf_file: str | None) -> PreTrainedTokenizerBase:
    _check_location(location)
    options = {} if gguf_file is None else {"gguf_file": gguf_file}
    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(location, **options)
    except (OSError, ValueError) as error:
        raise ActorError(_load_failure("tokenizer", location, error)) from error
    return tokenizer


def _find_reader(given: Any, name: str, gguf_file: str | None, *, sees: bool) -> tuple[Any, Any, str]:
    """The processor or None, the tokenizer, and why the model `name` takes no images: "" if it does.

    A processor that cannot be loaded is no failure yet: the model may be wanted for text alone.
    """
    no_images = "" if sees else f"{name} is a model without vision"
    if isinstance(given, str | Path):
        location = str(given)
        if sees:
            _check_location(location)
            try:
                given = load_processor(location)
            except UserError as error:
                no_images = str(error)
        if not isinstance(given, ProcessorMixin):
            given = _load_tokenizer(location, gguf_file if location == name else None)
    if not isinstance(given, ProcessorMixin):
        return None, given, no_images or f"{name} was given a tokenizer, and images need its processor"
    if not no_images and "image_grid_thw" not in given.model_input_names:
        no_images = f"its processor has another form than Qwen-VL's; serve {name}, and use OpenAIActor"
    return given, given.tokenizer, no_images


def _load_failure(what: str, location: str, error: Exception) -> str:
    lines = str(error).strip().splitlines()
    reason = lines[0] if lines else type(error).__name__
    if Path(location).is_dir():
        return f"cannot load a {what} in directory {location}: {reason}"
    return f"cannot load a {what}: {location} is no directory, and as a hub id: {reason}"
