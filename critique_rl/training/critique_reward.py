"""The reward of both stages of Critique-RL: read the verdicts, let the actor refine, grade, log."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from threading import Event
from typing import Any

from critique_rl import rewards
from critique_rl.actors.base import Actor, in_daemon_threads
from critique_rl.grading.replies import where_replied
from critique_rl.prompts import Verdict, parse_rating, parse_verdict, prompt_set
from critique_rl.training.images import logged_images
from critique_rl.training.stage_config import CritiqueConfig
from critique_rl.types import Conversation, Generation, Sampling, UserError, child_seed

Grader = Callable[[Sequence[Mapping[str, str]]], Sequence[float | None]]
"""r_oracle of replies: True, False or a rating each, None where it is unknown; `grade_batch` or a `Rater`."""
Metric = Callable[[str, float], None]
"""trl's `log_metric`: takes one value per critique; trl averages them over the batch and over all ranks."""


@dataclass(frozen=True)
class Request:
    """What the actor is asked after the critiques of a rollout.

    Attributes:
        rows: Numbers of the critiques that it refines after.
        prompts: One prompt for each of them.
        sampling: Settings of the refinements.
    """

    rows: list[int]
    prompts: list[Conversation]
    sampling: Sampling


class CritiqueReward:
    """The reward of one stage for a batch of critiques, as one trl reward function.

    One function, because the terms need each other: `gated` decides which refinements are asked for. An unknown
    term must leave the whole critique without reward, but trl counts a lone None as 0.

    Args:
        args: The stage's configuration.
        actor: Writes the refinements; None if the stage has no refinement reward.
        grader: Grades refinements, or rates them.
    """

    __name__ = "critique_reward"

    def __init__(self, args: CritiqueConfig, actor: Actor | None, grader: Grader) -> None:
        self.args, self.actor, self.grader = args, actor, grader
        self.prompts = prompt_set(args.prompts)
        self._begun: tuple[Request, Future[tuple[list[Generation], float]]] | None = None

    def __call__(self, completions: Sequence[Any], **columns: Any) -> list[float | None]:
        """Reward each critique; None where the refinement could not be graded. See trl's reward functions."""
        args, n, log_metric = self.args, len(completions), columns["log_metric"]
        question, truth = columns["question"], columns[args.truth]
        labels, verdicts, r_dis = self.read(completions, columns)
        record = {"question": question, "response": columns["response"]}
        record |= {"answer": columns["answer"], args.truth: truth}
        record |= {"image": logged_images(columns.get("image"), args), "r_dis": r_dis}
        record |= {"verdict": [v.value for v in verdicts]} if args.tolerance is None else {"rating": verdicts}
        if args.refinement_reward is None:
            self.log(record, [], columns["log_extra"], log_metric)
            return list(map(rewards.r_dis_signed, verdicts, labels)) if args.signed_dis else r_dis
        request = self.request(completions, r_dis, columns, columns["trainer_state"].global_step)
        asked, texts = request.rows, self.refine(request, log_metric)
        items = [
            {"question": question[i], "gold": columns["answer"][i], "reply": text, "kind": columns["kind"][i]}
            for i, text in zip(asked, texts, strict=True)
        ]
        graded = self.grade(items, log_metric)
        refinements: list[str] = [""] * n
        grades: list[Any] = [None] * n
        for i, text, grade in zip(asked, texts, graded, strict=True):
            refinements[i], grades[i] = text or "", grade
        if args.tolerance is None:
            seen = self._with_noise(grades, question, refinements)
            r_refinement = list(map(rewards.REFINEMENT_REWARDS[args.refinement_reward], labels, seen))
        else:
            r_refinement = list(map(rewards.r_refine_scored, grades))
        column = "refinement_correct" if args.tolerance is None else "refinement_rating"
        record |= {"refinement": refinements, column: grades, args.refinement_reward: r_refinement}
        self.log(record, asked, columns["log_extra"], log_metric)
        combine = rewards.STAGE_2_REWARDS[args.combination]
        return [combine(r, d, beta_1=args.beta_1) for r, d in zip(r_refinement, r_dis, strict=True)]

    def read(
        self, completions: Sequence[Any], columns: Mapping[str, Sequence[Any]]
    ) -> tuple[list[Any], list[Any], list[float | None]]:
        """Label as the rewards see it, verdict (or rating) and r_dis of each critique."""
        critiques, tolerance = _texts(completions), self.args.tolerance
        labels: list[Any] = self._with_noise(
            columns[self.args.truth], columns["question"], columns["response"]
        )
        if tolerance is None:
            verdicts: list[Any] = [parse_verdict(critique) for critique in critiques]
            return labels, verdicts, list(map(rewards.r_dis, verdicts, labels))
        ratings = [parse_rating(critique) for critique in critiques]
        scored = [
            rewards.r_dis_scored(f, o, tolerance=tolerance) for f, o in zip(ratings, labels, strict=True)
        ]
        return labels, ratings, scored

    def request(
        self,
        completions: Sequence[Any],
        r_dis: Sequence[float | None],
        columns: Mapping[str, Sequence[Any]],
        step: int,
    ) -> Request:
        """What the actor is asked after these critiques; `step` is part of the seed."""
        args, critiques, images = self.args, _texts(completions), columns.get("image")
        # `gated` rewards a wrong verdict with -1 whatever the refinement is: do not ask for it.
        rows = [i for i in range(len(critiques)) if args.combination == "additive" or r_dis[i]]
        prompts = [
            self.prompts.refinement_prompt(
                columns["question"][i],
                columns["response"][i],
                critiques[i],
                image=images[i] if images else None,
            )
            for i in rows
        ]
        seed = child_seed(args.seed, "refinement", step, args.process_index)
        sampling = Sampling(args.refinement_max_tokens, args.refinement_temperature, seed=seed)
        return Request(rows, prompts, sampling)

    def begin(self, completions: Sequence[Any], columns: Mapping[str, Sequence[Any]], step: int) -> None:
        """Ask a remote actor for the refinements of a rollout before its reward is due, in the background.

        The reward takes the replies, or the error, if it asks for the same; otherwise nobody does. An actor in
        this process is not asked: it would compute beside the critic.
        """
        self._begun = None
        if self.args.refinement_reward is None or not getattr(self.actor, "remote", False):
            return
        *_, r_dis = self.read(completions, columns)
        request = self.request(completions, r_dis, columns, step)
        (replies,) = in_daemon_threads([partial(self._ask, request)], 1, Event())
        self._begun = request, replies

    def refine(self, request: Request, log_metric: Metric) -> list[str | None]:
        """Let the actor refine; return its refinements with their prefill, None for those that never came.

        Raises:
            UserError: There is no actor.
        """
        started = time.perf_counter()
        begun, self._begun = self._begun, None
        generations, asked_s = (
            begun[1].result() if begun is not None and begun[0] == request else self._ask(request)
        )
        log_metric("time/refine", time.perf_counter() - started)
        log_metric("time/actor", asked_s)
        log_metric("tokens/actor", float(sum(g.tokens or 0 for g in generations)))
        return [g.after(self.prompts.refinement_prefill) for g in generations]

    def _ask(self, request: Request) -> tuple[list[Generation], float]:
        """Replies of the actor, and the seconds that they took."""
        if self.actor is None:
            raise UserError("this stage asks for refinements: pass an `actor` to the trainer.")
        started = time.perf_counter()
        generations = self.actor.generate(request.prompts, request.sampling)
        return generations, time.perf_counter() - started

    def grade(self, items: list[dict[str, Any]], log_metric: Metric) -> Sequence[Any]:
        """Grade, or score, the refinements; None where that is not possible."""
        started = time.perf_counter()
        grades = where_replied(self.grader, items)
        log_metric("time/grade", time.perf_counter() - started)
        return grades

    def log(
        self,
        record: Mapping[str, Any],
        asked: Sequence[int],
        log_extra: Callable[[str, list[Any]], None],
        log_metric: Metric,
    ) -> None:
        """Log the columns of a rollout and their metrics; verdicts are measured against the true labels.

        Args:
            record: One value per critique, by column; None is no column.
            asked: Numbers of the critiques after which the actor refined.
        """
        for column, values in record.items():
            if values is not None:
                log_extra(column, values)
        scored, truth = self.args.tolerance is not None, record[self.args.truth]
        log_verdict = _log_rating if scored else _log_verdict
        log_refinement = _log_rescoring if scored else _log_refinement
        for verdict, o in zip(record["rating" if scored else "verdict"], truth, strict=True):
            log_verdict(verdict, o, log_metric)
        for i in asked:
            grade = record["refinement_rating" if scored else "refinement_correct"][i]
            log_metric("actor/graded_rate", float(grade is not None))
            if grade is not None:
                log_refinement(truth[i], grade, log_metric)
        for name in filter(None, ("r_dis", self.args.refinement_reward)):
            for value in record[name]:
                if value is not None:
                    log_metric(f"reward/{name}", value)

    def _with_noise(
        self, correct: Sequence[bool | None], questions: Sequence[str], replies: Sequence[str]
    ) -> list[bool | None]:
        """Labels as the rewards see them; equal replies to a question are inverted alike."""
        noise = self.args.oracle_noise
        if noise == 0.0:
            return list(correct)
        return [
            o if o is None or child_seed(self.args.seed, "oracle noise", x, y) >= noise * 2**31 else not o
            for o, x, y in zip(correct, questions, replies, strict=True)
        ]


