"""TODO docstring."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from critique_rl.records import read_records
from critique_rl.types import UserError


@dataclass(frozen=True)
class Episode:
    """One problem through the protocol, or one round of it.

    Attributes:
        id: Identity of the problem.
        dataset: Its data set.
        question: What was asked.
        answer: The gold answer.
        kind: How it is graded.
        response: y, with its prefill; in later rounds the refinement of the round before.
        response_correct: o = r_oracle(x, y); None if it could not be graded.
        critique: c, as the actor is shown it; None without one.
        verdict: f(x, y, c); None without a critique.
        refinement: y', with its prefill; None without a critic.
        refinement_correct: o' = r_oracle(x, y'); None if it could not be graded, or without a critic.
        tokens: Prompt and completion tokens of the generations of this round.
        sample: Which of several independent chains of the problem.
        round: Which critique and refinement of the chain.
        response_score: Of a reply that is scored instead of graded, on the scorer's scale; else None.
        response_rating: The same on 1 to 10.
        critic_rating: f(x, y, c) on 1 to 10 in place of the verdict; None if unparsed.
        refinement_score: Of the refinement, on the scorer's scale.
        image: What the question is about, as in `Problem`.
    """

    id: str
    dataset: str
    question: str
    answer: str
    kind: str
    response: str
    response_correct: bool | None
    critique: str | None
    verdict: str | None
    refinement: str | None
    refinement_correct: bool | None
    tokens: int
    sample: int = 0
    round: int = 0
    response_score: float | None = None
    response_rating: float | None = None
    critic_rating: float | None = None
    refinement_score: float | None = None
    image: str | None = None


def read_episodes(records: Path) -> list[Episode]:
    """Read what `evaluate` wrote; a last line that a kill cut short is dropped.

    Raises:
        UserError: Another line is no episode.
    """
    return read_records(records, Episode)


def read_finished(records: Path) -> list[Episode]:
    """Records that nobody writes any more: reading drops a last line that is cut short from the file itself.

    Raises:
        UserError: There is no such file, it is empty, or somebody still writes it.
    """
    if not records.is_file():
        raise UserError(f"{records}: no such file; give the records.jsonl of an evaluation.")
    content = records.read_bytes()
    if not content.strip():
        raise UserError(f"{records} is empty; give the records.jsonl of an evaluation.")
    if not content.endswith(b"\n"):
        raise UserError(f"{records}: the last line is cut short; let the evaluation go on to its end first.")
    return read_episodes(records)
