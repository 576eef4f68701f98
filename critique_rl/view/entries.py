"""Episodes as the page shows them, in one form whether an evaluation or a trainer recorded them."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from critique_rl.benchmarks.judging import PairJudgement
from critique_rl.critic_data import PreferencePair, swap
from critique_rl.evaluation.episodes import Episode
from critique_rl.evaluation.localisation import _STEP, step_judgments
from critique_rl.pairwise_rewards import TIE
from critique_rl.prompts import _FENCE, LINE_LEAD, RATING_LABEL, VERDICT_LABEL, Verdict, label_pattern
from critique_rl.rewards import r_dis

WRONG_VERDICT, UNPARSED, CORRECT_TO_WRONG, WRONG_TO_CORRECT = 1, 2, 4, 8
"""Flags that the page filters by; as in page.list.js."""

Truth = bool | float | None
"""r_oracle of a reply: right or wrong, or a rating; None if unknown."""
FirstError = Callable[[str, str | None, str], int | None]
"""(question, image, response) -> index of the first wrong step; -1 if every step is right, None if unknown."""


@dataclass(frozen=True)
class Entry:
    """One episode as the page shows it.

    Attributes:
        item: Name of the item, unique in its source and the same in every source.
        question: Question x.
        response: Response y.
        answer: Gold answer.
        other_response: Second response of a pair.
        image: Path of a file or a `data:` URL.
        truth: r_oracle(x, y).
        critique: Critique c.
        verdict: Judgement of the critique: a verdict, a rating, or the preferred response.
        verdict_right: Whether the judgement is true; None if unknown, and for a rating.
        expected: The true judgement.
        refinement: Refinement y'.
        refinement_truth: r_oracle(x, y').
        first_error: Index of the first wrong step of the response; -1 if every step is right, None if unknown.
        numbers: Rewards, advantage, KL and other numbers by name.
    """

    item: str
    question: str
    response: str | None
    answer: str | None = None
    other_response: str | None = None
    image: str | None = None
    truth: Truth = None
    critique: str | None = None
    verdict: str | None = None
    verdict_right: bool | None = None
    expected: str | None = None
    refinement: str | None = None
    refinement_truth: Truth = None
    first_error: int | None = None
    numbers: Mapping[str, float] = field(default_factory=dict)

    @property
    def flags(self) -> int:
        """Flags for the page's filters. A missing verdict counts as wrong in the metrics but has its own flag."""
        before, after = self.truth, self.refinement_truth
        return (
            WRONG_VERDICT * (self.verdict_right is False and self.verdict != Verdict.UNPARSED)
            + UNPARSED * (self.verdict == Verdict.UNPARSED)
            + CORRECT_TO_WRONG * (before is True and after is False)
            + WRONG_TO_CORRECT * (before is False and after is True)
        )


def of_episode(e: Episode, first_error: FirstError | None) -> Entry:
    """Entry of a record of an evaluation."""
    chain = [f"s{e.sample}"] * (e.sample > 0) + [f"r{e.round}"] * (e.round > 0)
    scores = {"score": e.response_score, "score of the refinement": e.refinement_score, "tokens": e.tokens}
    texts = {"response": e.response_cut, "critique": e.critique_cut, "refinement": e.refinement_cut}
    scores |= {f"{text} cut at its limit": 1 for text, cut in texts.items() if cut}
    scored = e.kind == "score"
    judgement: dict[str, Any] = {}
    if e.critique is not None and scored:
        judgement = _rating(e.critic_rating, e.response_rating)
    elif e.critique is not None:
        judgement = _verdict(e.verdict, e.response_correct)
    return Entry(
        item=".".join([e.id, *chain]),
        question=e.question,
        response=e.response,
        answer=e.answer,
        image=e.image,
        truth=e.response_rating if scored else e.response_correct,
        critique=e.critique,
        **judgement,
        refinement=e.refinement,
        refinement_truth=None if scored else e.refinement_correct,
        first_error=None if first_error is None else first_error(e.question, e.image, e.response),
        numbers=_numbers(scores),
    )


def of_judgement(j: PairJudgement, pair: PreferencePair) -> Entry:
    """Entry of a judgement by a critic of pairs; the pair is in its forward order."""
    asked = pair if j.order == "forward" else swap(pair)
    return Entry(
        item=f"{j.pair}.{j.order}",
        question=asked.question,
        response=asked.response_1,
        other_response=asked.response_2,
        image=asked.image if isinstance(asked.image, str) else None,
        critique=j.reply,
        **_preference(j.strict, j.label),
        numbers=_numbers({"tokens": j.tokens}),
    )


NO_NUMBERS = {
    *("step", "label", "preference", "rating"),
    *("response_correct", "response_rating", "refinement_correct", "refinement_rating"),
}
"""Columns of a trainer's record that are no entry of `numbers`; every other number is."""
RENAMED = dict.fromkeys(("critique_reward", "pairwise_reward", "mixed_reward", "r_oracle"), "reward")
"""Columns with another name on the page."""


def of_training(row: Mapping[str, Any], place: int, first_error: FirstError | None) -> Entry:
    """Entry of one completion in a trainer's record; see `log_completions` of `CriticConfig`.

    `place` is its position in its RL step; `first_error` is None where the task knows no steps.
    """
    completion = _text(row["completion"])
    numbers = {
        RENAMED.get(name, name): value
        for name, value in row.items()
        if name not in NO_NUMBERS and isinstance(value, int | float) and not isinstance(value, bool)
    }
    common: dict[str, Any] = {
        "item": f"{row.get('rl_step', row.get('step'))}.{place}",
        "question": row.get("question") or _text(row["prompt"]),
        "answer": row.get("answer"),
        "image": row.get("image"),
    }
    if "preference" in row and not _missing(row["label"]):  # a critic of pairs
        return Entry(
            **common,
            response=row["response_1"],
            other_response=row["response_2"],
            critique=completion,
            **_preference(row["preference"], row["label"]),
            numbers=_numbers(numbers),
        )
    if "verdict" not in row and "rating" not in row:  # an actor is trained
        truth = _graded(row.get("r_oracle", row.get("response_correct")))
        return Entry(**common, response=completion, truth=truth, numbers=_numbers(numbers))
    if "rating" in row:
        truth, after = row.get("response_rating"), row.get("refinement_rating")
        judgement = _rating(row["rating"], truth)
    else:
        truth, after = _graded(row["response_correct"]), _graded(row.get("refinement_correct"))
        judgement = _verdict(row["verdict"], truth)
    response = row["response"]
    return Entry(
        **common,
        response=response,
        truth=None if _missing(truth) else truth,
        critique=completion,
        **judgement,
        refinement=row.get("refinement") or None,  # gated ones are not asked for
        refinement_truth=None if _missing(after) else after,
        first_error=None if first_error is None else first_error(row["question"], row.get("image"), response),
        numbers=_numbers(numbers),
    )


def _verdict(verdict: str | None, truth: bool | None) -> dict[str, Any]:
    expected = None if truth is None else (Verdict.CORRECT if truth else Verdict.WRONG).value
    right = None if verdict is None else r_dis(Verdict(verdict), truth)
    return {"verdict": verdict, "verdict_right": None if right is None else bool(right), "expected": expected}


def _rating(rating: float | None, truth: float | None) -> dict[str, Any]:
    return {
        "verdict": Verdict.UNPARSED.value if _missing(rating) else f"rating {rating:g}",
        "expected": None if _missing(truth) else f"rating {truth:.3g}",
    }


def _preference(said: float | None, label: float) -> dict[str, Any]:
    expected = "neither" if label == TIE else f"response {int(label)}"
    verdict = Verdict.UNPARSED.value
    if said is not None and not _missing(said):
        verdict = "neither" if said == TIE else f"response {int(said)}"
    return {"verdict": verdict, "verdict_right": verdict == expected, "expected": expected}


def _text(turns: Any) -> str:
    """Text of the last turn of a chat, or the text itself."""
    return str(turns if isinstance(turns, str) else turns[-1]["content"])


def _missing(value: Any) -> bool:
    return value is None or value != value  # NaN is not itself


def _graded(value: Any) -> bool | None:
    return None if _missing(value) else bool(value)


def _numbers(values: Mapping[str, float | None]) -> dict[str, float]:
    """Known values, rounded to five digits."""
    return {name: float(f"{v:.5g}") for name, v in values.items() if v is not None and math.isfinite(v)}


_CLOSING = re.compile(
    rf"^{LINE_LEAD}(?:{label_pattern(VERDICT_LABEL)}|{label_pattern(RATING_LABEL)})", re.MULTILINE
)


def marks(critique: str) -> list[tuple[int, str]]:
    """Start, in UTF-16 units, and kind of each part of a critique.

    A part is the block of a step (`correct`, `wrong` or `unjudged`, as `localisation.step_judgments` reads it) or
    the closing `verdict`. Text before the first part belongs to none.

    >>> marks("Step sentence: 1+1=3\\nCorrectness of the step: Wrong\\nCorrectness of the final answer: Wrong")
    [(0, 'wrong'), (52, 'verdict')]
    """
    # `step_judgments` drops fenced text; blanking it here keeps the positions.
    text = _FENCE.sub(lambda fence: re.sub(r"[^\n]", " ", fence[0]), critique)
    names = {True: "correct", False: "wrong", None: "unjudged"}
    steps, judged = [m.start() for m in _STEP.finditer(text)], step_judgments(critique)
    parts = list(zip(steps, (names[j] for j in judged), strict=False)) if len(steps) == len(judged) else []
    after = parts[-1][0] if parts else 0
    closing = list(_CLOSING.finditer(text, after))
    if closing:
        parts.append((closing[-1].start(), "verdict"))
    return [(len(critique[:start].encode("utf-16-le", "surrogatepass")) // 2, name) for start, name in parts]


def read_settings(marker: Path) -> dict[str, Any]:
    """Settings in the `step.json` of a step; empty if the file is missing or cut short."""
    try:
        content = json.loads(marker.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return dict(content.get("settings", {}))
