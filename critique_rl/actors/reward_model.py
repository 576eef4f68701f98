"""TODO docstring."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from critique_rl.grading.scoring import KeywordScorer, Scorer, logger
from critique_rl.types import UserError, nearest

SCORERS = ("keywords", "reward_model")
"""Kinds of scorer that `make_scorer` knows."""


class RewardModelScorer:
    """A reward model of `transformers`: a sequence classifier with one output.

    With a chat template the model reads a user turn (`question`) and an assistant turn (`reply`), otherwise
    the two as a pair of texts. The score is the raw output.

    Nothing is cut: an item longer than `max_length` has score `None` and is counted.

    Args:
        model: Directory or hub id.
        batch_size: Most items scored at once.
        device: Where to load to; by default CUDA if there is one.
        dtype: Weights' type; by default float32 on CPU, elsewhere the checkpoint's.
        max_length: Most tokens of an item; by default what model and tokenizer say.

    Attributes:
        name: The path or hub id.
        too_long: Items that were not scored because of their length.

    Raises:
        UserError: Nothing loadable at `model`, or no reward model: another number of outputs, or weights that
            the checkpoint lacks and that would be random.
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
        import torch  # seconds that a module with parser and metrics should not take

        from critique_rl.actors.transformers_actor import _load_tokenizer

        if batch_size < 1:
            raise UserError(f"batch_size must be at least 1, got {batch_size}")
        self.name = str(model)
        self.too_long = 0
        device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        if dtype is None:
            dtype = torch.float32 if torch.device(device).type == "cpu" else "auto"
        self._model = _load_reward_model(self.name, dtype).to(device).requires_grad_(False).eval()
        self._tokenizer: Any = _load_tokenizer(self.name, None)
        config = self._model.config.get_text_config()
        if config.pad_token_id is None and self._tokenizer.pad_token_id != self._tokenizer.eos_token_id:
            config.pad_token_id = self._tokenizer.pad_token_id
        # Decoders read their output at the last token that is not padding and take none for it without an id;
        # to invent one, such as the end-of-sequence token, would move the place that is read.
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
        fitting = {pair: e for pair, e in encoded.items() if len(e["input_ids"]) <= self._max_length}
        by_length = sorted(fitting, key=lambda pair: len(fitting[pair]["input_ids"]), reverse=True)
        scores: dict[tuple[str, str], float | None] = {}
        for start in range(0, len(by_length), self._batch_size):
            batch = by_length[start : start + self._batch_size]
            scores.update(zip(batch, self._run([fitting[pair] for pair in batch]), strict=True))
        too_long = sum(pair not in fitting for pair in pairs)
        if too_long:
            self.too_long += too_long
            message = "%s: %d of %d replies not scored, longer than %d tokens with their question"
            logger.warning(message, self.name, too_long, len(pairs), self._max_length)
        return [scores.get(pair) for pair in pairs]

    def _encode(self, question: str, reply: str, index: int) -> Mapping[str, list[int]]:
        from jinja2 import TemplateError

        encoded: Mapping[str, list[int]]
        if not self._tokenizer.chat_template:
            encoded = self._tokenizer(question, reply, truncation=False)
            return encoded
        chat = [{"role": "user", "content": question}, {"role": "assistant", "content": reply}]
        try:
            text = self._tokenizer.apply_chat_template(chat, tokenize=False)
        except (TemplateError, ValueError) as error:
            raise UserError(f"the chat template of {self.name} refuses item {index}: {error}") from error
        # The template has written the special tokens already; a second BOS would be added here.
        encoded = self._tokenizer(text, add_special_tokens=False, truncation=False)
        return encoded

    def _run(self, batch: Sequence[Mapping[str, list[int]]]) -> list[float | None]:
        import torch

        width = max(len(row["input_ids"]) for row in batch)
        # On the right by hand: absolute positions count from the left, whatever side the tokenizer pads.
        fills = {"input_ids": self._pad_id, "attention_mask": 0, "token_type_ids": 0}
        inputs_BT = {
            name: torch.tensor(
                [[*row[name], *[fill] * (width - len(row[name]))] for row in batch],
                device=self._model.device,
            )
            for name, fill in fills.items()
            if name in batch[0]
        }
        with torch.inference_mode():
            scores_B = self._model(**inputs_BT).logits[:, 0].float().tolist()
        return [score if math.isfinite(score) else None for score in scores_B]


def _load_reward_model(location: str, dtype: Any) -> Any:
    from transformers import AutoModelForSequenceClassification

    from critique_rl.actors.transformers_actor import _check_location, _load_failure

    _check_location(location)
    try:
        model, info = AutoModelForSequenceClassification.from_pretrained(
            location, dtype=dtype, output_loading_info=True
        )
    except (OSError, ValueError) as error:
        raise UserError(_load_failure("reward model", location, error)) from error
    if info["missing_keys"]:  # transformers would only warn, and score with random weights
        raise UserError(
            f"{location} is no reward model: its checkpoint lacks {', '.join(sorted(info['missing_keys']))}."
        )
    if model.config.num_labels != 1:
        raise UserError(f"{location} is no reward model: it has {model.config.num_labels} outputs, not one.")
    return model


def make_scorer(spec: Mapping[str, Any]) -> Scorer:
    """Build a scorer from a configuration: `{kind: keywords}`, or `{kind: reward_model, model: PATH, ...}`.

    Raises:
        UserError: The kind or an option is unknown, the model is missing or cannot be loaded.
    """
    options = dict(spec)
    kind = options.pop("kind", None)
    if kind == "keywords" and not options:
        return KeywordScorer()
    if kind == "reward_model" and "model" in options:
        try:
            return RewardModelScorer(**options)
        except TypeError as error:
            raise UserError(f"scorer: {error}") from error
    if kind not in SCORERS:
        raise UserError(f"scorer.kind={kind!r} is unknown. {nearest(str(kind), SCORERS)}")
    raise UserError(
        "scorer: a reward_model needs `model`."
        if kind == "reward_model"
        else f"scorer: keywords has no option {', '.join(options)}."
    )
