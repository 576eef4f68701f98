"""The protocol over a set of problems: response -> critique -> refinement, in one or several rounds and samples.

Each problem, sample and round gives one record (`Episode`), written to disk as soon as its chunk is finished, so
that a killed evaluation goes on where it stopped. Of an unfinished chunk, the turns that were written are kept.
Metrics of the records are in `metrics.py`, `scaling.py` and `localisation.py`.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

from critique_rl.actors.base import Actor
from critique_rl.actors.identity import check_models
from critique_rl.config.evaluation import Course
from critique_rl.evaluation.episodes import Episode, added_tokens
from critique_rl.evaluation.ranks import adopt_others, join, own_records
from critique_rl.grading import grade_batch
from critique_rl.grading.replies import grade_replies, items, where_replied
from critique_rl.grading.scoring import Rater
from critique_rl.prompts import STEP_LABEL, VERDICT_LABEL, PromptSet, Verdict, parse_rating, parse_verdict
from critique_rl.records import Journal
from critique_rl.types import Conversation, Generation, Problem, Sampling, UserError, child_seed

ADVICE = (
    f"{STEP_LABEL} all of them\nExplanation: Work through the problem again from the start, one step at a time, "
    "and check each result before you use it."
)
"""Text of an oracle's critique before its verdict: advice that fits every problem."""

History = tuple[tuple[str, str], ...]
"""Earlier rounds of a chain: each response with its critique."""

OnTurn = Callable[[str, int, float | None], None]
"""Told of a batch of texts: `response`, `critique` or `refinement`, their number, and None before they are
written, afterwards the new tokens a second."""

Chain = tuple[int, Problem]
"""One sample of one problem: its number and the problem."""


@dataclass(frozen=True)
class Protocol(Course):
    """A course, and how the texts of its episodes are generated.

    Attributes:
        prompts: Prompt set.
        response: Sampling of the response; its seed is replaced by one derived from `seed`.
        critique: Sampling of the critique, seeded in the same way.
        refinement: Sampling of the refinement, seeded in the same way.
        seed: Seed of the evaluation; greedy generation does not use it.
    """

    prompts: PromptSet
    response: Sampling
    critique: Sampling
    refinement: Sampling
    seed: int = 0

    def __post_init__(self) -> None:
        self.check()

    @property
    def chunk_size(self) -> int:
        """Chains of a chunk; samples depend on their chunk, and so do shuffled critiques."""
        greedy = all(s.temperature == 0 for s in (self.response, self.critique, self.refinement))
        return 64 if greedy and self.critiques != "shuffled" else 256

    def sampling(self, turn: str, chunk: int, round: int = 0) -> Sampling:
        """Sampling of one turn for one chunk of chains."""
        base: Sampling = getattr(self, turn)
        return replace(base, seed=child_seed(self.seed, turn, chunk, round))


