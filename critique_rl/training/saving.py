"""Save a trained model whole, however processes share its weights, and check what was written."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel, get_peft_model_state_dict
from safetensors import SafetensorError, safe_open
from transformers import PreTrainedModel, ProcessorMixin, Trainer

from critique_rl.manifest import in_short
from critique_rl.sharding import loading_whole
from critique_rl.types import UserError, first_line


def save_trained(trainer: Trainer, directory: Path) -> None:
    """Save the trained model; all processes call it.

    An adapter is saved alone: without the tokenizer, which training does not change and the base has, and without
    the reference of the KL, which is the start. A processor is saved, because a training may limit the size of
    images.

    Raises:
        UserError: Weights are missing in what was written, or hold NaN or infinity; rank 0 alone looks.
    """
    with gathering_weights(trainer), leaving_tokenizer_to_base(trainer):
        trainer.save_model(str(directory))
    if trainer.args.should_save:
        if isinstance(trainer.model, PeftModel):
            shutil.rmtree(directory / "ref", ignore_errors=True)
        check_saved(trainer.accelerator.unwrap_model(trainer.model), directory)


@contextmanager
def leaving_tokenizer_to_base(trainer: Trainer) -> Iterator[None]:
    """Let `Trainer.save_model` write no tokenizer inside for an adapter; of a real model it is 11 MB."""
    reader = trainer.processing_class
    if isinstance(trainer.model, PeftModel) and not isinstance(reader, ProcessorMixin):
        trainer.processing_class = None
    try:
        yield
    finally:
        trainer.processing_class = reader


@contextmanager
def gathering_weights(trainer: Trainer) -> Iterator[None]:
    """Let `Trainer.save_model` write whole weights inside.

    By default it writes none where accelerate cuts them into parts: FSDP keeps the part of each process, and
    ZeRO-3 gathers them for `zero3_save_16bit_model` alone.
    """
    plugin = getattr(trainer.accelerator.state, "fsdp_plugin", None)
    engine: Any = getattr(trainer, "deepspeed", None)
    kept: dict[str, Any] = {}
    if plugin is not None:
        names = ("state_dict_type", "state_dict_config", "optim_state_dict_config")
        kept = {name: getattr(plugin, name) for name in names}
        plugin.set_state_dict_type("FULL_STATE_DICT")
    if engine is not None:
        zero = engine._config.zero_config
        gathers, zero.gather_16bit_weights_on_model_save = zero.gather_16bit_weights_on_model_save, True
        _restore_names(trainer.model)
    try:
        yield
    finally:
        for name, value in kept.items():
            setattr(plugin, name, value)
        if engine is not None:
            zero.gather_16bit_weights_on_model_save = gathers


def _restore_names(model: Any) -> None:
    """Let a model save its weights under the names that it was loaded from.

    Under ZeRO-3 `transformers` notes all renamings that a model's class knows, and not those of its files: a model
    with vision would be saved with `model.model.` in its names, which no server reads.
    """
    if not isinstance(model, PeftModel) and getattr(model, "_weight_conversions", None):
        with loading_whole():
            plain: Any = _class_of(model).from_pretrained(model.config._name_or_path, device_map="meta")
        model._weight_conversions = getattr(plain, "_weight_conversions", None)


def _class_of(model: PreTrainedModel) -> Any:
    """The class of a model without that which FSDP2 puts before it."""
    return next(c for c in type(model).__mro__ if not c.__name__.startswith("FSDP"))


def check_saved(model: Any, directory: Path) -> None:
    """Refuse a folder that does not hold all weights of a model, whole and finite.

    Args:
        model: The model that was saved, whose own weights may be elsewhere.
        directory: What was written.

    Raises:
        UserError: The message names the first faults.
    """
    try:
        faults = (
            _missing_in_adapter(model, directory)
            if isinstance(model, PeftModel)
            else _missing(model, directory)
        )
        faults = faults or _faulty(directory)
    except (OSError, ValueError, SafetensorError) as error:
        faults = [first_line(error)]
    if faults:
        raise UserError(
            f"{directory} does not hold the whole model: {in_short(faults)}. The step is not finished: make "
            "room on the disk, and run the same command, which goes on from the last checkpoint."
        )


def _missing(model: PreTrainedModel, directory: Path) -> list[str]:
    """Weights of the model that `from_pretrained` does not find in a folder, or finds with another shape."""
    options: dict[str, Any] = {
        "device_map": "meta",
        "output_loading_info": True,
        "ignore_mismatched_sizes": True,
    }
    with loading_whole():
        _, report = _class_of(model).from_pretrained(directory, **options)
    lines = [f"{name} is missing" for name in sorted(report["missing_keys"])]
    return lines + [f"{name} has another shape" for name, *_ in sorted(report["mismatched_keys"])]


def _missing_in_adapter(model: PeftModel, directory: Path) -> list[str]:
    """Weights of the active adapter that its folder lacks, or holds with another shape."""
    whole = {name: getattr(p, "ds_shape", p.shape) for name, p in model.named_parameters()}
    state = {
        name: torch.empty(whole.get(name, weight.shape), device="meta")
        for name, weight in model.state_dict().items()
    }
    expected = get_peft_model_state_dict(model, state, adapter_name=model.active_adapter)
    lines = []
    with safe_open(directory / "adapter_model.safetensors", "pt") as saved:
        for name in sorted(expected):
            if name not in saved.keys():  # noqa: SIM118 - it is no mapping
                lines.append(f"{name} is missing")
            elif list(expected[name].shape) != saved.get_slice(name).get_shape():
                lines.append(f"{name} has another shape")
    return lines


def _faulty(directory: Path) -> list[str]:
    """Weights in a folder that are empty or hold NaN or infinity."""
    faults = []
    for file in sorted(directory.glob("*.safetensors")):
        with safe_open(file, "pt") as saved:
            for name in saved.keys():  # noqa: SIM118 - it is no mapping
                weight = saved.get_tensor(name)
                if not weight.numel():
                    faults.append(f"{name} is empty")
                elif weight.is_floating_point() and not weight.isfinite().all():
                    faults.append(f"{name} holds NaN or infinity")
    return faults
