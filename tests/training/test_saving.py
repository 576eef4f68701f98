"""What a training has written is the whole model, or the step is not finished."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from helpers import LORA, adapter_of
from peft import LoraConfig, PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText

from critique_rl.runs.folder import shipped_directory
from critique_rl.training.checkpoints import last_checkpoint
from critique_rl.training.saving import check_saved
from critique_rl.training.stages import Stage1Trainer
from critique_rl.types import UserError

NAME = "model.layers.0.mlp.gate_proj.weight"
"""A weight as the files of both kinds of model name it."""


def change(directory: Path, name: str, weight: torch.Tensor | None, file: str = "model.safetensors") -> None:
    """Replace a weight in a saved model, or leave it out."""
    weights = load_file(directory / file)
    del weights[name]
    save_file(weights if weight is None else {**weights, name: weight}, directory / file, {"format": "pt"})


@pytest.fixture(params=["tiny", "tiny-vl"])
def saved(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return Path(shutil.copytree(shipped_directory(f"assets/{request.param}") / "sft", tmp_path / "saved"))


def test_whole_weights_pass_and_others_are_refused(saved: Path) -> None:
    auto = (
        AutoModelForImageTextToText if "vl" in (saved / "config.json").read_text() else AutoModelForCausalLM
    )
    model = auto.from_pretrained(saved)
    check_saved(model, saved)
    whole = load_file(saved / "model.safetensors")[NAME]
    bad = whole.clone()
    bad[0, 0] = torch.nan
    for weight, reason in (
        (bad, "holds NaN or infinity"),
        (whole[:1].contiguous(), "has another shape"),
        (torch.zeros(0), "has another shape"),
        (None, "is missing"),
    ):
        shutil.copytree(saved, saved.with_name("changed"), dirs_exist_ok=True)
        change(saved.with_name("changed"), NAME, weight)
        with pytest.raises(UserError, match=rf"does not hold the whole model: .*gate_proj.weight {reason}"):
            check_saved(model, saved.with_name("changed"))
    (saved / "model.safetensors").write_bytes((saved / "model.safetensors").read_bytes()[:-8])
    with pytest.raises(UserError, match="does not hold the whole model"):
        check_saved(model, saved)
    (saved / "model.safetensors").unlink()  # as transformers leaves it where each process keeps its part
    with pytest.raises(UserError, match="does not hold the whole model"):
        check_saved(model, saved)


def test_an_adapter_is_checked_by_itself(tmp_path: Path) -> None:
    base = shipped_directory("assets/tiny") / "sft"
    adapter = adapter_of(base, tmp_path / "adapter")
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), adapter)
    check_saved(model, adapter)
    name = next(iter(load_file(adapter / "adapter_model.safetensors")))
    assert any(module in name for module in LORA["target_modules"])
    whole = load_file(adapter / "adapter_model.safetensors")[name]
    for weight, reason in ((whole[:1].contiguous(), "has another shape"), (None, "is missing")):
        change(adapter, name, weight, "adapter_model.safetensors")
        with pytest.raises(UserError, match=f"{name} {reason}"):
            check_saved(model, adapter)


def test_a_checkpoint_of_an_adapter_leaves_the_tokenizer_to_the_base(
    critic_dir: Path, pool: Dataset, config: Callable[..., Any], tmp_path: Path
) -> None:
    for lora, kept in ((LoraConfig(**LORA), False), (None, True)):
        args = config(rl_steps=1, save_strategy="steps", save_steps=2, output_dir=str(tmp_path / str(kept)))
        trainer = Stage1Trainer(critic_dir, args=args, train_dataset=pool, peft_config=lora)
        trainer.train()
        checkpoint = last_checkpoint(tmp_path / str(kept))
        assert checkpoint is not None and (Path(checkpoint) / "tokenizer.json").exists() == kept
        assert trainer.processing_class is not None
