"""What an actor does with a critique: whether it follows the verdict, and takes a value that is stated."""

from __future__ import annotations

import re
from collections.abc import Iterable

from critique_rl.evaluation.episodes import Episode
from critique_rl.evaluation.scaling import mean_of_known
from critique_rl.grading import extract_answer, grade
from critique_rl.prompts import Verdict

_NUMBER = re.compile(r"(?<![\w.])-?\d[\d,]*(?:\.\d+)?(?!\w)")


def uptake(episodes: Iterable[Episode]) -> dict[str, float | None]:
    """Shares of critiques that the actor follows.

    An answer is kept if the refinement, graded against the answer of the response, is right. Episodes where that
    is unknown, because one of the texts has no answer, are left out.

    Args:
        episodes: Records with critiques; others are left out.

    Returns:
        Shares, None where there is nothing to divide by. `changed_after_wrong`: the verdict is Wrong, and the
        actor changes its answer. `kept_after_correct`: the verdict is Correct, and it keeps it.
        `followed_right_verdict` and `followed_wrong_verdict`: it does what a verdict says that is right, or wrong,
        about the response. `took_stated_value`: the critique states numbers that neither question nor response
        has, and the refinement answers one of them. Counts: `n_verdicts` and `n_stated`, the critiques that count.
    """
    after: dict[Verdict, list[bool]] = {Verdict.WRONG: [], Verdict.CORRECT: []}
    followed: dict[bool, list[bool]] = {True: [], False: []}
    took: list[bool] = []
    for episode in episodes:
        if episode.critique is None or not episode.refinement:
            continue
        if (stated := _took_stated_value(episode)) is not None:
            took.append(stated)
        kept = _kept(episode)
        if kept is None or episode.verdict not in (Verdict.WRONG, Verdict.CORRECT):
            continue
        says_correct = episode.verdict == Verdict.CORRECT
        after[Verdict(episode.verdict)].append(kept == says_correct)
        if episode.response_correct is not None:
            followed[episode.response_correct == says_correct].append(kept == says_correct)
    return {
        "changed_after_wrong": mean_of_known(after[Verdict.WRONG]),
        "kept_after_correct": mean_of_known(after[Verdict.CORRECT]),
        "followed_right_verdict": mean_of_known(followed[True]),
        "followed_wrong_verdict": mean_of_known(followed[False]),
        "took_stated_value": mean_of_known(took),
        "n_verdicts": sum(map(len, after.values())),
        "n_stated": len(took),
    }


def _kept(episode: Episode) -> bool | None:
    """Whether the refinement has the answer of the response; None if that is unknown."""
    before = extract_answer(episode.response, episode.kind)
    assert episode.refinement is not None
    if before is None or extract_answer(episode.refinement, episode.kind) is None:
        return None
    return grade(gold=before, reply=episode.refinement, kind=episode.kind)


def _took_stated_value(episode: Episode) -> bool | None:
    """Whether the refinement answers a number that only the critique has; None if the critique has none."""
    assert episode.critique is not None and episode.refinement is not None
    new = _numbers(episode.critique) - _numbers(episode.question) - _numbers(episode.response)
    answer = extract_answer(episode.refinement, episode.kind)
    return bool(_numbers(answer or "") & new) if new else None


def _numbers(text: str) -> set[float]:
    return {float(number.replace(",", "")) for number in _NUMBER.findall(text)}
