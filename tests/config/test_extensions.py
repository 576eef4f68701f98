"""A user's tasks, prompt sets, rewards and actors in a configured run, and problems from a user's file."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
from helpers import write_jsonl

from critique_rl.actors import BACKENDS
from critique_rl.cli import commands as cli
from critique_rl.config.run import load_config
from critique_rl.display import Display
from critique_rl.prompts import PROMPT_SETS
from critique_rl.reports.results import histories, result_rows
from critique_rl.rewards import REFINEMENT_REWARDS
from critique_rl.runs.run import Run
from critique_rl.tasks import TASKS, load_task
from critique_rl.types import UserError, problem_id

EXTENSION = '''
from dataclasses import replace

from critique_rl.actors import BACKENDS
from critique_rl.prompts import COMPACT, PROMPT_SETS
from critique_rl.rewards import REFINEMENT_REWARDS
from critique_rl.tasks import TASKS, Task, load_task
from critique_rl.tasks.modular_chain import Chain
from critique_rl.types import Generation


def load(*, source, split, seed, size=30):
    return load_task("modular_chain", split=split, seed=seed, size=size)


class Calculator:
    """Answers 0 at first, and calculates after a critique; `offset` makes the result wrong."""

    name = "calculator"

    def __init__(self, offset: int = 0) -> None:
        self.offset = offset

    def generate(self, prompts, sampling):
        texts = []
        for prompt in prompts:
            chain = Chain.parse(prompt[0]["content"])
            values = [(v + self.offset) % 10 for v in chain.values()]
            texts.append(chain.write(values if len(prompt) > 1 else [0] * len(values)))
        return [Generation(text, 1, len(text), truncated=False) for text in texts]


def r_twice(response_correct, refinement_correct):
    return None if refinement_correct is None else 2.0 * refinement_correct


TASKS["chains"] = Task("chains", "Chains.", ("number",), load, hub=None, licence="none")
PROMPT_SETS["mine"] = replace(COMPACT, name="mine")
REFINEMENT_REWARDS["r_twice"] = r_twice
BACKENDS["calculator"] = Calculator
'''

CONFIG = """
name: mine
extensions: [mine.py]
base: {base}
prompts: mine
threads: 1
train: [{{name: chains, options: {{size: 300}}, limit: 24}}]
actor: {{backend: calculator, offset: 0}}
pool: {{problems: 24, samples: 1, balanced: false}}
lengths: {{response: 24, critique: 48, refinement: 24}}
stages:
  stage2:
    label: Stage II
    checkpoint_rl_steps: 1
    trainer: {{rl_steps: 1, num_generations: 4, generation_batch_size: 16, per_device_train_batch_size: 16,
               refinement_reward: r_twice, beta_1: 0.2, bf16: false, gradient_checkpointing: false, use_cpu: true}}
evaluation:
  tasks: [{{name: chains, split: test, options: {{size: 300}}, limit: 8}}]
