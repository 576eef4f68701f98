"""The rewards as verl and OpenRLHF call them: with the arguments that their documentation names."""

from __future__ import annotations

import asyncio
import inspect
import json
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from datasets import Dataset
from helpers import ToyActor, follow_critique

from critique_rl.engines import EngineReward, openrlhf_row, verl_row
from critique_rl.grading import grade_batch
from critique_rl.prompts import COMPACT
from critique_rl.training.critique_reward import CritiqueReward
from critique_rl.training.stage_config import Stage1Config, Stage2Config
from critique_rl.types import Conversation, Generation, Sampling, UserError

STAGE_2: dict[str, Any] = {"refinement_reward": "r_refine", "prompts": "compact"}


class Silent:
    """An actor whose replies never come."""

    name = "silent"

    def generate(self, prompts: Sequence[Conversation], sampling: Sampling) -> list[Generation]:
        return [Generation(None, None, None, False) for _ in prompts]


@pytest.fixture(scope="module")
def rows(pool: Dataset) -> list[dict[str, Any]]:
    """Right and wrong responses."""
    right = [row for row in pool if row["response_correct"]][:4]
    return right + [row for row in pool if not row["response_correct"]][:4]


def critiques(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Each says the right value; a half of the verdicts is right, and one is missing."""
    texts = []
    for i, row in enumerate(rows):
        says = row["response_correct"] == (i % 2 == 0)
        verdict = f"Correctness of the final answer: {'Correct' if says else 'Wrong'}"
        step = f"Step sentence: {row['response'].splitlines()[0]}\nExplanation: {row['answer']}\n"
        texts.append(step + ("" if i == len(rows) - 1 else verdict))
    return texts


def by_trainer(rows: Sequence[dict[str, Any]], args: Any, actor: Any) -> list[float | None]:
    """The rewards of our own trainer."""
    columns = {name: [row[name] for row in rows] for name in rows[0]}
    texts = [[{"role": "assistant", "content": text}] for text in critiques(rows)]
    state = type("State", (), {"global_step": 0})()
    logs: dict[str, Any] = {
        "log_metric": lambda *_: None,
        "log_extra": lambda *_: None,
        "trainer_state": state,
    }
    return CritiqueReward(args, actor, grade_batch)(texts, **columns, **logs)


@pytest.mark.parametrize("settings", [{}, STAGE_2, STAGE_2 | {"combination": "gated"}])
def test_both_engines_get_the_rewards_of_our_trainer(
    rows: list[dict[str, Any]], settings: dict[str, Any], tmp_path: Any
) -> None:
    actor = ToyActor(follow_critique) if settings else None
    reward = EngineReward(actor, **({"prompts": "compact"} | settings))
    stage: Any = Stage2Config if settings else Stage1Config
    args = stage(output_dir=str(tmp_path), bf16=False, use_cpu=True, **({"prompts": "compact"} | settings))
    expected = by_trainer(rows, args, actor)
    assert len(set(expected)) > 1
    # verl: one critique a call, many calls at once
    compute_score = reward.verl()
    assert inspect.iscoroutinefunction(compute_score)

    async def together() -> list[dict[str, float]]:
        calls = []
        for row, critique in zip(rows, critiques(rows), strict=True):
            layout = verl_row(row, reward)
            calls.append(
                compute_score(
                    data_source=layout["data_source"],
                    solution_str=critique,
                    ground_truth=layout["reward_model"]["ground_truth"],
                    extra_info=layout["extra_info"],
                    reward_router_address=None,
                    reward_model_tokenizer=None,
                )
            )
        return list(await asyncio.gather(*calls))

    scored = asyncio.run(together())
    assert [parts["score"] for parts in scored] == pytest.approx(expected)
    assert all(parts["unknown"] == 0.0 for parts in scored)
    # OpenRLHF: a batch of texts
    layouts = [openrlhf_row(row, reward) for row in rows]
    prompts = [json.dumps(layout["prompt"]) for layout in layouts]
    queries = [prompt + critique for prompt, critique in zip(prompts, critiques(rows), strict=True)]
    returned = reward.openrlhf()(queries, prompts, [layout["label"] for layout in layouts])
    assert returned["rewards"].tolist() == pytest.approx(expected)
    assert torch.equal(returned["scores"], returned["rewards"])
    assert returned["extra_logs"]["r_dis"].tolist() == [parts["r_dis"] for parts in scored]


def test_the_prompt_never_holds_the_gold_answer(rows: list[dict[str, Any]]) -> None:
    reward = EngineReward(prompts="compact")
    for row in rows:
        asked = COMPACT.critique_prompt(row["question"], row["response"])
        assert verl_row(row, reward)["prompt"] == openrlhf_row(row, reward)["prompt"] == asked


def test_an_unknown_reward_is_said_and_never_a_grade(
    rows: list[dict[str, Any]], caplog: pytest.LogCaptureFixture
) -> None:
    reward = EngineReward(Silent(), **STAGE_2, when_unknown=-0.5)
    parts = reward.score(rows[0], critiques(rows)[0])
    assert parts == {"score": -0.5, "r_dis": 1.0, "acc_refine": 0.0, "unknown": 1.0}
    assert "is unknown" in caplog.text
    gated = EngineReward(Silent(), **STAGE_2, combination="gated")
    assert gated.score(rows[1], critiques(rows)[1])["score"] == -1.0  # a wrong verdict asks nobody
    ungraded = EngineReward(prompts="compact").score({**rows[0], "response_correct": None}, "")
    assert ungraded["unknown"] == 1.0


def test_what_is_missing_is_named(rows: list[dict[str, Any]]) -> None:
    with pytest.raises(UserError, match="lacks kind, response_correct; it has question"):
        EngineReward().score({k: rows[0][k] for k in ("question", "response", "answer")}, "")
    with pytest.raises(UserError, match="needs an actor"):
        EngineReward(refinement_reward="r_refine")
    with pytest.raises(UserError, match=r"no reward 'r_refin'\. Did you mean 'r_refine'"):
        EngineReward(Silent(), refinement_reward="r_refin")