def evaluate(
    problems: Sequence[Problem],
    actor: Actor,
    critic: Actor | None,
    protocol: Protocol,
    *,
    records: Path,
    rater: Rater | None = None,
    chunk_size: int | None = None,
    on_progress: Callable[[int, int], None] | None = None,
    on_turn: OnTurn | None = None,
    rank: int = 0,
    ranks: int = 1,
) -> list[Episode]:
    """Run the protocol on each problem.

    Several processes share the chunks. Each rank but the first writes `*.rank<i>.jsonl` beside `records`; rank 0
    waits for them and joins them, so that the records are those of one process. With the files of an interrupted
    evaluation it goes on, whatever the number of processes then.

    Args:
        problems: Problems without duplicates.
        actor: Answers and refines.
        critic: Criticises; None evaluates the actor alone, unless `protocol.critiques` needs no critic.
        records: JSON-lines file; finished episodes are appended to it and read back from it. Beside it
            `*.models.json` names the models, and other ones are refused; `*.partial.jsonl` holds the texts of the
            chunk that is not finished, and is deleted at the end.
        rater: Scores the replies of problems of kind `score`; None grades replies.
        chunk_size: Chains that go through the protocol together and are written together. By default 64 where
            all texts are greedy, so that their chunk does not change them, and 256 elsewhere.
        on_progress: Called with the number of finished chains and of all chains.
        on_turn: Called before and after each batch of texts.
        rank: Number of this process, from 0.
        ranks: Number of processes that evaluate together.

    Returns:
        Episodes by sample, then in the order of `problems`, then by round; after rank 0 those that a rank knows.

    Raises:
        UserError: `records` has a line that is no episode, or episodes of other problems or models; critiques are
            to be shuffled and there is only one problem; or scored replies meet an option for right and wrong
            replies.
    """
    chunk_size = protocol.chunk_size if chunk_size is None else chunk_size
    _check(problems, protocol, rater, chunk_size)
    own = own_records(records, rank)
    journal = _journal(own, problems)
    adopt_others(journal, records, rank)
    rounds = protocol.rounds if critic is not None or not protocol.asks_critic else 1
    chains = [(sample, problem) for sample in range(protocol.samples) for problem in problems]

    def keys(part: Sequence[Chain]) -> list[tuple[str, int, int]]:
        return [(problem.id, sample, r) for sample, problem in part for r in range(rounds)]

    ends = _chunks(len(chains), chunk_size, protocol)
    numbers = range(rank, len(ends), ranks)
    share = [(keys(chains[slice(*ends[n])]), ends[n][1]) for n in numbers]
    if rank > 0 and all(key in journal.done for part, _ in share for key in part):
        return list(journal.done.values())
    remembered = own.with_suffix(".models.json")
    models = check_models(remembered, {"actor": actor, "critic": critic}, begun=bool(journal.done))
    unfinished = _Unfinished(own.with_suffix(".partial.jsonl"), models)
    turns = _Turns(actor, critic, protocol, rater, on_turn or (lambda *_: None), unfinished)
    journal.fill(
        share,
        lambda n, missing: turns.episodes(chains[slice(*ends[numbers[n]])], numbers[n]),
        on_progress,
        len(chains),
    )
    unfinished.delete()
    if rank == 0:
        join(journal, records, keys(chains))  # intervals depend on the order
    return list(journal.done.values())


def _journal(records: Path, problems: Sequence[Problem]) -> Journal[tuple[str, int, int], Episode]:
    identities = {p.id for p in problems}
    return Journal(
        records,
        Episode,
        lambda e: (e.id, e.sample, e.round),
        known=lambda key: key[0] in identities,
        others="records of other problems",
    )


def _chunks(chains: int, size: int, protocol: Protocol) -> list[tuple[int, int]]:
    """Start and end of each chunk, before finished ones are skipped: a resumed run draws with the same seeds."""
    starts = list(range(0, chains, size))
    if protocol.critiques == "shuffled" and chains - starts[-1] == 1:
        starts.pop()  # a last chain on its own would be shown its own critique
    return list(pairwise([*starts, chains]))


def _check(problems: Sequence[Problem], protocol: Protocol, rater: Rater | None, chunk_size: int) -> None:
    if any((p.kind == "score") != (rater is not None) for p in problems):
        raise UserError("a `rater` is for problems of kind 'score', and these cannot be graded without one.")
    if rater is not None and (protocol.spare_correct or protocol.critiques in ("empty", "verdict", "oracle")):
        raise UserError(
            "scored replies are neither right nor wrong: no spare_correct, and critiques of a critic, or shuffled."
        )
    if protocol.critiques == "shuffled" and (len(problems) < 2 or chunk_size < 2):
        raise UserError("critiques can be shuffled among two problems or more.")


@dataclass(frozen=True)
class _Turn:
    """All texts of one turn of a chunk.

    Attributes:
        chunk: Number of the chunk.
        key: Hash of all that the texts depend on.
        written: Fields of their `Generation`.
    """

    chunk: int
    key: str
    written: list[dict[str, Any]]


