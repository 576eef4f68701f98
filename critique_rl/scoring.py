"""Replies that are scored instead of graded, as in the paper's summarisation task (appendix E).

A scorer gives a reply a number on a scale of its own; `ScoreRange`, fixed on train data, maps it to the 1 to
10 in which the critic states its own judgment on a line `Quality score: 7`. The paper names the reward model
and the linear map, but neither its bounds nor its texts, so those are ours.
"""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from critique_rl.artifacts import written_once
from critique_rl.prompts import _FENCE, _LINE_LEAD, _is_quoted  # quotation is one rule for both parsers
from critique_rl.types import AnswerKind, UserError

logger = logging.getLogger(__name__)

SCORE: AnswerKind = "score"  # type: ignore[assignment]  # not one of the kinds that `grade` knows
"""Kind of a problem whose replies are scored."""

SCORE_LABEL = "Quality score:"
LOWEST, HIGHEST = 1.0, 10.0  # of the critic's scale, appendix E

# The label and what a number starts; the number, `/10` behind it, and nothing that makes it two numbers.
_CLAIM = re.compile(rf"{re.escape(SCORE_LABEL)}[ \t*_\[]*([-+~]?\.?[0-9][^\n]*)")
_VALUE = re.compile(
    r"([0-9]+(?:\.[0-9]+)?)(?:[ \t*_]*(?:/|(?:out )?of)[ \t*_]*10)?(?![^\W_]|\.[0-9]|[ \t]*%)"
    r"(?![ \t*_]*(?:[-–—/|,~]|(?:to|or|and|(?:out )?of)\b)[ \t*_]*[0-9])"
)


def parse_score(critique: str) -> float | None:
    """Read the quality score f(x, y, c) that a critique states, in [1, 10]; `None` is unparsed.

    The rule is that of `prompts.parse_verdict`: a line starts with `Quality score:`, quoted text does not
    count, the same score may be said twice, and two scores, a range or a score off the scale is unparsed.

    >>> parse_score("Comments: it leaves out the date.\\nQuality score: 7"), parse_score("Quality score: 7-8")
    (7.0, None)
    """
    text = _FENCE.sub("", critique)
    anchored: set[float | None] = set()
    mentioned: set[float | None] = set()
    for match in _CLAIM.finditer(text):
        before = text[: match.start()]
        if _is_quoted(before):
            continue
        number = _VALUE.match(match[1])
        value = float(number[1]) if number else None
        mentioned.add(value)
        if _LINE_LEAD.match(before[before.rfind("\n") + 1 :]):
            anchored.add(value)
    if len(mentioned) != 1 or anchored != mentioned:
        return None
    stated = mentioned.pop()
    return stated if stated is not None and LOWEST <= stated <= HIGHEST else None


# -- from a scorer's scale to 1 to 10 ---------------------------------------------------------------------------


@dataclass(frozen=True)
class ScoreRange:
    """Which scores become 1 and 10; made from train data alone, see `train_range`.

    Attributes:
        low: Score that becomes 1.
        high: Score that becomes 10.
    """

    low: float
    high: float

    def __post_init__(self) -> None:
        if not (math.isfinite(self.low) and math.isfinite(self.high) and self.low < self.high):
            raise UserError(
                f"score range: low={self.low} and high={self.high} span no scale; it takes train replies of "
                "different quality."
            )


def scale_scores(values: Sequence[float | None], low: float, high: float) -> list[float | None]:
    """Map scores linearly so that `low` becomes 1 and `high` 10; what lies outside is clipped, `None` stays.

    Raises:
        UserError: `low` is not below `high`, or one of them is not finite.

    >>> scale_scores([-2.0, 0.0, 1.0, None, 9.0], low=-2.0, high=1.0)
    [1.0, 7.0, 10.0, None, 10.0]
    """
    bounds = ScoreRange(low, high)
    slope = (HIGHEST - LOWEST) / (bounds.high - bounds.low)
    return [
        None if value is None else min(max(LOWEST + slope * (value - bounds.low), LOWEST), HIGHEST)
        for value in values
    ]


def train_range(scores: Iterable[float | None], *, tail: float = 0.01) -> ScoreRange:
    """Range of the scores of train responses.

    Args:
        scores: Scores on the scorer's scale; `None` is left out.
        tail: Share of the scores below `low`, and above `high`: one odd reply must not squeeze all others
            into the middle of the scale. 0 takes minimum and maximum.

    Raises:
        UserError: No score is known, or they do not differ.
    """
    known = [score for score in scores if score is not None]
    if not known:
        raise UserError("score range: no train response could be scored.")
    low, high = np.quantile(known, (tail, 1 - tail))
    return ScoreRange(float(low), float(high))


def stored_range(path: Path, make: Callable[[], Iterable[float | None]]) -> ScoreRange:
    """The range in a file; made from train scores by the first process if the file is not there.

    Everything after reads the file, so that no later data, above all no test data, can move the scale.

    Args:
        path: JSON-lines file of one row.
        make: Gives the scores of train responses.

    Raises:
        UserError: The file holds something else; or as `train_range`.
    """
    rows = written_once(path, lambda: [asdict(train_range(make()))])
    if len(rows) != 1 or rows[0].keys() != {"low", "high"}:
        raise UserError(f"{path}: found {rows!r:.80}, expected one row with low and high; delete the file.")
    return ScoreRange(**rows[0])


