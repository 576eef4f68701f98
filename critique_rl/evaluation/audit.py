"""Critiques judged by another model: is what they say true, and is it good advice?

A refinement can be right in spite of its critique. The paper (appendix H) had GPT-4o judge 600 critiques that
turned a wrong response into a right refinement, with the gold solution at hand: 96.2 % judged correctly, 93.3 %
of high quality. Its prompt and its scale were not released; those here are ours.

The judge is any `Actor`, in practice `OpenAIActor(base_url, model)`. The command is in `standalone.py`.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from critique_rl.actors.base import Actor
from critique_rl.evaluation.episodes import Episode
from critique_rl.evaluation.intervals import wilson
from critique_rl.evaluation.localisation import problem_of
from critique_rl.records import read_records
from critique_rl.types import Conversation, Problem, Sampling, UserError, child_seed

_JUDGMENT = re.compile(r"^Judgment:[ \t]*(Accurate|Inaccurate)[ \t\r]*$", re.MULTILINE)
_QUALITY = re.compile(r"^Quality:[ \t]*(High|Low)[ \t\r]*$", re.MULTILINE)

_INSTRUCTION = """\
You check the work of a critic. A solver answered the question below, and the answer is wrong. The critic, who \
did not know the reference, then commented on it.

Decide two things.
1. Judgment. Accurate: the critic says that the answer is wrong, each step that it calls wrong is wrong, and each \
step that it calls correct is correct. Inaccurate: anything else.
2. Quality. High: the explanations are true and specific, and a solver who follows them mends the error. Low: \
they are false, vague, or no help in mending it.

