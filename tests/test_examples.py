"""The examples are short, use public names alone, and train."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import re
import runpy
import sys
from importlib.resources import files
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from critique_rl import rewards
from critique_rl.prompts import Verdict

ROOT = Path(__file__).resolve().parent.parent
LONGEST = {"rl_loop": 100, "train_critic": 60}
"""Most lines of each example."""
NUMBER = r"(-?\d+\.\d+)"
LINE = re.compile(
    rf"Stage (\d) step +(\d+): Acc@Dis {NUMBER}, Acc@Refine {NUMBER}, reward {NUMBER}, KL {NUMBER}"
)


def example(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"example_{name}", ROOT / "examples" / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def weights(folder: str | Path) -> torch.Tensor:
    model = AutoModelForCausalLM.from_pretrained(str(folder))
    return torch.nn.utils.parameters_to_vector(model.parameters()).detach()


def sft_critic() -> torch.Tensor:
    return weights(str(files("critique_rl") / "assets" / "tiny" / "sft"))


def steps_of(printed: str) -> list[dict[str, float]]:
    """The lines of the loop, as numbers by name."""
    names = ("stage", "step", "acc_dis", "acc_refine", "reward", "kl")
    return [dict(zip(names, map(float, line), strict=True)) for line in LINE.findall(printed)]


# -- form ---------------------------------------------------------------------------------------------------


def test_every_example_has_a_limit() -> None:
    assert {path.stem for path in (ROOT / "examples").glob("*.py")} == set(LONGEST)


@pytest.mark.parametrize("name", LONGEST)
def test_an_example_is_short(name: str) -> None:
    lines = (ROOT / "examples" / f"{name}.py").read_text(encoding="utf-8").splitlines()
    assert len(lines) <= LONGEST[name]


@pytest.mark.parametrize("name", LONGEST)
def test_an_example_uses_documented_public_names_alone(name: str) -> None:
    pages = "".join(page.read_text(encoding="utf-8") for page in (ROOT / "docs" / "reference").glob("*.md"))
    documented = {"critique_rl", *re.findall(r"^::: (critique_rl[\w.]*)", pages, re.MULTILINE)}
    tree = ast.parse((ROOT / "examples" / f"{name}.py").read_text(encoding="utf-8"))
    used = 0
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            assert not node.attr.startswith("_"), node.attr
        if isinstance(node, ast.Import):
            assert not any(alias.name.startswith("critique_rl") for alias in node.names), "import its names"
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("critique_rl"):
            module = str(node.module)
            shown = (part for part in documented if module == part or module.startswith(f"{part}."))
            assert any(shown), f"{module} is not in docs/reference"
            for alias in node.names:
                assert not alias.name.startswith("_"), alias.name
                if not hasattr(importlib.import_module(module), alias.name):
                    importlib.import_module(f"{module}.{alias.name}")
                used += 1
    assert used > 5


@pytest.mark.parametrize("name", LONGEST)
def test_the_readme_shows_the_command_and_an_excerpt(name: str) -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert f"python examples/{name}.py" in readme
    after = readme.partition(f"(examples/{name}.py)")[2]
    (excerpt,) = re.findall(r"^```python\n(.*?)^```$", after, re.MULTILINE | re.DOTALL)[:1]
    code = (ROOT / "examples" / f"{name}.py").read_text(encoding="utf-8")
    lines = [line.partition("  #")[0].strip() for line in excerpt.splitlines() if line != "..."]
    assert len(lines) > 5
    assert [line for line in lines if line not in code] == []


# -- the loop -------------------------------------------------------------------------------------------------


def loop(steps: int, seed: int, capsys: pytest.CaptureFixture[str], batch: int = 8) -> tuple[Any, list[Any]]:
    """Run the loop; its critic's weights, and what it printed."""
    module = example("rl_loop")
    module.B = batch  # type: ignore[attr-defined]
    critic = module.train(steps, seed)
    return torch.nn.utils.parameters_to_vector(critic.parameters()).detach(), steps_of(
        capsys.readouterr().out
    )


@pytest.mark.slow
def test_the_loop_trains_both_stages_and_repeats_itself(capsys: pytest.CaptureFixture[str]) -> None:
    critic, steps = loop(2, 0, capsys)
    assert [(step["stage"], step["step"]) for step in steps] == [(1, 1), (1, 2), (2, 1), (2, 2)]
    for step in steps:
        assert 0.0 <= step["acc_dis"] <= 1.0 and 0.0 <= step["acc_refine"] <= 1.0
        stage2 = step["acc_refine"] + 0.2 * step["acc_dis"]
        assert step["reward"] == pytest.approx(step["acc_dis"] if step["stage"] == 1 else stage2, abs=0.011)
        assert (step["kl"] == 0.0) == (step["step"] == 1), "each stage starts as its own reference"
    assert critic.isfinite().all() and not critic.equal(sft_critic())
    again, same_steps = loop(2, 0, capsys)
    assert same_steps == steps and again.equal(critic)
    assert loop(2, 1, capsys)[1] != steps


@pytest.mark.slow
def test_the_loop_raises_its_reward(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a reward that is easy to learn, so that a few steps are enough."""
    monkeypatch.setattr(rewards, "r_dis", lambda verdict, response_correct: float(verdict is Verdict.WRONG))
    steps = [step["reward"] for step in loop(3, 0, capsys, batch=16)[1] if step["stage"] == 1]
    assert steps[-1] > steps[0] + 0.3, steps


@pytest.mark.slow
def test_the_loop_has_a_command_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["rl_loop.py", "--steps", "1", "--seed", "3"])
    runpy.run_path(str(ROOT / "examples" / "rl_loop.py"), run_name="__main__")
    assert [step["stage"] for step in steps_of(capsys.readouterr().out)] == [1, 2]


# -- the trainers -----------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.slow
def test_the_trainers_train_and_save_both_stages(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    module = example("train_critic")
    small = {"generation_batch_size": 16, "per_device_train_batch_size": 16}
    monkeypatch.setattr(module, "SETTINGS", {**module.SETTINGS, **small})

    def run(folder: Path, seed: int) -> tuple[list[str], list[torch.Tensor]]:
        module.train(1, str(folder), seed)
        printed = re.findall(rf"(Stage I+): Acc@Dis {NUMBER} -> {NUMBER}", capsys.readouterr().out)
        assert [name for name, *_ in printed] == ["Stage I", "Stage II"]
        return printed, [weights(folder / name) for name in ("stage1", "stage2")]

    printed, (stage1, stage2) = run(tmp_path / "a", 0)
    assert all(0.0 <= float(value) <= 1.0 for _, *values in printed for value in values)
    assert not stage1.equal(sft_critic()) and not stage2.equal(stage1)
    assert stage1.isfinite().all() and stage2.isfinite().all()
    printed_again, (stage1_again, stage2_again) = run(tmp_path / "b", 0)
    assert printed_again == printed and stage1_again.equal(stage1) and stage2_again.equal(stage2)
