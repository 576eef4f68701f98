"""What the tests of the core share: no network, one thread, a tiny critic and a tiny actor made on the spot.

A model with random weights rewards every critique alike, so that each gradient is zero and each test passes.
These two are taught some texts first: the critic's verdicts are noisy, the actor's answers sometimes right.
"""

from __future__ import annotations

import os

os.environ.update(
    HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1", HF_HUB_DISABLE_TELEMETRY="1", TOKENIZERS_PARALLELISM="false"
)

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pytest
import torch
from datasets import Dataset
from helpers import teach, write_critique, write_response
from transformers.utils import logging as transformers_logging

from critique_rl.prompts import COMPACT
from critique_rl.tasks import load_task
from critique_rl.training.stage_config import CritiqueConfig, Stage1Config
from critique_rl.types import Problem

SLOW_MARKS = {"docs", "notebooks", "browser", "processes", "run"}
SLOW_FIXTURES = {
    "browser",
    "finished",
    "judge_dir",
    "judging_dir",
    "made",
    "seeing",
    "site",
    "solo_dir",
    "transformers_serve",
}
"""Whoever asks for one of these waits for it: it trains, builds, or starts something."""

torch.set_num_threads(1)
datasets.disable_progress_bars()
transformers_logging.disable_progress_bar()


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        marks = {mark.name for mark in item.iter_markers()}
        if marks & SLOW_MARKS or SLOW_FIXTURES & {*getattr(item, "fixturenames", ())}:
            item.add_marker(pytest.mark.slow)


@pytest.fixture(scope="session")
def problems() -> list[Problem]:
    """Chains of one step whose answer is not 0, which is the wrong value in `pool`."""
    return [p for p in load_task("modular_chain", split="train", steps=1, size=105) if p.answer != "0"]


@pytest.fixture(scope="session")
def critic_dir(tmp_path_factory: pytest.TempPathFactory, problems: list[Problem]) -> Path:
    """A critic whose verdict is right in 60 %, not in 30 %, and missing in 10 % of its critiques."""
    rng = random.Random(0)
    chats = []
    for problem in problems * 6:
        value = rng.choice([0, int(problem.answer)])
        response = write_response(problem, value)
        right, other = ("Correct", "Wrong") if value else ("Wrong", "Correct")
        verdict = rng.choices([right, other, None], [6, 3, 1])[0]
        critique = write_critique(response, int(problem.answer), verdict)
        chats.append((COMPACT.critique_prompt(problem.question, response), critique))
    directory = tmp_path_factory.mktemp("models") / "critic"
    teach(directory, chats, seed=0, steps=150)
    return directory


@pytest.fixture(scope="session")
def actor_dir(tmp_path_factory: pytest.TempPathFactory, problems: list[Problem]) -> Path:
    """An actor that answers at random and, refining, mostly takes over what a critique explains."""
    rng = random.Random(1)
    chats = []
    for problem in problems * 3:
        response = write_response(problem, rng.choice([0, int(problem.answer)]))
        chats.append((COMPACT.reasoning_prompt(problem.question), response))
        critique = write_critique(response, rng.randrange(10), rng.choice(["Correct", "Wrong"]))
        refined = write_response(problem, int(critique.split("Explanation: ")[1][0]))
        chats.append((COMPACT.refinement_prompt(problem.question, response, critique), refined))
    directory = tmp_path_factory.mktemp("models") / "actor"
    teach(directory, chats, seed=1, steps=100)
    return directory


@pytest.fixture(scope="session")
def pool(problems: list[Problem]) -> Dataset:
    """Each question with a right and a wrong response, in shuffled order; a wrong response says 0."""
    rows = [
        {
            "question": problem.question,
            "answer": problem.answer,
            "kind": problem.kind,
            "response": write_response(problem, value),
            "response_correct": str(value) == problem.answer,
        }
        for problem in problems
        for value in (int(problem.answer), 0)
    ]
    random.Random(0).shuffle(rows)
    return Dataset.from_list(rows)


@pytest.fixture
def config(tmp_path: Path) -> Callable[..., CritiqueConfig]:
    """Configurations for the tiny critic; keywords replace the settings here."""

    def make(cls: type[CritiqueConfig] = Stage1Config, /, **settings: Any) -> CritiqueConfig:
        defaults: dict[str, Any] = {
            "output_dir": str(tmp_path / "run"),
            "use_cpu": True,
            "bf16": False,
            "gradient_checkpointing": False,
            "report_to": "none",
            "disable_tqdm": True,
            "prompts": "compact",
            "per_device_train_batch_size": 16,
            "max_completion_length": 20,
            "learning_rate": 1e-3,
            "temperature": 1.0,
            "rl_steps": 1,
        }
        return cls(**(defaults | settings))

    return make
