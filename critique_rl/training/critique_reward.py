"""TODO docstring."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from critique_rl import rewards
from critique_rl.actors.base import Actor
from critique_rl.prompts import Verdict, parse_rating, parse_verdict, prompt_set
from critique_rl.training.images import logged_images
from critique_rl.training.stage_config import CritiqueConfig
from critique_rl.types import Sampling, UserError, child_seed

Grader = Callable[[Sequence[Mapping[str, str]]], Sequence[float | None]]
"""r_oracle for replies: True, False or a rating for each, None where there is none; `grade_batch` or a `Rater`."""


class CritiqueReward:
    """The reward of one stage for a batch of critiques, as one trl reward function.

    One function, because the terms need each other: gating decides which refinements are asked for at all,
    and a term that is unknown must take the whole row out of the baseline (trl counts a lone None as 0).

    Args:
        args: The stage's configuration.
        actor: Writes the refinements; None if the stage has no refinement reward.
        grader: Grades refinements, or rates them.
    """

    __name__ = "critique_reward"

    def __init__(self, args: CritiqueConfig, actor: Actor | None, grader: Grader) -> None:
        self.args, self.actor, self.grader = args, actor, grader
        self.prompts = prompt_set(args.prompts)

    def __call__(
        self,
        completions: list[Any],
        question: list[str],
        response: list[str],
        answer: list[str],
        kind: list[str],
        trainer_state: Any,
        log_extra: Callable[[str, list[Any]], None],
        log_metric: Callable[[str, float], None],
        **columns: Any,
    ) -> list[float | None]:
        """Reward each critique; see trl's reward functions for the arguments.

        Returns:
            One reward per critique, None where the refinement could not be graded.
        """
        args = self.args
        critiques = [c[0]["content"] if isinstance(c, list) else c for c in completions]
        truth, images = columns[args.truth], columns.get("image") or [None] * len(critiques)
        shown = {"question": question, "response": response, "answer": answer, args.truth: truth}
        for name, values in shown.items():
            log_extra(name, values)
        pictures = logged_images(columns.get("image"), args)
        if pictures is not None:
            log_extra("image", pictures)
        if args.tolerance is None:
            verdicts = [parse_verdict(critique) for critique in critiques]
            seen = self._with_noise(truth, question, response)
            dis = [rewards.r_dis(v, o) for v, o in zip(verdicts, seen, strict=True)]
            log_extra("verdict", [v.value for v in verdicts])
            _log_discrimination(verdicts, truth, log_metric)
        else:
            ratings = [parse_rating(critique) for critique in critiques]
            dis = [
                rewards.r_dis_scored(f, o, tolerance=args.tolerance)
                for f, o in zip(ratings, truth, strict=True)
            ]
            log_extra("rating", ratings)
            _log_ratings(ratings, truth, log_metric)
        log_extra("r_dis", dis)
        for value in dis:
            if value is not None:
                log_metric("reward/r_dis", value)
        if args.refinement_reward is None:
            if args.signed_dis:
                return [rewards.r_dis_signed(v, o) for v, o in zip(verdicts, seen, strict=True)]
            return dis

        # A gated critique with a wrong verdict is rewarded -1 whatever the actor makes of it: do not ask.
        asked = [i for i, d in enumerate(dis) if args.combination == "additive" or d]
        seed = child_seed(args.seed, "refinement", trainer_state.global_step, args.process_index)
        started = time.perf_counter()
        generations = self._actor().generate(
            [
                self.prompts.refinement_prompt(question[i], response[i], critiques[i], image=images[i])
                for i in asked
            ],
            Sampling(args.refinement_max_tokens, args.refinement_temperature, seed=seed),
        )
        log_metric("time/refine", time.perf_counter() - started)
        log_metric("tokens/actor", float(sum(g.prompt_tokens + g.completion_tokens for g in generations)))
        refined = [""] * len(critiques)
        for i, generation in zip(asked, generations, strict=True):
            refined[i] = self.prompts.refinement_prefill + generation.text
        started = time.perf_counter()
        graded: list[Any] = [None] * len(critiques)
        items = [
            {"question": question[i], "gold": answer[i], "reply": refined[i], "kind": kind[i]} for i in asked
        ]
        for i, grade in zip(asked, self.grader(items), strict=True):
            graded[i] = grade
        log_metric("time/grade", time.perf_counter() - started)
        log_extra("refinement", refined)
        if args.tolerance is None:
            log_extra("refinement_correct", graded)
            _log_refinement([truth[i] for i in asked], [graded[i] for i in asked], log_metric)
            reward = rewards.REFINEMENT_REWARDS[args.refinement_reward]
            after = self._with_noise(graded, question, refined)
            refinement = [reward(o, r) for o, r in zip(seen, after, strict=True)]
        else:
            log_extra("refinement_rating", graded)
            _log_rescoring(truth, graded, log_metric)
            refinement = [rewards.r_refine_scored(r) for r in graded]
        log_extra(args.refinement_reward, refinement)
        for value in refinement:
            if value is not None:
                log_metric(f"reward/{args.refinement_reward}", value)
        combine = rewards.STAGE_2_REWARDS[args.combination]
        return [combine(r, d, beta_1=args.beta_1) for r, d in zip(refinement, dis, strict=True)]

    def _with_noise(
        self, correct: Sequence[bool | None], questions: Sequence[str], replies: Sequence[str]
    ) -> list[bool | None]:
        """Labels as the rewards see them; equal replies to a question are wrongly labelled alike."""
        noise = self.args.oracle_noise
        if noise == 0.0:
            return list(correct)
        return [
            o if o is None or child_seed(self.args.seed, "oracle noise", x, y) >= noise * 2**31 else not o
            for o, x, y in zip(correct, questions, replies, strict=True)
        ]

    def _actor(self) -> Actor:
        if self.actor is None:
            raise UserError("this stage asks for refinements: pass an `actor` to the trainer.")
        return self.actor


def _log_discrimination(
    verdicts: Sequence[Verdict], correct: Sequence[bool | None], log_metric: Callable[[str, float], None]
) -> None:
    """One value per critique: trl averages them over the batch and over all ranks."""
    for verdict, o in zip(verdicts, correct, strict=True):
        log_metric("critic/parse_rate", float(verdict is not Verdict.UNPARSED))
        right = rewards.r_dis(verdict, o)
        if right is None:
            continue
        log_metric("critic/acc_dis", right)
        log_metric(f"critic/acc_dis_on_{'correct' if o else 'wrong'}", right)


def _log_refinement(
    correct: Sequence[bool | None], refined: Sequence[bool | None], log_metric: Callable[[str, float], None]
) -> None:
    for before, after in zip(correct, refined, strict=True):
        log_metric("actor/graded_rate", float(after is not None))
        if after is not None:
            log_metric("actor/acc_refine", float(after))
        if before is not None and after is not None:
            log_metric("actor/delta_ci", float(before and not after))
            log_metric("actor/delta_ic", float(after and not before))
            log_metric(
                "actor/delta_ci_given_correct" if before else "actor/delta_ic_given_wrong",
                float(before != after),
            )


def _log_ratings(
    ratings: Sequence[float | None], truth: Sequence[float | None], log_metric: Callable[[str, float], None]
) -> None:
    for rating, o in zip(ratings, truth, strict=True):
        log_metric("critic/parse_rate", float(rating is not None))
        if rating is not None and o is not None:
            log_metric("critic/mae_dis", abs(rating - o))
            log_metric("critic/mse_dis", (rating - o) ** 2)


def _log_rescoring(
    before: Sequence[float | None], after: Sequence[float | None], log_metric: Callable[[str, float], None]
) -> None:
    for o, r in zip(before, after, strict=True):
        log_metric("actor/graded_rate", float(r is not None))
        if r is not None:
            log_metric("actor/rating_refine", r)
        if o is not None and r is not None:
            log_metric("actor/delta_rating", r - o)