def _texts(completions: Sequence[Any]) -> list[str]:
    """Critiques as texts; trl gives conversations of one message."""
    return [c[0]["content"] if isinstance(c, list) else c for c in completions]


def _log_verdict(verdict: str, correct: bool | None, log_metric: Metric) -> None:
    log_metric("critic/parse_rate", float(verdict != Verdict.UNPARSED.value))
    right = rewards.r_dis(Verdict(verdict), correct)
    if right is not None:
        log_metric("critic/acc_dis", right)
        log_metric(f"critic/acc_dis_on_{'correct' if correct else 'wrong'}", right)


def _log_rating(rating: float | None, truth: float | None, log_metric: Metric) -> None:
    log_metric("critic/parse_rate", float(rating is not None))
    if rating is not None and truth is not None:
        log_metric("critic/mae_dis", abs(rating - truth))
        log_metric("critic/mse_dis", (rating - truth) ** 2)


def _log_refinement(before: bool | None, after: bool, log_metric: Metric) -> None:
    log_metric("actor/acc_refine", float(after))
    if before is not None:
        log_metric("actor/delta_ci", float(before and not after))
        log_metric("actor/delta_ic", float(after and not before))
        changed = float(before != after)
        log_metric("actor/delta_ci_given_correct" if before else "actor/delta_ic_given_wrong", changed)


def _log_rescoring(before: float | None, after: float, log_metric: Metric) -> None:
    log_metric("actor/rating_refine", after)
    if before is not None:
        log_metric("actor/delta_rating", after - before)
