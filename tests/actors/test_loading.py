"""Adapters as frozen models: how their weights join those of the base."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, Qwen2Config, Qwen2ForCausalLM

from critique_rl.actors.loading import load_frozen

LAYER = "model.layers.0.mlp.up_proj"


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model in float32; most of its weights lie between two numbers of bfloat16."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 64, "intermediate_size": 256, "num_hidden_layers": 1, "vocab_size": 32}
    directory = tmp_path_factory.mktemp("base")
    Qwen2ForCausalLM(Qwen2Config(num_attention_heads=2, num_key_value_heads=1, **sizes)).save_pretrained(
        directory
    )
    return directory


def adapter_that_adds(amount: float, base: Path, directory: Path) -> Path:
    """A saved adapter that adds `amount` to each weight of one layer."""
    lora = LoraConfig(r=1, lora_alpha=1, target_modules=[LAYER])
    model: Any = get_peft_model(AutoModelForCausalLM.from_pretrained(base), lora)
    layer = model.get_submodule(f"base_model.model.{LAYER}")
    layer.lora_A["default"].weight.data.fill_(1.0)
    layer.lora_B["default"].weight.data.fill_(amount)
    model.save_pretrained(directory)
    return directory


def weight(model: Any) -> torch.Tensor:
    return model.get_submodule(LAYER).weight.detach().double()


@pytest.mark.parametrize("dtype", ["bfloat16", torch.bfloat16])
def test_bfloat16_keeps_what_an_adapter_changes_by_less_than_its_precision(
    base: Path, tmp_path: Path, dtype: str | torch.dtype
) -> None:
    """Half of the distance between two numbers of bfloat16 near 0.02 is 6e-5."""
    amount = 2e-5
    adapter = adapter_that_adds(amount, base, tmp_path)
    plain = weight(AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32))
    model = load_frozen(AutoModelForCausalLM, str(adapter), dtype=dtype)
    assert model.dtype == torch.bfloat16
    assert (weight(model) - plain).mean().item() == pytest.approx(amount, rel=0.1)
    exact = load_frozen(AutoModelForCausalLM, str(adapter), dtype=torch.float32)
    torch.testing.assert_close(weight(exact), plain + amount, rtol=0, atol=1e-8)


def test_an_adapter_takes_the_type_of_the_file_of_its_base(base: Path, tmp_path: Path) -> None:
    adapter = adapter_that_adds(0.5, base, tmp_path / "adapter")
    AutoModelForCausalLM.from_pretrained(base, dtype=torch.bfloat16).save_pretrained(tmp_path / "half")
    for named, expected in ((base, torch.float32), (tmp_path / "half", torch.bfloat16)):
        model = load_frozen(AutoModelForCausalLM, str(adapter), base=str(named), dtype="auto")
        assert model.dtype == expected and weight(model).mean().item() == pytest.approx(0.5, abs=0.01)
