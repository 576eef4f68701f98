"""The protocol over a set of problems, and every metric of the paper on its records.

respond -> critique -> refine; one record (`Episode`) per problem goes to disk as it is finished, so a killed
evaluation goes on where it stopped.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from critique_rl.actors.base import Actor
from critique_rl.grading import grade_batch
from critique_rl.prompts import PromptSet, Verdict, parse_verdict
from critique_rl.rewards import r_dis
from critique_rl.types import Problem, Sampling, UserError, child_seed


@dataclass(frozen=True)
class Episode:
    """One problem through the protocol.

    Attributes:
        id: Identity of the problem.
        dataset: Its data set.
        question: What was asked.
        answer: The gold answer.
        kind: How it is graded.
        response: y, with its prefill.
        response_correct: o = r_oracle(x, y); None if it could not be graded.
        critique: c; None without a critic, as are the fields below.
        verdict: f(x, y, c).
        refinement: y', with its prefill.
        refinement_correct: o' = r_oracle(x, y'); None if it could not be graded.
        tokens: Prompt and completion tokens of all its generations.
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


@dataclass(frozen=True)
class Protocol:
    """How the three texts of an episode are generated.

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

    def sampling(self, turn: str, chunk: int) -> Sampling:
        """Sampling of one turn for one chunk of problems."""
        base: Sampling = getattr(self, turn)
        return replace(base, seed=child_seed(self.seed, turn, chunk))


def evaluate(
    problems: Sequence[Problem],
    actor: Actor,
    critic: Actor | None,
    protocol: Protocol,
    *,
    records: Path,
    chunk_size: int = 256,
    on_progress: Callable[[int, int], None] | None = None,
) -> list[Episode]:
    """Run the protocol on each problem.

    Args:
        problems: What to ask, each once.
        actor: Answers and refines.
        critic: Criticises; None evaluates the actor alone.
        protocol: How to generate.
        records: JSON-lines file to which finished episodes are appended and from which they are read back.
        chunk_size: Problems that go through the protocol together and are written together.
        on_progress: Called with the number of finished problems and of all problems.

    Returns:
        One episode per problem, in the order of `problems`.

    Raises:
        UserError: `records` holds a line that is no episode, or episodes of other problems.
    """
    done = {episode.id: episode for episode in read_episodes(records)} if records.exists() else {}
    if not done.keys() <= {p.id for p in problems}:
        raise UserError(
            f"{records} holds records of other problems: delete it, or evaluate into another folder."
        )
    records.parent.mkdir(parents=True, exist_ok=True)
    # Chunks are cut before finished ones are skipped: a resumed run draws with the seeds of an unbroken one.
    for number, start in enumerate(range(0, len(problems), chunk_size)):
        chunk = problems[start : start + chunk_size]
        if any(p.id not in done for p in chunk):
            fresh = [e for e in _episodes(chunk, actor, critic, protocol, number) if e.id not in done]
            with records.open("a", encoding="utf-8") as file:
                file.writelines(json.dumps(asdict(e), ensure_ascii=False) + "\n" for e in fresh)
            done |= {e.id: e for e in fresh}
        if on_progress is not None:
            on_progress(min(start + chunk_size, len(problems)), len(problems))
    return [done[p.id] for p in problems]


def _episodes(
    problems: Sequence[Problem], actor: Actor, critic: Actor | None, protocol: Protocol, chunk: int
) -> list[Episode]:
    prompts = protocol.prompts
    answers = actor.generate(
        [prompts.reasoning_prompt(p.question) for p in problems], protocol.sampling("response", chunk)
    )
    responses = [prompts.reasoning_prefill + g.text for g in answers]
    tokens = [g.prompt_tokens + g.completion_tokens for g in answers]
    before = grade_replies(problems, responses)
    if critic is None:
        return [
            Episode(p.id, p.dataset, p.question, p.answer, p.kind, y, o, None, None, None, None, t)
            for p, y, o, t in zip(problems, responses, before, tokens, strict=True)
        ]
    written = critic.generate(
        [prompts.critique_prompt(p.question, y) for p, y in zip(problems, responses, strict=True)],
        protocol.sampling("critique", chunk),
    )
    refined = actor.generate(
        [
            prompts.refinement_prompt(p.question, y, c.text)
            for p, y, c in zip(problems, responses, written, strict=True)
        ],
        protocol.sampling("refinement", chunk),
    )
    refinements = [prompts.refinement_prefill + g.text for g in refined]
    after = grade_replies(problems, refinements)
    return [
        Episode(
            id=p.id,
            dataset=p.dataset,
            question=p.question,
            answer=p.answer,
            kind=p.kind,
            response=responses[i],
            response_correct=before[i],
            critique=written[i].text,
            verdict=parse_verdict(written[i].text).value,
            refinement=refinements[i],
            refinement_correct=after[i],
            tokens=tokens[i] + sum(g.prompt_tokens + g.completion_tokens for g in (written[i], refined[i])),
        )
        for i, p in enumerate(problems)
    ]


def grade_replies(problems: Sequence[Problem], replies: Sequence[str]) -> list[bool | None]:
    """Grade one reply per problem."""
    return grade_batch(
        [{"gold": p.answer, "reply": y, "kind": p.kind} for p, y in zip(problems, replies, strict=True)]
    )


def read_episodes(records: Path) -> list[Episode]:
    """Read what `evaluate` wrote; a last line that a kill cut short is dropped.

    Raises:
        UserError: Another line is no episode.
    """
    content = records.read_bytes()  # a line may have been cut inside a character
    whole = content[: content.rfind(b"\n") + 1]
    if len(whole) < len(content):  # the write of the last line was cut off, and an append would join it
        with records.open("r+b") as file:
            file.truncate(len(whole))
    episodes = []
    for number, line in enumerate(whole.split(b"\n"), start=1):
        if line:
            try:
                episodes.append(Episode(**json.loads(line)))
            except (ValueError, TypeError) as error:  # no JSON or no UTF-8; other fields
                raise UserError(f"{records}, line {number} is no episode record: {error}") from error
    return episodes


def metrics(episodes: Iterable[Episode]) -> dict[str, float | None]:
    """All metrics of the paper's section 5.1 as fractions of 1; None where there is nothing to divide by.

    Episodes with an answer that could not be graded count in `graded_rate` and nowhere else, so that
    delta = delta_ic - delta_ci holds exactly. See docs in the README for each metric's meaning.
    """
    every = list(episodes)
    with_critic = any(e.critique is not None for e in every)
    graded = [
        e
        for e in every
        if e.response_correct is not None and (not with_critic or e.refinement_correct is not None)
    ]
    correct = [e for e in graded if e.response_correct]
    wrong = [e for e in graded if not e.response_correct]
    result: dict[str, float | None] = {
        "acc": _share(graded, lambda e: bool(e.response_correct)),
        "graded_rate": len(graded) / len(every) if every else None,
        "tokens": sum(e.tokens for e in every) / len(every) if every else None,
    }
    if not with_critic:
        return result
    parsed = [e for e in graded if e.verdict != Verdict.UNPARSED]
    on_correct, on_wrong = _share(correct, _judged_right), _share(wrong, _judged_right)
    result |= {
        "acc_refine": _share(graded, lambda e: bool(e.refinement_correct)),
        "delta_ci": _share(graded, lambda e: bool(e.response_correct and not e.refinement_correct)),
        "delta_ic": _share(graded, lambda e: bool(e.refinement_correct and not e.response_correct)),
        "delta_ci_given_correct": _share(correct, lambda e: not e.refinement_correct),
        "delta_ic_given_wrong": _share(wrong, lambda e: bool(e.refinement_correct)),
        "acc_dis": _share(graded, _judged_right),
        "acc_dis_parsed": _share(parsed, _judged_right),
        "acc_dis_on_correct": on_correct,
        "acc_dis_on_wrong": on_wrong,
        "acc_dis_balanced": None if on_correct is None or on_wrong is None else (on_correct + on_wrong) / 2,
        "parse_rate": _share(graded, lambda e: e.verdict != Verdict.UNPARSED),
    }
    refine, acc = result["acc_refine"], result["acc"]
    result["delta"] = None if refine is None or acc is None else refine - acc
    return result


def _judged_right(episode: Episode) -> bool:
    return episode.verdict is not None and r_dis(Verdict(episode.verdict), episode.response_correct) == 1.0


def _share(episodes: Sequence[Episode], holds: Callable[[Episode], bool]) -> float | None:
    return sum(map(holds, episodes)) / len(episodes) if episodes else None
