"""The rewards of Critique-RL as functions that the trainers of verl and OpenRLHF call. Imports neither of them.

Both engines draw the critiques and update the critic; the reward of a critique is asked of a function in a file of
the user. It reads the verdict, lets the frozen actor refine where the reward needs that, and grades. The actor is
best served: `OpenAIActor` takes many requests at once.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from critique_rl import rewards
from critique_rl.actors.base import Actor
from critique_rl.grading import grade_batch
from critique_rl.grading.replies import where_replied
from critique_rl.prompts import parse_verdict, prompt_set
from critique_rl.types import Conversation, Sampling, UserError, nearest

logger = logging.getLogger(__name__)

ROW = ("question", "response", "answer", "kind", "response_correct")
"""Columns of a row of the pool that the reward of a critique needs."""


class EngineReward:
    """The reward of a stage, one critique at a time or many at once.

    Engines want a number for each critique. One whose reward is unknown, because its refinement never came or
    could not be graded, gets `when_unknown`, which enters the engine's baseline; its log has `unknown: 1.0`.

    Args:
        actor: Frozen model that refines; None for Stage I.
        refinement_reward: Name in `rewards.REFINEMENT_REWARDS`; None is Stage I, whose reward is r_dis.
        combination: Name in `rewards.STAGE_2_REWARDS`.
        beta_1: Weight of r_dis in Stage II.
        prompts: Prompt set of critic and actor.
        max_tokens: Most tokens of a refinement, which is greedy.
        when_unknown: Number in place of an unknown reward.
        concurrency: Refinements that are asked for at once.

    Raises:
        UserError: A name is unknown, or the actor is missing.
    """

    def __init__(
        self,
        actor: Actor | None = None,
        *,
        refinement_reward: str | None = None,
        combination: str = "additive",
        beta_1: float = 0.2,
        prompts: str = "paper",
        max_tokens: int = 1024,
        when_unknown: float = 0.0,
        concurrency: int = 64,
    ) -> None:
        for name, known in (
            (refinement_reward, rewards.REFINEMENT_REWARDS),
            (combination, rewards.STAGE_2_REWARDS),
        ):
            if name is not None and name not in known:
                raise UserError(f"no reward '{name}'. {nearest(name, known)}")
        if refinement_reward is not None and actor is None:
            raise UserError("a refinement_reward needs an actor that refines: pass `actor`.")
        self.actor, self.refinement_reward, self.beta_1 = actor, refinement_reward, beta_1
        self.combine = rewards.STAGE_2_REWARDS[combination]
        self.asks_always = combination == "additive"
        self.prompts, self.sampling = prompt_set(prompts), Sampling(max_tokens)
        self.when_unknown = when_unknown
        self._threads = ThreadPoolExecutor(concurrency, thread_name_prefix="critique_rl-reward")

    def prompt(self, row: Mapping[str, Any]) -> Conversation:
        """Chat in which the critic criticises the response of a row; the prompt column of the engine's data."""
        return self.prompts.critique_prompt(row["question"], row["response"])

    def score(self, row: Mapping[str, Any], critique: str) -> dict[str, float]:
        """Reward of one critique.

        Args:
            row: A row of the pool, with the columns `ROW`.
            critique: Text of the critique, without special tokens.

        Returns:
            `score`, the reward; `r_dis`; `unknown`, 1 where the reward is; and in Stage II `acc_refine`, 1 if the
            refinement is right.

        Raises:
            UserError: A column is missing.
            ActorError: The actor fails, see `Actor.generate`.
        """
        if missing := [name for name in ROW if name not in row]:
            raise UserError(f"the row of a critique lacks {', '.join(missing)}; it has {', '.join(row)}.")
        correct = row["response_correct"]
        r_dis = rewards.r_dis(parse_verdict(critique), correct)
        parts = {"r_dis": 0.0 if r_dis is None else r_dis}
        if self.refinement_reward is None:
            reward = r_dis
        else:
            right = self._refine(row, critique) if self.asks_always or r_dis else None
            refined = rewards.REFINEMENT_REWARDS[self.refinement_reward](correct, right)
            reward = self.combine(refined, r_dis, beta_1=self.beta_1)
            parts["acc_refine"] = float(right is True)
        if reward is None:
            logger.warning("the reward of a critique of %.60r is unknown", row["question"])
        return {
            "score": self.when_unknown if reward is None else reward,
            **parts,
            "unknown": float(reward is None),
        }

    async def score_in_thread(self, row: Mapping[str, Any], critique: str) -> dict[str, float]:
        """The same without blocking the loop of the caller."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, self.score, row, critique)

    def verl(self) -> Callable[..., Awaitable[dict[str, float]]]:
        """The function that verl's `custom_reward_function` names; `extra_info` holds the row of the pool."""

        async def compute_score(
            data_source: str,
            solution_str: str,
            ground_truth: str,
            extra_info: Mapping[str, Any] | None = None,
            **engine: Any,
        ) -> dict[str, float]:
            row = {"answer": ground_truth, **(extra_info or {})}
            return await self.score_in_thread(row, solution_str)

        return compute_score

    def openrlhf(self) -> Callable[[Sequence[str], Sequence[str], Sequence[str]], dict[str, Any]]:
        """The `reward_func` of the file that OpenRLHF's `--remote_rm_url` names; a label is a row as JSON."""

        def reward_func(
            queries: Sequence[str], prompts: Sequence[str], labels: Sequence[str]
        ) -> dict[str, Any]:
            import torch

            critiques = [query.removeprefix(prompt) for query, prompt in zip(queries, prompts, strict=True)]
            rows = [json.loads(label) for label in labels]
            scored = list(self._threads.map(self.score, rows, critiques))
            columns = {name: torch.tensor([parts[name] for parts in scored]) for name in scored[0]}
            score = columns.pop("score")
            return {"rewards": score, "scores": score, "extra_logs": columns}

        return reward_func

    def _refine(self, row: Mapping[str, Any], critique: str) -> bool | None:
        """Whether the actor's refinement is right."""
        assert self.actor is not None
        image = row.get("image")
        asked = self.prompts.refinement_prompt(row["question"], row["response"], critique, image=image)
        (written,) = self.actor.generate([asked], self.sampling)
        reply = written.after(self.prompts.refinement_prefill)
        item = {"question": row["question"], "gold": row["answer"], "reply": reply, "kind": row["kind"]}
        (right,) = where_replied(grade_batch, [item])
        return right


def verl_row(row: Mapping[str, Any], reward: EngineReward) -> dict[str, Any]:
    """A row of the pool in the layout of verl's parquet files."""
    known = {name: row[name] for name in ROW}
    return {
        "data_source": "critique_rl",
        "prompt": reward.prompt(row),
        "reward_model": {"style": "rule", "ground_truth": row["answer"]},
        "extra_info": known,
    }


def openrlhf_row(row: Mapping[str, Any], reward: EngineReward) -> dict[str, Any]:
    """A row of the pool as OpenRLHF reads it with `--input_key prompt --label_key label --apply_chat_template`."""
    return {"prompt": reward.prompt(row), "label": json.dumps({name: row[name] for name in ROW})}
