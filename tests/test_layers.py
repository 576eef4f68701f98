"""The contract of layers in pyproject.toml: it holds, and an import that runs upwards breaks it."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import ROOT, environment


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """The package's Python files and its contract, in another folder."""
    python = shutil.ignore_patterns("assets", "__pycache__", "*.js", "*.css", "*.html", "*.yaml", "*.md")
    shutil.copytree(ROOT / "critique_rl", tmp_path / "critique_rl", ignore=python)
    (tmp_path / "critique_rl" / "assets").mkdir()
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


def lint(checkout: Path) -> tuple[int, str]:
    """Exit code and output of `lint-imports`, on the copy and not on the installed package."""
    program = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run(
        [sys.executable, str(program), "--no-cache"],
        cwd=checkout,
        env=environment(PYTHONPATH=str(checkout), COLUMNS="200"),
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


def test_the_layers_hold(checkout: Path) -> None:
    code, output = lint(checkout)
    assert code == 0 and "0 broken" in output, output


@pytest.mark.parametrize(
    ("module", "line", "broken"),
    [
        ("types.py", "import critique_rl.cli.commands", "critique_rl.types -> critique_rl.cli.commands"),
        ("prompts.py", "from critique_rl import pairwise_rewards", "critique_rl.prompts -> critique_rl.pair"),
        (
            "view/gather.py",
            "from critique_rl.runs import run",
            "critique_rl.view.gather -> critique_rl.runs.run",
        ),
    ],
    ids=["upwards", "beside", "a page that plans a run"],
)
def test_a_forbidden_import_is_named_and_fails_also_inside_a_function(
    checkout: Path, module: str, line: str, broken: str
) -> None:
    path = checkout / "critique_rl" / module
    text = path.read_text(encoding="utf-8") + f"\n\ndef planted() -> None:\n    {line}\n"
    path.write_text(text, encoding="utf-8")
    code, output = lint(checkout)
    assert code == 1 and "1 broken" in output, output
    assert broken in output and f"l.{text.count(chr(10))}" in output, output
