"""Tests of the trainers' options: trl's command-line parser reads them, and files of former versions load."""

from __future__ import annotations

import io
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import torch
from trl import TrlParser

from critique_rl import PairwiseCriticConfig, Stage1Config, Stage2Config
from critique_rl.training.config import SOURCE, CriticConfig

CPU = {"bf16": False, "use_cpu": True}


@pytest.mark.parametrize("cls", [Stage1Config, Stage2Config, PairwiseCriticConfig])
def test_trls_parser_reads_and_explains_the_options(cls: type[CriticConfig], tmp_path: Path) -> None:
    parser = TrlParser((cls,))
    arguments = ["--output_dir", str(tmp_path), "--bf16", "False", "--use_cpu", "True", "--rl_steps", "3"]
    (args,) = parser.parse_args_and_config(arguments)
    assert isinstance(args, cls) and args.max_steps == 3 * args.optimizer_steps_per_rl_step
    options = {field.name for field in fields(cls) if SOURCE in field.metadata.get("help", "")}
    assert {"rl_steps", "learning_rate"} <= options
    assert "sets `max_steps`" in " ".join(parser.format_help().split())


@pytest.mark.parametrize(
    ("former", "cls"),
    [
        ("critique_rl.stages", Stage1Config),
        ("critique_rl.stages", Stage2Config),
        ("critique_rl.pairwise", PairwiseCriticConfig),
        ("critique_rl.trainer", CriticConfig),
    ],
)
def test_training_args_that_name_a_former_module_load(
    former: str, cls: type[CriticConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    args = cls(output_dir=str(tmp_path), beta=0.03, **CPU)
    written = io.BytesIO()
    with monkeypatch.context() as before:
        before.setattr(cls, "__module__", former)
        torch.save(args, written)
    assert f"c{former}\n{cls.__name__}\n".encode() in written.getvalue()
    read: Any = torch.load(io.BytesIO(written.getvalue()), weights_only=False)
    assert type(read) is cls and read.beta == 0.03
