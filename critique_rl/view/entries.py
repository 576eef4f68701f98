"""What the page shows of an episode, whether an evaluation or a trainer has recorded it."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from critique_rl.benchmarks import PairJudgement
from critique_rl.critic_data import PreferencePair, swap
from critique_rl.evaluation.episodes import Episode
from critique_rl.evaluation.localisation import _STEP, step_judgments
from critique_rl.pairwise_rewards import TIE
from critique_rl.prompts import _FENCE, LINE_LEAD, RATING_LABEL, VERDICT_LABEL, Verdict, label_pattern
from critique_rl.rewards import r_dis

WRONG_VERDICT, UNPARSED, CORRECT_TO_WRONG, WRONG_TO_CORRECT = 1, 2, 4, 8
"""Flags that the page filters by."""

Truth = bool | float | None
"""r_oracle of a reply: right or wrong, or a rating; None is unknown."""
FirstError = Callable[[str, str | None, str], int | None]
"""Index of the first wrong step, of a question, its image and a response; -1 if there is none, None if unknown."""


@dataclass(frozen=True)
class Entry:
    """One episode as it is shown.

    Attributes:
        item: Tells it from others of its source, and names the same item in another one.
        question: What was asked.
        response: y.
        answer: The gold answer.
        other_response: Of a pair, the second.
        image: Path of a file or a `data:` URL.
        truth: r_oracle(x, y).
        critique: c.
        verdict: What the critique says: a verdict, a rating, or which response it prefers.
        verdict_right: Whether that is true; None where it is not known, or a rating.
        expected: What it should have said.
        refinement: y'.
        refinement_truth: r_oracle(x, y').
        first_error: Index of the first wrong step of the response; -1 if there is none, None if unknown.
        numbers: Rewards, advantage, KL and the like by name.
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
        """What the page filters by. As in the metrics, no verdict is a wrong one; as a flag it is its own."""
        before, after = self.truth, self.refinement_truth
        return (
            WRONG_VERDICT * (self.verdict_right is False and self.verdict != Verdict.UNPARSED)
            + UNPARSED * (self.verdict == Verdict.UNPARSED)
            + CORRECT_TO_WRONG * (before is True and after is False)
            + WRONG_TO_CORRECT * (before is False and after is True)
        )


def of_episode(e: Episode, first_error: FirstError | None) -> Entry:
    """What an evaluation has recorded."""
    chain = [f"s{e.sample}"] * (e.sample > 0) + [f"r{e.round}"] * (e.round > 0)
    scores = {"score": e.response_score, "score of the refinement": e.refinement_score, "tokens": e.tokens}
    scored = e.kind == "score"
    return Entry(
        item=".".join([e.id, *chain]),
        question=e.question,
        response=e.response,
        answer=e.answer,
        image=e.image,
        truth=e.response_rating if scored else e.response_correct,
        critique=e.critique,
        **(_rating(e.critic_rating, e.response_rating) if scored else _verdict(e.verdict, e.response_correct))
        if e.critique is not None
        else {},
        refinement=e.refinement,
        refinement_truth=None if scored else e.refinement_correct,
        first_error=None if first_error is None else first_error(e.question, e.image, e.response),
        numbers=_numbers(scores),
    )


def of_judgement(j: PairJudgement, pair: PreferencePair) -> Entry:
    """What an evaluation has recorded of a critic of pairs; the pair as it was before it was shown."""
    shown = pair if j.order == "forward" else swap(pair)
    return Entry(
        item=f"{j.pair}.{j.order}",
        question=shown.question,
        response=shown.response_1,
        other_response=shown.response_2,
        image=shown.image if isinstance(shown.image, str) else None,
        critique=j.reply,
        **_preference(j.strict, j.label),
        numbers=_numbers({"tokens": j.tokens}),
    )


NO_NUMBERS = {
    "step",
    "label",
    "preference",
    "rating",
    "response_correct",
    "response_rating",
    "refinement_correct",
    "refinement_rating",
}
"""Columns of a trainer's record that are shown in other ways; every other number is shown by its name."""
RENAMED = {
    "critique_reward": "reward",
    "pairwise_reward": "reward",
    "mixed_reward": "reward",
    "r_oracle": "reward",
}


def of_training(row: Mapping[str, Any], place: int, first_error: FirstError | None) -> Entry:
    """What a trainer has recorded of one completion; see `trainer.CriticConfig.log_completions`."""
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
        said = _rating(row["rating"], truth)
    else:
        truth, after = _graded(row["response_correct"]), _graded(row.get("refinement_correct"))
        said = _verdict(row["verdict"], truth)
    response = row["response"]
    return Entry(
        **common,
        response=response,
        truth=None if _missing(truth) else truth,
        critique=completion,
        **said,
        refinement=row.get("refinement") or None,  # gated ones are not asked for
        refinement_truth=None if _missing(after) else after,
        first_error=None if first_error is None else first_error(row["question"], row.get("image"), response),
        numbers=_numbers(numbers),
    )


def _verdict(verdict: str | None, truth: bool | None) -> dict[str, Any]:
    right = None if verdict is None else r_dis(Verdict(verdict), truth)
    expected = None if truth is None else (Verdict.CORRECT if truth else Verdict.WRONG).value
    return {
        "verdict": verdict,
        "verdict_right": None if right is None else right == 1.0,
        "expected": expected,
    }


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
    return value is None or (isinstance(value, float) and math.isnan(value))


def _graded(value: Any) -> bool | None:
    return None if _missing(value) else bool(value)


def _numbers(values: Mapping[str, float | None]) -> dict[str, float]:
    """Known values, with five digits: the page is read by people."""
    return {name: float(f"{v:.5g}") for name, v in values.items() if v is not None and math.isfinite(v)}


_CLOSING = re.compile(
    rf"^{LINE_LEAD}(?:{label_pattern(VERDICT_LABEL)}|{label_pattern(RATING_LABEL)})", re.MULTILINE
)


def marks(critique: str) -> list[tuple[int, str]]:
    """Where the parts of a critique start, in UTF-16 units, and what each is.

    A part is the block of a step, `correct`, `wrong` or `unjudged` as `localisation.step_judgments` reads it, or
    the `verdict` at the end. Text before the first part belongs to none.

    >>> marks("Step sentence: 1+1=3\\nCorrectness of the step: Wrong\\nCorrectness of the final answer: Wrong")
    [(0, 'wrong'), (52, 'verdict')]
    """
    # Fenced text is blanked, not dropped as there, so that places stay what they are.
    text = _FENCE.sub(lambda fence: re.sub(r"[^\n]", " ", fence[0]), critique)
    names = {True: "correct", False: "wrong", None: "unjudged"}
    steps, judged = [m.start() for m in _STEP.finditer(text)], step_judgments(critique)
    parts = list(zip(steps, (names[j] for j in judged), strict=False)) if len(steps) == len(judged) else []
    after = parts[-1][0] if parts else 0
    closing = list(_CLOSING.finditer(text, after))
    if closing:
        parts.append((closing[-1].start(), "verdict"))
    return [(len(critique[:start].encode("utf-16-le", "surrogatepass")) // 2, name) for start, name in parts]


def read_settings(marker: Any) -> dict[str, Any]:
    """Settings in the `step.json` of a step of a run; empty where there is none or it is cut short."""
    try:
        found = json.loads(marker.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return dict(found.get("settings", {}))