"""


@pytest.fixture(autouse=True)
def _registries() -> Iterator[None]:
    """Restores the registries: additions by an extension would stay for other tests."""
    known: list[dict[str, Any]] = [TASKS.data, PROMPT_SETS, REFINEMENT_REWARDS, BACKENDS]
    before = [dict(registry) for registry in known]
    yield
    for registry, content in zip(known, before, strict=True):
        registry.clear()
        registry.update(content)


@pytest.fixture
def config(tmp_path: Path) -> Path:
    (tmp_path / "mine.py").write_text(EXTENSION, encoding="utf-8")
    base = files("critique_rl") / "assets" / "tiny" / "sft"
    (tmp_path / "c.yaml").write_text(CONFIG.format(base=base), encoding="utf-8")
    return tmp_path / "c.yaml"


@pytest.mark.run
def test_a_configuration_names_what_an_extension_brings(config: Path, tmp_path: Path) -> None:
    run = Run(load_config(config, [f"output={tmp_path / 'run'}"]), display=Display(quiet=True))
    run.execute()
    rows, logs = result_rows(run.folder), histories(run.folder)
    shown = {row["method"]: row["metrics"] for row in rows}
    golds = [p.answer for p in run.context.problems(run.config.evaluation.tasks[0])]
    assert shown["No critic"]["acc"]["mean"] == pytest.approx(sum(g == "0" for g in golds) / len(golds))
    assert shown["Stage II"]["acc_refine"]["mean"] == 1.0
    assert logs["Stage II"][0][0]["reward/r_twice"] == 2.0
    assert run.config.extensions == [str(tmp_path / "mine.py")]


def test_bad_names_and_files_of_extensions(config: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no file at .*other\.py"):
        load_config(config, ["extensions=[other.py]"])
    with pytest.raises(UserError, match=r"no module 'not_installed\.thing' is installed"):
        load_config(config, ["extensions=[not_installed.thing]"])
    broken = tmp_path / "broken.py"
    for _ in range(2):  # the second time too
        broken.write_text("TASKS = undefined", encoding="utf-8")
        with pytest.raises(NameError, match="undefined"):
            load_config(config, ["extensions=[broken.py]"])
    broken.write_text("", encoding="utf-8")
    before = set(sys.modules)
    load_config(config, ["extensions=[mine.py, broken.py]"])
    assert len(set(sys.modules) - before) <= 2
    with pytest.raises(UserError, match=r"actor: unknown key 'offst'\. Did you mean 'offset'"):
        Run(load_config(config, ["actor={backend: calculator, offst: 1}"])).execute()


# --- problems from a user's file -------------------------------------------------------------------------


def test_fields_of_any_name(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"")
    path = write_jsonl(
        tmp_path / "test.jsonl",
        [
            {"problem": "2 + 3?", "gold": 5},
            {"problem": "Half?", "gold": 0.5, "why": "1 / 2 = 0.5"},
            {"problem": "Is it red?", "gold": "yes", "kind": "yes_no", "picture": "a.png"},
            {
                "problem": "Is it red?",
                "gold": "no",
                "kind": "yes_no",
                "picture": "data:image/png;base64,AAAA",
            },
        ],
    )
    found = load_task(
        *("custom",),
        source=str(path),
        split="test",
        kind="number",
        question="problem",
        answer="gold",
        solution="why",
        image="picture",
    )
    assert [(p.question, p.answer, p.solution, p.kind) for p in found] == [
        ("2 + 3?", "5", "", "number"),
        ("Half?", "0.5", "1 / 2 = 0.5", "number"),
        ("Is it red?", "yes", "", "yes_no"),
        ("Is it red?", "no", "", "yes_no"),
    ]
    assert [p.image for p in found] == [None, None, str(tmp_path / "a.png"), "data:image/png;base64,AAAA"]
    assert found[2].id == problem_id("Is it red?", "a.png") and len({p.id for p in found}) == 4


def test_one_file_gives_disjoint_splits(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "all.jsonl", ({"question": f"{i}?", "answer": i} for i in range(200)))
    shares = {"train": 0.8, "test": 0.2}
    parts = {s: load_task("custom", source=str(path), split=s, splits=shares) for s in shares}
    ids = {s: {p.id for p in of} for s, of in parts.items()}
    assert not ids["train"] & ids["test"] and len(ids["train"] | ids["test"]) == 200
    assert 20 < len(ids["test"]) < 60


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"question": "2?"}, r"test\.jsonl, line 2: missing field 'answer'"),
        ({"question": "2?", "answer": True}, r"line 2, field 'answer': found True, expected text"),
        ({"question": " ", "answer": 1}, r"line 2, field 'question': .* not empty"),
        ({"question": "2?", "answer": 1, "kind": "nubmer"}, r"line 2, field 'kind': .*one of math, number"),
        ({"question": "2?", "answer": 1, "image": "b.png"}, r"line 2, field 'image': .*a file, at .*b\.png"),
    ],
)
def test_a_bad_row_is_named(row: dict[str, Any], message: str, tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "test.jsonl", [{"question": "1?", "answer": 1}, row])
    with pytest.raises(UserError, match=message):
        load_task("custom", source=str(path), split="test")


def test_a_source_and_a_known_kind_are_needed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_jsonl(tmp_path / "test.jsonl", [{"question": "1?", "answer": "x"}])
    with pytest.raises(UserError, match="`source` is missing"):
        load_task("custom", split="test")
    with pytest.raises(UserError, match="kind 'text' is none of math, number"):
        load_task("custom", source=str(path), split="test", kind="text")
    assert cli.main(["check-data", "custom", str(path)]) == 0
    assert cli.main(["check-data", "custom", str(path), "--option", "kind=number"]) == 2
    assert "1 ungradable" in capsys.readouterr().out