class _Unfinished:
    """Turns of a chunk that is not finished, in a file: its texts share a draw, and a kill must not lose them all.

    Args:
        path: The file.
        models: What tells the models from others, by role.
    """

    _SYNC_EVERY = 5.0
    """Seconds: turns of a small model are shorter than their syncs, and a power loss costs the texts of these."""

    def __init__(self, path: Path, models: Mapping[str, Mapping[str, str]]) -> None:
        self._path, self._models = path, models
        try:
            self._journal = self._open()
        except UserError:  # damaged: the texts are written anew
            self.delete()

    def _open(self) -> Journal[str, _Turn]:
        every = self._SYNC_EVERY
        return Journal(self._path, _Turn, lambda t: t.key, known=lambda _: True, others="", sync_every=every)

    def delete(self) -> None:
        """Forget all turns."""
        self._path.unlink(missing_ok=True)
        self._journal = self._open()

    def turn(
        self,
        chunk: int,
        turn: str,
        asked: Sequence[Conversation],
        sampling: Sampling,
        write: Callable[[], Sequence[Generation]],
    ) -> list[Generation]:
        """The texts of a turn, written only if they are not there; those of another chunk are forgotten."""
        if any(t.chunk != chunk for t in self._journal.done.values()):
            self.delete()
        depends = json.dumps([turn, self._models, list(asked), asdict(sampling)], sort_keys=True)
        key = hashlib.sha256(depends.encode()).hexdigest()
        self._journal.fill(
            [([key], 1)], lambda *_: [_Turn(chunk, key, [asdict(g) for g in write()])], None, 1
        )
        return [Generation(**fields) for fields in self._journal.done[key].written]


