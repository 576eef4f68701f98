"""Episode: one record of an evaluation, and how files of records are read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from critique_rl.records import read_records
from critique_rl.types import UserError


@dataclass(frozen=True)
class Episode:
    """One problem through the protocol, or one round of it.

    Attributes:
        id: Identity of the problem.
        dataset: Data set of the problem.
        question: Text of the question.
        answer: The gold answer.
        kind: How replies are graded, as in `Problem`.
        response: y, with its prefill; in later rounds the refinement of the round before. `""` without a grade if
            no reply came that can be read, likewise for the other texts.
        response_correct: o = r_oracle(x, y); None if the response could not be graded.
        critique: c, as shown to the actor; None without a critique.
        verdict: f(x, y, c); None without a critique.
        refinement: y', with its prefill; None without a critic.
        refinement_correct: o' = r_oracle(x, y'); None without a critic, or if it could not be graded.
        tokens: Prompt and completion tokens of the generations of this round; None if unknown.
        sample: Number of the chain among the independent chains of the problem, from 0.
        round: Number of the critique and refinement in the chain, from 0.
        response_score: Score of the response on the scorer's scale; None where replies are graded.
        response_rating: The same score on 1 to 10.
        critic_rating: f(x, y, c) on 1 to 10, in place of the verdict; None if unparsed.
        refinement_score: Score of the refinement on the scorer's scale.
        image: Image of the question, as in `Problem`.
        response_cut: Whether the response ended at its token limit; None in records without it.
        critique_cut: The same of the critique; None also where the critic wrote none.
        refinement_cut: The same of the refinement; None also where a response was kept.
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
    tokens: int | None
    sample: int = 0
    round: int = 0
    response_score: float | None = None
    response_rating: float | None = None
    critic_rating: float | None = None
    refinement_score: float | None = None
    image: str | None = None
    response_cut: bool | None = None
    critique_cut: bool | None = None
    refinement_cut: bool | None = None


def added_tokens(*counts: int | None) -> int | None:
    """Sum of token counts; None if one of them is unknown."""
    known = [count for count in counts if count is not None]
    return sum(known) if len(known) == len(counts) else None


def unknown_replies(episodes: Sequence[Episode]) -> str:
    """One line about the episodes without a grade or score; empty if there is none."""
    unknown = [
        e
        for e in episodes
        if (e.response_correct is None and e.response_score is None)
        or (e.critique is not None and e.refinement_correct is None and e.refinement_score is None)
    ]
    missing = sum("" in (e.response, e.refinement) for e in unknown)
    if not unknown:
        return ""
    return (
        f"unknown: {len(unknown)} of {len(episodes)} ({missing} without a reply, the others could not be graded); "
        "they count neither as right nor as wrong"
    )


def read_episodes(records: Path) -> list[Episode]:
    """Read the records that `evaluate` wrote, without a last line that a kill cut short.

    Raises:
        UserError: Another line is no episode.
    """
    return read_records(records, Episode)


def read_finished(records: Path) -> list[Episode]:
    """Read the records of a finished evaluation.

    A last line that is cut short is refused, since another process may still write it; `read_episodes` removes it.

    Raises:
        UserError: The file is missing, is empty, or ends in the middle of a line.
    """
    if not records.is_file():
        raise UserError(f"{records}: no such file; give the records.jsonl of an evaluation.")
    content = records.read_bytes()
    if not content.strip():
        raise UserError(f"{records} is empty; give the records.jsonl of an evaluation.")
    if not content.endswith(b"\n"):
        raise UserError(f"{records}: the last line is cut short; let the evaluation go on to its end first.")
    return read_episodes(records)
