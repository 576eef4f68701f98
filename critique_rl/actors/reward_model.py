"""Scorers of replies: a reward model of `transformers`, or one that counts keywords."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from critique_rl.grading.scoring import KeywordScorer, Scorer
from critique_rl.types import Conversation, UserError, nearest

logger = logging.getLogger(__name__)

SCORERS = ("keywords", "reward_model")
"""Kinds of scorer that `make_scorer` knows."""


class RewardModelScorer:
    """A reward model of `transformers`: a sequence classifier with one output.

    With a chat template the model reads a user turn (`question`) and an assistant turn (`reply`), otherwise
    the two as a pair of texts. The score is the raw output.

    Special tokens inside texts are read as plain text. Items are never cut. An item longer than `max_length` has
    score `None` and is counted.

    Args:
        model: Directory or hub id.
        batch_size: Most items scored at once.
        device: Device to load to; by default CUDA if there is one.
        dtype: Type of the weights; by default float32 on CPU, elsewhere the checkpoint's.
        max_length: Most tokens of an item; by default the smaller limit of model and tokenizer.

    Attributes:
        name: The path or hub id.
        too_long: Items that were not scored because of their length.

    Raises:
        UserError: The model cannot be loaded, does not have one output, or its checkpoint lacks weights.
    """

    def __init__(
        self,
        model: str | Path,
        *,
        batch_size: int = 16,
        device: str | None = None,
        dtype: Any = None,
        max_length: int | None = None,
    ) -> None:
        # Imported here: they take seconds, and `make_scorer` needs them for a reward model only.
        from transformers import AutoModelForSequenceClassification as AutoModel
        from transformers import AutoTokenizer

        from critique_rl.actors.encoding import PromptEncoder
        from critique_rl.actors.loading import load_pretrained, placement

        if batch_size < 1:
            raise UserError(f"batch_size must be at least 1, got {batch_size}")
        self.name = str(model)
        self.too_long = 0
        device, dtype = placement(device, dtype)
        options = {"dtype": dtype, "output_loading_info": True}
        loaded, report = load_pretrained(AutoModel, "reward model", self.name, **options)
        if report["missing_keys"]:  # transformers would only warn, and score with random weights
            missing = ", ".join(sorted(report["missing_keys"]))
            raise UserError(f"{self.name} is no reward model: its checkpoint lacks {missing}.")
        outputs = loaded.config.num_labels
        if outputs != 1:
            raise UserError(f"{self.name} is no reward model: it has {outputs} outputs, not one.")
        self._model = loaded.to(device).requires_grad_(False).eval()
        self._tokenizer: Any = load_pretrained(AutoTokenizer, "tokenizer", self.name)
        self._encoder = PromptEncoder.of(self.name, self._tokenizer)
        config = self._model.config.get_text_config()
        if config.pad_token_id is None and self._tokenizer.pad_token_id != self._tokenizer.eos_token_id:
            config.pad_token_id = self._tokenizer.pad_token_id
        # Decoders read their output at the last token that is not the padding id. Without an id no token is
        # padding. An invented id, such as the end-of-sequence token, would move the place that is read.
        self._pad_id: int | None = config.pad_token_id
        self._batch_size = 1 if self._pad_id is None else batch_size
        limits = (getattr(config, "max_position_embeddings", None), self._tokenizer.model_max_length)
        self._max_length = max_length or min(limit for limit in limits if limit is not None)

    def score(self, items: Sequence[Mapping[str, str]]) -> list[float | None]:
        """Score replies, longest first, each distinct item once.

        Raises:
            UserError: The chat template refuses an item.
        """
        pairs = [(item["question"], item["reply"]) for item in items]
        encoded = {pair: self._encode(*pair, index) for index, pair in enumerate(pairs)}
        lengths = {pair: len(item["input_ids"]) for pair, item in encoded.items()}
        fitting = [pair for pair in lengths if lengths[pair] <= self._max_length]
        by_length = sorted(fitting, key=lengths.__getitem__, reverse=True)
        scores: dict[tuple[str, str], float | None] = {}
        for start in range(0, len(by_length), self._batch_size):
            batch = by_length[start : start + self._batch_size]
            scores.update(zip(batch, self._run([encoded[pair] for pair in batch]), strict=True))
        too_long = sum(lengths[pair] > self._max_length for pair in pairs)
        self.too_long += too_long
        if too_long:
            message = "%s: %d of %d replies not scored, longer than %d tokens with their question"
            logger.warning(message, self.name, too_long, len(pairs), self._max_length)
        return [scores.get(pair) for pair in pairs]

    def _encode(self, question: str, reply: str, index: int) -> Mapping[str, list[int]]:
        from jinja2 import TemplateError

        if not self._tokenizer.chat_template:
            return dict(self._tokenizer(question, reply, truncation=False))
        chat: Conversation = [{"role": "user", "content": question}, {"role": "assistant", "content": reply}]
        chat = self._encoder.plain(chat)
        try:
            text = self._tokenizer.apply_chat_template(chat, tokenize=False)
        except (TemplateError, ValueError) as error:
            raise UserError(f"the chat template of {self.name} refuses item {index}: {error}") from error
        # The template has written the special tokens already; a second BOS would be added here.
        return dict(self._tokenizer(text, add_special_tokens=False, truncation=False))

    def _run(self, batch: Sequence[Mapping[str, list[int]]]) -> list[float | None]:
        import torch

        width = max(len(item["input_ids"]) for item in batch)
        # Padded on the right, whatever side the tokenizer pads: absolute positions count from the left.
        fills = {"input_ids": self._pad_id, "attention_mask": 0, "token_type_ids": 0}
        inputs_BT: dict[str, torch.Tensor] = {}
        for name, fill in fills.items():
            if name in batch[0]:
                padded = [[*item[name], *[fill] * (width - len(item[name]))] for item in batch]
                inputs_BT[name] = torch.tensor(padded, device=self._model.device)
        with torch.inference_mode():
            scores_B = self._model(**inputs_BT).logits[:, 0].float().tolist()
        return [score if math.isfinite(score) else None for score in scores_B]


def make_scorer(spec: Mapping[str, Any]) -> Scorer:
    """Build a scorer from a configuration: `{kind: keywords}`, or `{kind: reward_model, model: PATH, ...}`.

    Raises:
        UserError: The kind or an option is unknown, `model` is missing, or the model cannot be loaded.
    """
    options = dict(spec)
    kind = options.pop("kind", None)
    if kind not in SCORERS:
        raise UserError(f"scorer.kind={kind!r} is unknown. {nearest(str(kind), SCORERS)}")
    if kind == "keywords":
        if options:
            raise UserError(f"scorer: keywords has no option {', '.join(options)}.")
        return KeywordScorer()
    if "model" not in options:
        raise UserError("scorer: a reward_model needs `model`.")
    try:
        return RewardModelScorer(**options)
    except TypeError as error:
        raise UserError(f"scorer: {error}") from error