Reply with these two lines and nothing else:
Judgment: Accurate or Inaccurate
Quality: High or Low"""


@dataclass(frozen=True)
class Opinion:
    """What the judge says of one critique.

    Attributes:
        key: Hash of the episode's place, the judge and all that it was asked.
        id: Identity of the problem.
        sample: Sample of the episode.
        round: Round of the episode.
        judge: Name of the judge.
        accurate: Whether the critique's judgments are right; None if the reply could not be read.
        high_quality: Whether its explanations are true and of use; None together with `accurate`.
        reply: What the judge wrote.
        tokens: Prompt and completion tokens.
    """

    key: str
    id: str
    sample: int
    round: int
    judge: str
    accurate: bool | None
    high_quality: bool | None
    reply: str
    tokens: int


def corrections(episodes: Iterable[Episode]) -> list[Episode]:
    """Episodes in which a critique turned a wrong response into a right refinement."""
    return [
        e for e in episodes if e.response_correct is False and e.refinement_correct is True and e.critique
    ]


def audit(
    episodes: Iterable[Episode],
    problems: Mapping[str, Problem],
    judge: Actor,
    *,
    limit: int,
    seed: int,
    records: Path,
    max_tokens: int = 512,
    chunk_size: int = 32,
    on_progress: Callable[[int, int], None] | None = None,
) -> list[Opinion]:
    """Ask a judge about critiques that turned a wrong response into a right refinement.

    Each round counts by itself: in later rounds `response` is what the critique of that round is about.

    Args:
        episodes: Records of an evaluation.
        problems: Their problems by identity, with the gold solutions.
        judge: Asked greedily.
        limit: Most critiques. The draw is a hash, so that a smaller limit gives a part of a larger one.
        seed: Seed of the draw.
        records: JSON-lines file to which opinions are appended and from which they are read back: what is in
            it is not asked again.
        max_tokens: Most tokens of a reply; a judge that thinks aloud needs more.
        chunk_size: Critiques that are asked and written together. A killed audit loses at most so many.
        on_progress: Called with the number of critiques judged and of all drawn.

    Returns:
        One opinion per critique drawn, in the order of the draw; an empty list if no response was corrected.

    Raises:
        UserError: `limit` is below 1, a problem is missing, or `records` holds a line that is no opinion, or
            opinions of another judge, on other critiques or with other references.
        ActorError: The judge failed; what it said before is in `records`.
    """
    if limit < 1:
        raise UserError(f"limit must be at least 1, got {limit}.")
    asked: dict[str, tuple[Episode, Conversation]] = {}
    for e in corrections(episodes):
        prompt = judge_prompt(problem_of(problems, e.id), e.response, e.critique or "")
        content = repr((e.id, e.sample, e.round, judge.name, prompt))
        asked[hashlib.sha256(content.encode()).hexdigest()[:16]] = e, prompt
    done = {o.key: o for o in read_records(records, Opinion)} if records.exists() else {}
    if not done.keys() <= asked.keys():
        raise UserError(
            f"{records} holds opinions of another judge than {judge.name}, on other critiques or with other "
            "references: delete it, or audit into another place."
        )
    drawn = sorted(asked, key=lambda key: (_rank(asked[key][0], seed), key))[:limit]
    missing = [key for key in drawn if key not in done]
    records.parent.mkdir(parents=True, exist_ok=True)
    for start in range(0, len(missing), chunk_size):
        chunk = missing[start : start + chunk_size]
        replies = judge.generate([asked[key][1] for key in chunk], Sampling(max_tokens))
        for key, reply in zip(chunk, replies, strict=True):
            e, read = asked[key][0], parse_opinion(reply.text)
            accurate, high_quality = read or (None, None)
            tokens = reply.prompt_tokens + reply.completion_tokens
            done[key] = Opinion(
                key, e.id, e.sample, e.round, judge.name, accurate, high_quality, reply.text, tokens
            )
        with records.open("a", encoding="utf-8") as file:
            file.writelines(json.dumps(asdict(done[key]), ensure_ascii=False) + "\n" for key in chunk)
        if on_progress is not None:
            on_progress(sum(key in done for key in drawn), len(drawn))
    return [done[key] for key in drawn]


def _rank(episode: Episode, seed: int) -> int:
    return child_seed(seed, "audit", episode.id, episode.sample, episode.round)


def judge_prompt(problem: Problem, response: str, critique: str) -> Conversation:
    """Chat in which the judge is asked; it is shown the gold answer, and the gold solution if there is one."""
    parts = {
        "question": problem.question,
        "reference solution": problem.solution,
        "reference answer": problem.answer,
        "answer of the solver": response,
        "comments of the critic": critique,
    }
    # Begin and end are marked, since a critique may hold headings, and lines like those of the reply.
    shown = [f"[begin {name}]\n{text.strip()}\n[end {name}]" for name, text in parts.items() if text.strip()]
    return [{"role": "user", "content": "\n\n".join([_INSTRUCTION, *shown])}]


def parse_opinion(reply: str) -> tuple[bool, bool] | None:
    """Read (accurate, high quality) from a reply with exactly one line of each kind, else None.

    Other lines may stand around them. A line that is missing, repeated or followed by more text is not guessed.

    >>> parse_opinion("Judgment: Accurate\\nQuality: Low")
    (True, False)
    """
    judgments, qualities = _JUDGMENT.findall(reply), _QUALITY.findall(reply)
    if len(judgments) != 1 or len(qualities) != 1:
        return None
    return judgments[0] == "Accurate", qualities[0] == "High"


def summary(opinions: Sequence[Opinion]) -> dict[str, Any]:
    """Shares of the opinions that could be read, with Wilson's 95 % intervals.

    Returns:
        `audited` and `parsed`, counts; `unparsed_rate`, of all; `accurate` and `high_quality`, each with
        `mean`, `low` and `high`, None where nothing could be read; `tokens` spent on all of them.
    """
    read = [o for o in opinions if o.accurate is not None and o.high_quality is not None]
    return {
        "audited": len(opinions),
        "parsed": len(read),
        "unparsed_rate": 1 - len(read) / len(opinions) if opinions else None,
        "accurate": _share(sum(o.accurate is True for o in read), len(read)),
        "high_quality": _share(sum(o.high_quality is True for o in read), len(read)),
        "tokens": sum(o.tokens for o in opinions),
    }


def markdown_table(found: Mapping[str, Any]) -> str:
    """One row of what `summary` gives: counts, and shares in percent with their intervals."""
    cells = {
        "Audited": str(found["audited"]),
        "Unparsed": str(found["audited"] - found["parsed"]),
        "Accurate": _cell(found["accurate"]),
        "High quality": _cell(found["high_quality"]),
        "Tokens": str(found["tokens"]),
    }
    return "\n".join(f"| {' | '.join(line)} |" for line in (cells, ["---"] * len(cells), cells.values()))


def _cell(share: Mapping[str, float | None]) -> str:
    if share["mean"] is None:
        return "–"
    return "{mean:.1%} ({low:.1%} to {high:.1%})".format_map(share)


def _share(successes: int, n: int) -> dict[str, float | None]:
    low, high = wilson(successes, n) or (None, None)
    return {"mean": successes / n if n else None, "low": low, "high": high}
