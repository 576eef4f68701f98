"""Critiques judged by another model: are they true, and are they good advice?

A refinement can be right in spite of its critique. In the paper (appendix H) GPT-4o judged 600 critiques that
turned a wrong response into a right refinement, with the gold solution at hand: 96.2 % judged correctly, 93.3 %
were of high quality. Its prompt and scale were not released; those here are ours.

The judge is any `Actor`, in practice `OpenAIActor(base_url, model)`. The command is `critique-rl audit`.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from critique_rl.actors.base import Actor
from critique_rl.actors.identity import check_models
from critique_rl.evaluation.episodes import Episode
from critique_rl.evaluation.intervals import percent, share
from critique_rl.evaluation.localisation import problem_of
from critique_rl.markdown import table
from critique_rl.records import Journal
from critique_rl.types import Conversation, Generation, Problem, Sampling, UserError, child_seed

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
    """The judge's opinion of one critique.

    Attributes:
        key: Hash of problem, sample, round, the judge's name and its prompt.
        id: Identity of the problem.
        sample: Sample of the episode.
        round: Round of the episode.
        judge: Name of the judge.
        accurate: Whether the critique's judgments are right; None if the reply could not be read.
        high_quality: Whether its explanations are true and useful; None together with `accurate`.
        reply: Text of the judge; `""` if none came that can be read.
        tokens: Prompt and completion tokens; None if unknown.
    """

    key: str
    id: str
    sample: int
    round: int
    judge: str
    accurate: bool | None
    high_quality: bool | None
    reply: str
    tokens: int | None


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

    Each round counts by itself: in later rounds `response` is the text that the critique of that round is about.

    Args:
        problems: Problems of the episodes by identity, with gold solutions.
        judge: Model that judges, asked greedily.
        limit: Most critiques. The draw is a hash, so a smaller limit draws a subset of a larger one.
        seed: Seed of the draw.
        records: JSON-lines file; opinions are appended to it and read back from it, and not asked for again.
        max_tokens: Most tokens of a reply; a judge that thinks aloud needs more.
        chunk_size: Critiques that are judged and written together. A killed audit loses at most one chunk.
        on_progress: Called with the number of judged critiques and of all drawn ones.

    Returns:
        One opinion per critique drawn, in the order of the draw; an empty list if no response was corrected.

    Raises:
        UserError: `limit` is below 1, a problem is missing, or `records` has a line that is no opinion, or
            opinions of another judge, on other critiques or with other references.
        ActorError: The judge failed; its earlier opinions are in `records`.
    """
    if limit < 1:
        raise UserError(f"limit must be at least 1, got {limit}.")
    asked = _prompts(episodes, problems, judge.name)
    journal = Journal(
        records,
        Opinion,
        lambda opinion: opinion.key,
        known=asked.__contains__,
        others=f"opinions of another judge than {judge.name}, on other critiques or with other references",
    )
    check_models(records.with_suffix(".models.json"), {"judge": judge}, begun=bool(journal.done))

    def ask(number: int, keys: Sequence[str]) -> list[Opinion]:
        replies = judge.generate([asked[key][1] for key in keys], Sampling(max_tokens))
        return [
            _opinion(key, asked[key][0], judge.name, reply) for key, reply in zip(keys, replies, strict=True)
        ]

    places = {key: (e.id, e.sample, e.round) for key, (e, _) in asked.items()}
    drawn = sorted(asked, key=lambda key: (child_seed(seed, "audit", *places[key]), key))[:limit]
    journal.fill(journal.missing(drawn, chunk_size), ask, on_progress, len(drawn))
    return [journal.done[key] for key in drawn]


def _prompts(
    episodes: Iterable[Episode], problems: Mapping[str, Problem], judge: str
) -> dict[str, tuple[Episode, Conversation]]:
    """Each correction with the chat for the judge, by the key of its opinion."""
    asked = {}
    for e in corrections(episodes):
        prompt = judge_prompt(problem_of(problems, e.id), e.response, e.critique or "")
        content = repr((e.id, e.sample, e.round, judge, prompt))
        asked[hashlib.sha256(content.encode()).hexdigest()[:16]] = e, prompt
    return asked


def _opinion(key: str, e: Episode, judge: str, reply: Generation) -> Opinion:
    text = reply.text or ""
    accurate, high_quality = parse_opinion(text) or (None, None)
    return Opinion(key, e.id, e.sample, e.round, judge, accurate, high_quality, text, reply.tokens)


def judge_prompt(problem: Problem, response: str, critique: str) -> Conversation:
    """Chat that asks the judge, with the gold answer, and with the gold solution if there is one."""
    parts = {
        "question": problem.question,
        "reference solution": problem.solution,
        "reference answer": problem.answer,
        "answer of the solver": response,
        "comments of the critic": critique,
    }
    # Begin and end are marked, since a critique may hold headings, and lines like those of the reply.
    texts = [f"[begin {name}]\n{text.strip()}\n[end {name}]" for name, text in parts.items() if text.strip()]
    return [{"role": "user", "content": "\n\n".join([_INSTRUCTION, *texts])}]


def parse_opinion(reply: str) -> tuple[bool, bool] | None:
    """Read (accurate, high quality) from a reply with exactly one line of each kind, else None.

    Other lines do not matter. A line that is missing, repeated or followed by more text makes the reply unread.

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
        `audited` and `parsed`: counts of opinions; `unparsed_rate`: share of all; `accurate` and `high_quality`:
        each with `mean`, `low` and `high`, None if no opinion could be read; `tokens`: spent on all opinions.
    """
    read = [o for o in opinions if o.accurate is not None and o.high_quality is not None]
    return {
        "audited": len(opinions),
        "parsed": len(read),
        "unparsed_rate": 1 - len(read) / len(opinions) if opinions else None,
        "accurate": share(sum(o.accurate is True for o in read), len(read)),
        "high_quality": share(sum(o.high_quality is True for o in read), len(read)),
        "tokens": sum(o.tokens or 0 for o in opinions),
    }


def markdown_table(summary: Mapping[str, Any]) -> str:
    """A table with the result of `summary`: counts, and shares in percent with their intervals."""
    cells = {
        "Audited": summary["audited"],
        "Unparsed": summary["audited"] - summary["parsed"],
        "Accurate": percent(summary["accurate"]),
        "High quality": percent(summary["high_quality"]),
        "Tokens": summary["tokens"],
    }
    return table(list(cells), [list(cells.values())], raw=True)
