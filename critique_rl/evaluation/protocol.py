"""The protocol over a set of problems: respond -> critique -> refine, once or in rounds, one or several samples.

One record (`Episode`) per problem, sample and round goes to disk as it is finished, so a killed evaluation goes
on where it stopped. What is measured on the records is in `metrics.py`, `scaling.py` and `localisation.py`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from critique_rl.actors.base import Actor
from critique_rl.config.evaluation import Course
from critique_rl.evaluation.episodes import Episode, read_episodes
from critique_rl.grading import grade_batch
from critique_rl.grading.replies import grade_replies, items
from critique_rl.grading.scoring import Rater
from critique_rl.prompts import STEP_LABEL, VERDICT_LABEL, PromptSet, Verdict, parse_rating, parse_verdict
from critique_rl.types import Generation, Problem, Sampling, UserError, child_seed

ADVICE = (
    f"{STEP_LABEL} all of them\nExplanation: Work through the problem again from the start, one step at a time, "
    "and check each result before you use it."
)
"""What a critique by an oracle says beside its verdict: advice that fits every problem."""


@dataclass(frozen=True)
class Protocol(Course):
    """A course, and how the texts of its episodes are generated.

    Attributes:
        prompts: Prompt set.
        response: Sampling of the response; the seed is replaced by one derived from `seed`.
        critique: Sampling of the critique.
        refinement: Sampling of the refinement.
        seed: Seed of the evaluation; unused where everything is greedy.
    """

    prompts: PromptSet
    response: Sampling
    critique: Sampling
    refinement: Sampling
    seed: int = 0

    def sampling(self, turn: str, chunk: int, round: int = 0) -> Sampling:
        """Sampling of one turn for one chunk of chains."""
        base: Sampling = getattr(self, turn)
        return replace(base, seed=child_seed(self.seed, turn, chunk, round))


class Chain(NamedTuple):
    """One sample of one problem."""

    sample: int
    problem: Problem


def evaluate(
    problems: Sequence[Problem],
    actor: Actor,
    critic: Actor | None,
    protocol: Protocol,
    *,
    records: Path,
    rater: Rater | None = None,
    chunk_size: int = 256,
    on_progress: Callable[[int, int], None] | None = None,
) -> list[Episode]:
    """Run the protocol on each problem.

    Args:
        problems: What to ask, each once.
        actor: Answers and refines.
        critic: Criticises; None evaluates the actor alone, unless `protocol.critiques` needs no critic.
        protocol: How to generate.
        records: JSON-lines file to which finished episodes are appended and from which they are read back.
        rater: Scores the replies of problems of kind `score`; None grades them.
        chunk_size: Chains that go through the protocol together and are written together.
        on_progress: Called with the number of finished chains and of all chains.

    Returns:
        Episodes by sample, then in the order of `problems`, then by round.

    Raises:
        UserError: `records` holds a line that is no episode, or episodes of other problems; critiques are to be
            shuffled and there is one problem alone; or scored replies meet what is made for right and wrong ones.
    """
    if any((p.kind == "score") != (rater is not None) for p in problems):
        raise UserError("a `rater` is for problems of kind 'score', and these cannot be graded without one.")
    if rater is not None and (protocol.spare_correct or protocol.critiques in ("empty", "verdict", "oracle")):
        raise UserError(
            "scored replies are neither right nor wrong: no spare_correct, and critiques of a critic, or shuffled."
        )
    if protocol.critiques == "shuffled" and (len(problems) < 2 or chunk_size < 2):
        raise UserError("critiques can be shuffled among two problems or more.")
    done = {(e.id, e.sample, e.round): e for e in read_episodes(records)} if records.exists() else {}
    if not {identity for identity, _, _ in done} <= {p.id for p in problems}:
        raise UserError(
            f"{records} holds records of other problems: delete it, or evaluate into another folder."
        )
    records.parent.mkdir(parents=True, exist_ok=True)
    rounds = protocol.rounds if critic is not None or not protocol.asks_critic else 1
    chains = [Chain(sample, problem) for sample in range(protocol.samples) for problem in problems]
    # Chunks are cut before finished ones are skipped: a resumed run draws with the seeds of an unbroken one.
    starts = list(range(0, len(chains), chunk_size))
    if protocol.critiques == "shuffled" and len(chains) - starts[-1] == 1:
        starts.pop()  # alone, the last chain would be shown the critique of itself
    for number, (start, end) in enumerate(pairwise([*starts, len(chains)])):
        chunk = chains[start:end]
        if any((c.problem.id, c.sample, r) not in done for c in chunk for r in range(rounds)):
            made = _episodes(chunk, actor, critic, protocol, rater, number)
            fresh = [e for e in made if (e.id, e.sample, e.round) not in done]
            with records.open("a", encoding="utf-8") as file:
                file.writelines(json.dumps(asdict(e), ensure_ascii=False) + "\n" for e in fresh)
            done |= {(e.id, e.sample, e.round): e for e in fresh}
        if on_progress is not None:
            on_progress(end, len(chains))
    return [done[c.problem.id, c.sample, r] for c in chains for r in range(rounds)]


def _episodes(
    chunk: Sequence[Chain],
    actor: Actor,
    critic: Actor | None,
    protocol: Protocol,
    rater: Rater | None,
    number: int,
) -> list[Episode]:
    prompts, problems = protocol.prompts, [c.problem for c in chunk]
    answers = actor.generate(
        [prompts.reasoning_prompt(p.question, image=p.image) for p in problems],
        protocol.sampling("response", number),
    )
    responses = [prompts.reasoning_prefill + g.text for g in answers]
    tokens = [_tokens(g) for g in answers]
    start = [
        Episode(
            id=p.id,
            dataset=p.dataset,
            question=p.question,
            answer=p.answer,
            kind=p.kind,
            response=y,
            response_correct=None,
            critique=None,
            verdict=None,
            refinement=None,
            refinement_correct=None,
            tokens=t,
            sample=c.sample,
            image=p.image,
        )
        for c, p, y, t in zip(chunk, problems, responses, tokens, strict=True)
    ]
    if rater is None:
        correct = grade_replies(problems, responses)
        start = [replace(e, response_correct=o) for e, o in zip(start, correct, strict=True)]
    else:
        scores = rater.scorer.score(items(start, responses))
        start = [replace(e, response_score=s) for e, s in zip(start, scores, strict=True)]
        start = [replace(e, response_rating=rater.range.rating(e.response_score)) for e in start]
    if critic is None and protocol.asks_critic:
        return start
    rounds = [_round(start, [()] * len(start), actor, critic, protocol, rater, number)]
    past: list[History] = [()] * len(start)
    for _ in range(1, protocol.rounds):
        last = rounds[-1]
        if protocol.history == "full":
            past = [(*h, (e.response, e.critique or "")) for h, e in zip(past, last, strict=True)]
        start = [
            replace(
                e,
                response=e.refinement or "",
                response_correct=e.refinement_correct,
                response_score=e.refinement_score,
                response_rating=None if rater is None else rater.range.rating(e.refinement_score),
                tokens=0,
                round=e.round + 1,
            )
            for e in last
        ]
        rounds.append(_round(start, past, actor, critic, protocol, rater, number))
    return [e for chain in zip(*rounds, strict=True) for e in chain]


History = tuple[tuple[str, str], ...]
"""Earlier rounds of a chain: each response with its critique."""


def _round(
    start: Sequence[Episode],
    past: Sequence[History],
    actor: Actor,
    critic: Actor | None,
    protocol: Protocol,
    rater: Rater | None,
    number: int,
) -> list[Episode]:
    """Criticise and refine; `start` holds responses."""
    prompts, at = protocol.prompts, start[0].round
    spared = [protocol.spare_correct and e.response_correct is True for e in start]
    asked = [i for i, spare in enumerate(spared) if not spare]
    written: dict[int, Generation] = {}
    if protocol.asks_critic and critic is not None:
        generations = critic.generate(
            [
                prompts.critique_prompt(e.question, e.response, past[i], image=e.image)
                for i, e in ((i, start[i]) for i in asked)
            ],
            protocol.sampling("critique", number, at),
        )
        written = dict(zip(asked, generations, strict=True))
    shown = {i: _shown(protocol.critiques, start, written, asked, place) for place, i in enumerate(asked)}
    generations = actor.generate(
        [
            prompts.refinement_prompt(e.question, e.response, shown[i], past[i], image=e.image)
            for i, e in ((i, start[i]) for i in asked)
        ],
        protocol.sampling("refinement", number, at),
    )
    refined = {i: prompts.refinement_prefill + g.text for i, g in zip(asked, generations, strict=True)}
    spent = {
        i: _tokens(g) + (_tokens(written[i]) if i in written else 0)
        for i, g in zip(asked, generations, strict=True)
    }
    refinements = items([start[i] for i in asked], [refined[i] for i in asked])
    if rater is not None:
        scores = dict(zip(asked, rater.scorer.score(refinements), strict=True))
        return [
            replace(
                e,
                critique=shown[i],
                critic_rating=parse_rating(shown[i]),
                refinement=refined[i],
                refinement_score=scores[i],
                tokens=e.tokens + spent[i],
            )
            for i, e in enumerate(start)
        ]
    graded = dict(zip(asked, grade_batch(refinements), strict=True))
    return [
        replace(
            e,
            critique=shown.get(i),
            verdict=parse_verdict(shown[i]).value if i in shown and protocol.critiques != "empty" else None,
            refinement=refined.get(i, e.response),
            refinement_correct=graded.get(i, e.response_correct),
            tokens=e.tokens + spent.get(i, 0),
        )
        for i, e in enumerate(start)
    ]


def _shown(
    kind: str, start: Sequence[Episode], written: dict[int, Generation], asked: Sequence[int], place: int
) -> str:
    """What the actor reads as the critique of the chain at one place of `asked`."""
    i = asked[place]
    if kind == "critic":
        return written[i].text
    if kind == "shuffled":
        following = (*asked[place + 1 :], *asked[:place])
        return written[next(j for j in following if start[j].id != start[i].id)].text
    if kind == "verdict":
        verdict = parse_verdict(written[i].text)
        return "" if verdict is Verdict.UNPARSED else f"{VERDICT_LABEL} {verdict.value.capitalize()}"
    correct = start[i].response_correct
    if kind == "empty" or correct is None:
        return ""
    return f"{ADVICE}\n{VERDICT_LABEL} {'Correct' if correct else 'Wrong'}"


def _tokens(generation: Generation) -> int:
    return generation.prompt_tokens + generation.completion_tokens
