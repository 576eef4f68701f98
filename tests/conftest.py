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
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import datasets
import pytest
import torch
from datasets import Dataset
from transformers.utils import logging as transformers_logging

from critique_rl.cold_start.tiny import build_model, build_tokenizer
from critique_rl.prompts import COMPACT, STEP_LABEL, VERDICT_LABEL
from critique_rl.tasks import load_task
from critique_rl.training.stage_config import CritiqueConfig, Stage1Config
from critique_rl.types import Conversation, Problem

MINI = """
name: mini
base: tiny
prompts: compact
seeds: [0]
threads: 1
train:
  - {name: modular_chain, options: {steps: 1, size: 105}}
cold_start:
  base:
    solver: {wrong_facts: 0.5, conviction: 0.5}
    annotator: {}
    passes:
      - reasoning: 80
        critiques: 100
        refinements: 240
        sft: {<<: &cpu {gradient_checkpointing: false}, learning_rate: 5.0e-3, lr_scheduler_type: constant,
              per_device_train_batch_size: 16, num_train_epochs: 4, max_length: 128}
  teacher:
    kind: scripted
    solver: {wrong_facts: 0.5, conviction: 0.6}
    annotator: {miss: 0.4, false_alarm: 0.2}
  reasoning: 60
  refinements: 40
  critiques: 80
  actor_sft: &sft {<<: *cpu, learning_rate: 2.0e-3, per_device_train_batch_size: 20}
  critic_sft: *sft
pool: {problems: 40, samples: 2}
lengths: {response: 20, critique: 32, refinement: 20}
stages:
  stage1:
    label: Stage I
    checkpoint_rl_steps: 1
    trainer: &rl {<<: *cpu, rl_steps: 2, generation_batch_size: 16, per_device_train_batch_size: 16,
                  learning_rate: 1.0e-3, temperature: 1.0}
  stage2:
    label: Stage I+II
    start: stage1
    trainer: {<<: *rl, refinement_reward: r_refine}
evaluation:
  protocol: {response_temperature: 0.7, critique_temperature: 1.0}
  tasks:
    - {name: modular_chain, split: test, limit: 16, options: {steps: 1, size: 105}}
"""
"""A whole run within seconds: its cold start, both stages and their evaluation."""

torch.set_num_threads(1)
datasets.disable_progress_bars()
transformers_logging.disable_progress_bar()


def write_response(problem: Problem, value: int) -> str:
    """A one-step response that claims `value`; a wrong one leaves its step open, which is easy to see."""
    step = problem.solution.split("=")[0]
    return f"{step}={value if str(value) == problem.answer else '?'}\nThe answer is {value}"


def write_critique(response: str, value: int, verdict: str | None) -> str:
    """A critique of a one-step response, without its last line if `verdict` is None."""
    lines = [f"{STEP_LABEL} {response.splitlines()[0]}", f"Explanation: {value}"]
    return "\n".join(lines if verdict is None else [*lines, f"{VERDICT_LABEL} {verdict}"])


def teach(directory: Path, chats: Sequence[tuple[Conversation, str]], *, seed: int, steps: int) -> None:
    """Write a tiny model that was trained for `steps` steps on replies to conversations."""
    tokenizer = build_tokenizer()
    model = build_model(tokenizer, seed=seed)
    rows = []
    for prompt, reply in chats:
        asked = tokenizer.apply_chat_template(prompt, add_generation_prompt=True)["input_ids"]
        told = tokenizer(reply)["input_ids"] + [tokenizer.eos_token_id]
        rows.append((asked + told, [-100] * len(asked) + told))
    width = max(len(ids) for ids, _ in rows)
    ids_NT = torch.tensor([ids + [tokenizer.pad_token_id] * (width - len(ids)) for ids, _ in rows])
    labels_NT = torch.tensor([labels + [-100] * (width - len(labels)) for _, labels in rows])
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        batch = torch.randint(len(rows), (24,), generator=generator)
        loss = model(input_ids=ids_NT[batch], labels=labels_NT[batch]).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)


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
