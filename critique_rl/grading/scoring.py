"""Replies that are scored instead of graded, as in the paper's summarisation task (appendix E).

A scorer gives a reply a number on a scale of its own, its *score*; `ScoreRange`, made from the responses of the
pool, maps scores linearly to *ratings* from 1 to 10, on which scale the critic states its own judgment. The paper
names the reward model and the linear map, but not its bounds, so those are ours.
"""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from critique_rl.prompts import HIGHEST, LOWEST
from critique_rl.types import UserError

logger = logging.getLogger(__name__)

# -- from scores to ratings -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ScoreRange:
    """Which scores become ratings of 1 and 10; made from train data alone, see `train_range`.

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

    def rating(self, score: float | None) -> float | None:
        """A score on the scale of ratings, to which it is clipped; `None` stays.

        >>> [ScoreRange(-2.0, 1.0).rating(score) for score in (-2.0, 0.0, 9.0, None)]
        [1.0, 7.0, 10.0, None]
        """
        if score is None:
            return None
        scaled = LOWEST + (HIGHEST - LOWEST) * (score - self.low) / (self.high - self.low)
        return min(max(scaled, LOWEST), HIGHEST)


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


@dataclass(frozen=True)
class Rater:
    """r_oracle of scored replies; its call stands where `grade_batch` stands for answers that are right or wrong.

    Attributes:
        scorer: Gives scores.
        range: Takes them to ratings.
    """

    scorer: Scorer
    range: ScoreRange

    def __call__(self, items: Sequence[Mapping[str, str]]) -> list[float | None]:
        """Ratings of replies, in order; the items are those of `Scorer.score`."""
        return [self.range.rating(score) for score in self.scorer.score(items)]
