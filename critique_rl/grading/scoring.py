"""Scores in place of grades, as in the paper's summarisation task (appendix E).

A scorer gives each reply a *score* on the scorer's scale. `ScoreRange`, fitted to the responses of the pool, maps
scores linearly to *ratings* from 1 to 10; the critic rates on the same scale. The paper names the reward model and
the linear map but no bounds, so the bounds are ours.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from critique_rl.prompts import HIGHEST, LOWEST
from critique_rl.types import UserError


@dataclass(frozen=True)
class ScoreRange:
    """Range of scores that ratings span; from train data only, see `train_range`.

    Attributes:
        low: Score that becomes rating 1.
        high: Score that becomes rating 10.
    """

    low: float
    high: float

    def __post_init__(self) -> None:
        if not (math.isfinite(self.low) and math.isfinite(self.high) and self.low < self.high):
            raise UserError(
                f"score range: low={self.low} and high={self.high} span no scale; take train replies of "
                "different quality."
            )

    def rating(self, score: float | None) -> float | None:
        """Map a score to the scale of ratings and clip it there; `None` stays.

        >>> [ScoreRange(-2.0, 1.0).rating(score) for score in (-2.0, 0.0, 9.0, None)]
        [1.0, 7.0, 10.0, None]
        """
        if score is None:
            return None
        scaled = LOWEST + (HIGHEST - LOWEST) * (score - self.low) / (self.high - self.low)
        return min(max(scaled, LOWEST), HIGHEST)


def train_range(scores: Iterable[float | None], *, tail: float = 0.01) -> ScoreRange:
    """Fit the range to the scores of train responses.

    Args:
        scores: Scores on the scorer's scale; `None` is left out.
        tail: Share of the scores below `low`, and above `high`: one odd reply must not squeeze all others
            into the middle of the scale. 0 takes minimum and maximum.

    Raises:
        UserError: No score is known, or all scores are equal.
    """
    known = [score for score in scores if score is not None]
    if not known:
        raise UserError("score range: no train response could be scored; check the scorer and the pool.")
    low, high = np.quantile(known, (tail, 1 - tail))
    return ScoreRange(float(low), float(high))


class Scorer(Protocol):
    """Measure of the quality of replies; takes the place of `grade_batch`."""

    def score(self, items: Sequence[Mapping[str, str]]) -> list[float | None]:
        """Score replies, in order, on the scorer's scale; more is better, `None` is unknown.

        Args:
            items: Mappings with `question` (prompt of the actor, with the document), `reply`, and `gold` (answer
                of the problem; a scorer may ignore it).
        """
        ...


class KeywordScorer:
    """Score of a summary by known key facts: the stand-in for a reward model in the embedded task.

    score = (facts stated - sentences that the document does not hold) / facts - excess length

    Excess length is the share of words beyond those of the facts. Both deductions are at most 1, so scores lie in
    [-2, 1]. A fact is stated if a sentence of the reply equals it up to letter case, white space and punctuation.
    Paraphrases do not count, so this is no measure for real texts.

    >>> item = {"question": "Bo has 2 pens. It rains.", "gold": "Bo has 2 pens."}
    >>> KeywordScorer().score([{**item, "reply": r} for r in ("Bo has 2 pens.", "", "Bo has 3 pens.")])
    [1.0, 0.0, -1.0]
    """

    def score(self, items: Sequence[Mapping[str, str]]) -> list[float | None]:
        """Score replies; `gold` holds one key fact a line, and without facts the score is `None`."""
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
    """r_oracle of scored replies: scores mapped to ratings. A call takes the place of `grade_batch`.

    Attributes:
        scorer: Scores replies.
        range: Maps scores to ratings.
    """

    scorer: Scorer
    range: ScoreRange

    def __call__(self, items: Sequence[Mapping[str, str]]) -> list[float | None]:
        """Rate replies, in order; items as in `Scorer.score`."""
        return [self.range.rating(score) for score in self.scorer.score(items)]
