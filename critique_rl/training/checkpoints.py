"""TODO docstring."""

from __future__ import annotations

from pathlib import Path

from peft import PeftConfig, PeftModel
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText

from critique_rl.records import is_first_process
from critique_rl.types import UserError
from critique_rl.vision.models import is_vision_model


def copy_model(source: str, directory: Path) -> None:
    """Copy a model and its tokenizer or processor from a directory or the hub; only the first process writes."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from critique_rl.vision.models import is_vision_model, load_processor, load_vision_model

    if not is_first_process():
        return
    if is_vision_model(source):
        load_vision_model(source).save_pretrained(directory)
        load_processor(source).save_pretrained(directory)
    else:
        AutoModelForCausalLM.from_pretrained(source).save_pretrained(directory)
        AutoTokenizer.from_pretrained(source).save_pretrained(directory)


def merge_adapter(path: str, directory: Path) -> str:
    """Write the whole weights of a vision-language model that was saved as an adapter, and where they are."""
    from critique_rl.training.checkpoints import load_critic
    from critique_rl.vision.models import load_processor

    load_critic(path).merge_and_unload().save_pretrained(directory)  # type: ignore[union-attr]
    load_processor(path).save_pretrained(directory)
    return str(directory)


def last_checkpoint(directory: str | Path) -> str | None:
    """The newest checkpoint that is whole: `trainer_state.json` is the file that transformers writes last."""
    found = [p.parent for p in Path(directory).glob("checkpoint-*/trainer_state.json")]
    return str(max(found, key=lambda p: int(p.name.rpartition("-")[2]))) if found else None


def convert_gguf(source: str, gguf_file: str, directory: Path) -> None:
    """Write a GGUF model in the layout that trl loads.

    Raises:
        UserError: It cannot be loaded.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

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


def load_critic(path: str) -> str | PeftModel:
    """What a stage starts from, so that its reference is exactly that.

    A directory of full weights is returned as it is: trl loads policy and reference from it. An adapter is
    loaded as trainable, and trl keeps a frozen copy of it as the reference; anything else would anchor the
    KL to the adapter's base model.
    """
    if not (Path(path) / "adapter_config.json").exists():
        return path
    base = PeftConfig.from_pretrained(path).base_model_name_or_path
    loader = AutoModelForImageTextToText if is_vision_model(str(base)) else AutoModelForCausalLM
    return PeftModel.from_pretrained(loader.from_pretrained(base), path, is_trainable=True)