# -- scorers ----------------------------------------------------------------------------------------------------


class Scorer(Protocol):
    """Says how good replies are; stands where `grade_batch` stands for answers that are right or wrong."""

    def score(self, items: Sequence[Mapping[str, str]]) -> list[float | None]:
        """Score replies, in order, on a scale of the scorer's own; more is better.

        Args:
            items: Mappings with `question` (what the actor was asked, the document included), `reply`, and
                `gold` (the problem's answer, which a scorer may leave unread).

        Returns:
            One score per item, `None` where none could be given.
        """
        ...


class KeywordScorer:
    """Scores a summary by known key facts: the stand-in for a reward model in the embedded task.

    score = (facts stated - sentences that the document does not hold) / facts - excess length

    where excess length is the share of words beyond those of the facts; both deductions are at most 1, so
    scores lie in [-2, 1]. Facts count as stated when a sentence of the reply is that fact, up to letter case,
    white space and punctuation. Paraphrase is not understood: no measure for texts of the world.

    >>> item = {"question": "Bo has 2 pens. It rains.", "gold": "Bo has 2 pens."}
    >>> KeywordScorer().score([{**item, "reply": r} for r in ("Bo has 2 pens.", "", "Bo has 3 pens.")])
    [1.0, 0.0, -1.0]
    """

    def score(self, items: Sequence[Mapping[str, str]]) -> list[float | None]:
        """Score replies; `gold` holds a key fact a line, and without it the score is `None`."""
        return [self._score(item["question"], item["reply"], item.get("gold", "")) for item in items]

    @staticmethod
    def _score(document: str, reply: str, gold: str) -> float | None:
        facts = set(_sentences(gold))
        if not facts:
            return None
        said = set(_sentences(reply))
        invented = said - facts - set(_sentences(document))
        excess = max(0.0, len(reply.split()) / len(gold.split()) - 1.0)
        return len(facts & said) / len(facts) - min(1.0, len(invented) / len(facts)) - min(1.0, excess)


def _sentences(text: str) -> list[str]:
    bare = (" ".join(part.lower().split()).strip(" .!?-*") for part in re.split(r"(?<=[.!?])\s|\n", text))
    return [sentence for sentence in bare if sentence]


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


# -- metrics ----------------------------------------------------------------------------------------------------

_FIELDS = ("response_score", "critic_score", "refinement_score")


def graded_metrics(
    rows: Iterable[Mapping[str, float | None]], *, scale: ScoreRange | None = None
) -> dict[str, float | None]:
    """Metrics of the paper's Table 9; `None` where there is nothing to average.

    Rows without a score of the response, or with a critic without one of the refinement, count in
    `graded_rate` and nowhere else, so that delta = score_refine - score holds on the same rows. A critique
    without score has no distance to the truth: read `mse_dis` and `mae_dis` beside `parse_rate`.

    Args:
        rows: Records with `response_score` and `refinement_score` on the scorer's scale, and `critic_score`
            in [1, 10]; `None` is unknown. A run without critic has the first alone.
        scale: What takes the scorer's scale to 1 to 10 for `mse_dis` and `mae_dis`; None if scores are on
            it already.

    Returns:
        `score`, `score_refine`, `delta` on the scale of the rows, as the paper reports them; `mse_dis`,
        `mae_dis` between the critic's and the scaled score, on 1 to 10; `parse_rate`, `graded_rate`.

    Raises:
        UserError: A row lacks a field, or holds no finite number in it.
    """
    table = [[_number(row, field, number) for field in _FIELDS] for number, row in enumerate(rows)]
    with_critic = any(critic is not None or after is not None for _, critic, after in table)
    graded = [
        (before, critic, after)
        for before, critic, after in table
        if before is not None and (not with_critic or after is not None)
    ]
    befores = [before for before, _, _ in graded]
    truths = befores if scale is None else scale_scores(befores, scale.low, scale.high)
    errors = [
        critic - truth
        for (_, critic, _), truth in zip(graded, truths, strict=True)
        if critic is not None and truth is not None
    ]
    score = _mean(befores)
    refined = _mean([after for _, _, after in graded if after is not None])
    return {
        "score": score,
        "score_refine": refined,
        "delta": None if score is None or refined is None else refined - score,
        "mse_dis": _mean([error**2 for error in errors]),
        "mae_dis": _mean([abs(error) for error in errors]),
        "parse_rate": len(errors) / len(graded) if graded and with_critic else None,
        "graded_rate": len(graded) / len(table) if table else None,
    }


def _number(row: Mapping[str, float | None], field: str, number: int) -> float | None:
    if field not in row:
        raise UserError(f"row {number}: no field {field!r}; it has {', '.join(row)}. Write null if unknown.")
    value = row[field]
    known = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if value is not None and not known:
        raise UserError(f"row {number}, field {field!r}: found {value!r}, expected a finite number or null.")
    return value


def _mean(values: Sequence[float]) -> float | None:
    return math.fsum(values) / len(values) if values else None