@dataclass(frozen=True)
class _Turns:
    """The turns of a chunk of chains; attributes as the arguments of `evaluate`."""

    actor: Actor
    critic: Actor | None
    protocol: Protocol
    rater: Rater | None
    on_turn: OnTurn
    unfinished: _Unfinished

    def episodes(self, chains: Sequence[Chain], chunk: int) -> list[Episode]:
        """All rounds of each chain; `chunk` is the number of the chunk, for its seeds."""
        start = self._responses(chains, chunk)
        if self.critic is None and self.protocol.asks_critic:
            return start
        past: list[History] = [()] * len(start)
        rounds = [self._round(start, past, chunk)]
        for _ in range(1, self.protocol.rounds):
            last = rounds[-1]
            if self.protocol.history == "full":
                past = [(*h, (e.response, e.critique or "")) for h, e in zip(past, last, strict=True)]
            start = [
                replace(
                    e,
                    response=e.refinement or "",
                    response_correct=e.refinement_correct,
                    response_score=e.refinement_score,
                    response_rating=self._rating(e.refinement_score),
                    critique=None,
                    verdict=None,
                    tokens=0,
                    response_cut=e.response_cut if e.refinement_cut is None else e.refinement_cut,
                    critique_cut=None,
                    refinement_cut=None,
                    round=e.round + 1,
                )
                for e in last
            ]
            rounds.append(self._round(start, past, chunk))
        return [e for chain in zip(*rounds, strict=True) for e in chain]

    def _responses(self, chains: Sequence[Chain], chunk: int) -> list[Episode]:
        """Episodes with a response and its grade or score, before any critique."""
        prompts, problems = self.protocol.prompts, [problem for _, problem in chains]
        asked = [prompts.reasoning_prompt(p.question, image=p.image) for p in problems]
        answers = self._ask("response", self.actor, asked, chunk)
        responses = [g.after(prompts.reasoning_prefill) for g in answers]
        grades: Sequence[bool | None] = [None] * len(chains)
        scores: Sequence[float | None] = [None] * len(chains)
        if self.rater is None:
            grades = grade_replies(problems, responses)
        else:
            scores = where_replied(self.rater.scorer.score, items(problems, responses))
        return [
            Episode(
                id=p.id,
                dataset=p.dataset,
                question=p.question,
                answer=p.answer,
                kind=p.kind,
                response=response or "",
                response_correct=grade,
                critique=None,
                verdict=None,
                refinement=None,
                refinement_correct=None,
                tokens=answer.tokens,
                sample=sample,
                response_score=score,
                response_rating=self._rating(score),
                image=p.image,
                response_cut=answer.truncated,
            )
            for (sample, p), response, answer, grade, score in zip(
                chains, responses, answers, grades, scores, strict=True
            )
        ]

    def _ask(
        self, turn: str, model: Actor, asked: Sequence[Conversation], chunk: int, round: int = 0
    ) -> list[Generation]:
        sampling = self.protocol.sampling(turn, chunk, round)

        def write() -> list[Generation]:
            self.on_turn(turn, len(asked), None)
            started = time.monotonic()
            written = model.generate(asked, sampling)
            speed = sum(g.completion_tokens or 0 for g in written) / max(time.monotonic() - started, 1e-6)
            self.on_turn(turn, len(asked), speed)
            return written

        return self.unfinished.turn(chunk, turn, asked, sampling, write)

    def _rating(self, score: float | None) -> float | None:
        return None if self.rater is None else self.rater.range.rating(score)

    def _round(self, start: Sequence[Episode], past: Sequence[History], chunk: int) -> list[Episode]:
        """Criticise and refine the responses of `start`, all of one round; spared ones stay as they are."""
        episodes = [replace(e, refinement=e.response, refinement_correct=e.response_correct) for e in start]
        asked = [i for i, e in enumerate(start) if not (self.protocol.spare_correct and e.response_correct)]
        turn = ([start[i] for i in asked], [past[i] for i in asked], chunk, start[0].round)
        for i, e in zip(asked, self._refined(*turn), strict=True):
            # A missing response is asked about all the same, so that no other chain's draw depends on it.
            if not _missing(start[i]):
                episodes[i] = e
        return episodes

    def _refined(
        self, start: Sequence[Episode], past: Sequence[History], chunk: int, round: int
    ) -> list[Episode]:
        """Episodes with critique and refinement."""
        prompts, kind = self.protocol.prompts, self.protocol.critiques
        written: list[Generation] = []
        if self.protocol.asks_critic and self.critic is not None:
            asked = [
                prompts.critique_prompt(e.question, e.response, h, image=e.image)
                for e, h in zip(start, past, strict=True)
            ]
            written = self._ask("critique", self.critic, asked, chunk, round)
            start = [
                replace(e, tokens=added_tokens(e.tokens, g.tokens), critique_cut=g.truncated)
                for e, g in zip(start, written, strict=True)
            ]
        critiques = [_critique(kind, start, written, place) for place in range(len(start))]
        asked = [
            prompts.refinement_prompt(e.question, e.response, c or "", h, image=e.image)
            for e, c, h in zip(start, critiques, past, strict=True)
        ]
        answers = self._ask("refinement", self.actor, asked, chunk, round)
        refinements = [
            None if c is None else g.after(prompts.refinement_prefill)
            for c, g in zip(critiques, answers, strict=True)
        ]
        episodes = [
            replace(
                e,
                critique=c or "",
                refinement=y or "",
                tokens=added_tokens(e.tokens, g.tokens),
                refinement_cut=g.truncated,
            )
            for e, c, y, g in zip(start, critiques, refinements, answers, strict=True)
        ]
        replies = items(start, refinements)
        if self.rater is not None:
            ratings = [None if c is None else parse_rating(c) for c in critiques]
            scores = where_replied(self.rater.scorer.score, replies)
            return [
                replace(e, critic_rating=r, refinement_score=s)
                for e, r, s in zip(episodes, ratings, scores, strict=True)
            ]
        verdicts = [None if kind == "empty" or c is None else parse_verdict(c).value for c in critiques]
        return [
            replace(e, verdict=v, refinement_correct=o)
            for e, v, o in zip(episodes, verdicts, where_replied(grade_batch, replies), strict=True)
        ]


def _missing(e: Episode) -> bool:
    """Whether the response never came; an empty one that did come has a grade."""
    return e.response == "" and e.response_correct is None and e.response_score is None


def _critique(
    kind: str, episodes: Sequence[Episode], written: Sequence[Generation], place: int
) -> str | None:
    """Critique that the actor is shown for the episode at `place`; None if the critic's never came.

    `written` are the critic's, if it was asked.
    """
    e = episodes[place]
    if kind == "critic":
        return written[place].text
    if kind == "shuffled":
        following = (*range(place + 1, len(episodes)), *range(place))
        return written[next(i for i in following if episodes[i].id != e.id)].text
    if kind == "verdict":
        text = written[place].text
        if text is None:
            return None
        verdict = parse_verdict(text)
        return "" if verdict is Verdict.UNPARSED else f"{VERDICT_LABEL} {verdict.value.capitalize()}"
    if kind == "empty" or e.response_correct is None:
        return ""
    return f"{ADVICE}\n{VERDICT_LABEL} {'Correct' if e.response_correct else 'Wrong'}"
