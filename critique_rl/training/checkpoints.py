"""Models on disk: the start of a training, its newest checkpoint, and copies in the layout that trl loads."""

from __future__ import annotations

from pathlib import Path

import torch
from peft import PeftConfig, PeftModel
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText, AutoTokenizer

from critique_rl.records import is_first_process
from critique_rl.types import UserError
from critique_rl.vision.models import is_vision_model, load_processor, load_vision_model


def load_critic(path: str) -> str | PeftModel:
    """Load the start of a training, a directory or hub id, so that the reference of its KL is exactly that model.

    Full weights stay a path: trl loads policy and reference from it. An adapter is loaded as trainable: trl keeps
    a frozen copy of it as the reference, where a path would anchor the KL to its base.
    """
    if not (Path(path) / "adapter_config.json").exists():
        return path
    base = PeftConfig.from_pretrained(path).base_model_name_or_path
    loader = AutoModelForImageTextToText if is_vision_model(str(base)) else AutoModelForCausalLM
    return PeftModel.from_pretrained(loader.from_pretrained(base), path, is_trainable=True)


def last_checkpoint(directory: str | Path) -> str | None:
    """Return the newest complete checkpoint; transformers writes its `trainer_state.json` last."""
    complete = [path.parent for path in Path(directory).glob("checkpoint-*/trainer_state.json")]
    return str(max(complete, key=lambda path: int(path.name.rpartition("-")[2]))) if complete else None


def copy_model(source: str, directory: Path) -> None:
    """Copy a model and its tokenizer or processor from a directory or the hub; only rank 0 writes."""
    if not is_first_process():
        return
    if is_vision_model(source):
        load_vision_model(source).save_pretrained(directory)
        load_processor(source).save_pretrained(directory)
    else:
        AutoModelForCausalLM.from_pretrained(source).save_pretrained(directory)
        AutoTokenizer.from_pretrained(source).save_pretrained(directory)


def merge_adapter(path: str, directory: Path) -> str:
    """Write the whole weights of a vision-language model that was saved as an adapter; return their directory."""
    load_critic(path).merge_and_unload().save_pretrained(directory)  # type: ignore[union-attr]
    load_processor(path).save_pretrained(directory)
    return str(directory)


def convert_gguf(source: str, gguf_file: str, directory: Path) -> None:
    """Write a GGUF model as float32 weights with their tokenizer, which trl loads.

    Raises:
        UserError: transformers cannot load the file.
    """
    try:
        model = AutoModelForCausalLM.from_pretrained(source, gguf_file=gguf_file, dtype=torch.float32)
        tokenizer = AutoTokenizer.from_pretrained(source, gguf_file=gguf_file)
    except (OSError, ValueError) as error:
        raise UserError(f"base: cannot load {gguf_file} from {source}: {error}") from error
    # transformers dequantises on loading but still calls the model quantised, and refuses to save it.
    del model.config.quantization_config
    plain = AutoModelForCausalLM.from_config(model.config, dtype=torch.float32)
    plain.load_state_dict(model.state_dict())
    plain.generation_config = model.generation_config
    plain.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
