"""Models on disk: the start of a training, its newest checkpoint, and copies in the layout that trl loads."""

from __future__ import annotations

import json
import logging
import shutil
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from safetensors import SafetensorError, safe_open
from transformers import (
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoTokenizer,
    Trainer,
)
from transformers.trainer import TRAINER_STATE_NAME
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME

from critique_rl.adapters import base_of, is_adapter
from critique_rl.manifest import MANIFEST, damages, in_short, read_manifest, seal
from critique_rl.records import is_first_process
from critique_rl.sharding import loading_whole
from critique_rl.types import UserError
from critique_rl.vision.models import is_vision_model, load_processor, load_vision_model

logger = logging.getLogger(__name__)


def load_critic(path: str, options: Mapping[str, Any] | None = None) -> str | PeftModel:
    """Load the start of a training, a directory or hub id, so that the reference of its KL is exactly that model.

    Full weights stay a path: trl loads policy and reference from it. An adapter is loaded as trainable: trl keeps
    a frozen copy of it as the reference, where a path would anchor the KL to its base.

    Args:
        path: Directory or hub id.
        options: Arguments of `from_pretrained` for the base of an adapter, such as `dtype`.
    """
    if not is_adapter(path):
        return path
    base = base_of(path)
    loader = AutoModelForImageTextToText if is_vision_model(base) else AutoModelForCausalLM
    return PeftModel.from_pretrained(loader.from_pretrained(base, **(options or {})), path, is_trainable=True)


def last_checkpoint(
    directory: str | Path, *, owner: str = "", note: Callable[[str], None] = logger.warning
) -> str | None:
    """Return the newest whole checkpoint of a training; None where it has to start anew.

    A checkpoint is whole if each file has the size and the checksum in its manifest, which is written last.
    Earlier versions wrote none: a checkpoint without one, and older than all with one, is whole if all files that
    resuming reads are there and can be read.

    Args:
        directory: Output of the training.
        owner: Identity of the training, see `seal_checkpoint`; empty checks none.
        note: Called with a line for each newer checkpoint that is not whole.

    Raises:
        UserError: The checkpoint is of another training; or one that was whole is damaged and no other is left.
    """
    numbered = _numbered(directory)
    for path in sorted(set(Path(directory).glob("checkpoint-*")) - set(numbered.values())):
        note(f"{path} is left out: its name does not end in a step.")
    sealed = [step for step, path in numbered.items() if (path / MANIFEST).exists()]
    faults: dict[Path, str] = {}
    for step, path in sorted(numbered.items(), reverse=True):
        fault = _fault(path, step, owner) if step in sealed else ""
        if step not in sealed and step < min(sealed, default=step + 1):
            fault = _gap(path, step)
        elif step not in sealed:
            fault = f"it has no {MANIFEST}, so it was never finished"
        if not fault:
            for faulty, why in faults.items():
                note(f"{faulty} is left out: {why}. The training goes on from {path}.")
            return str(path)
        faults[path] = fault
    if any((path / MANIFEST).exists() for path in faults):
        lines = "; ".join(f"{path.name}: {why}" for path, why in faults.items())
        raise UserError(
            f"{directory} has no whole checkpoint left ({lines}): bring the files back, or delete "
            f"{Path(directory) / 'checkpoint-*'} to start that training anew."
        )
    for path, why in faults.items():
        note(f"{path} is left out: {why}. The training starts anew.")
    return None


@contextmanager
def sealed_checkpoint(trainer: Trainer, output: Path, owner: str) -> Iterator[None]:
    """Save a checkpoint inside; once all processes have, it gets its manifest, and older ones are dropped.

    transformers would drop the one before while this one may still be cut short.
    """
    path = output / f"checkpoint-{trainer.state.global_step}"
    limit, trainer.args.save_total_limit = trainer.args.save_total_limit, None
    if trainer.args.should_save and path.exists():  # of an attempt that was interrupted
        shutil.rmtree(path)
    trainer.accelerator.wait_for_everyone()
    try:
        yield
    finally:
        trainer.args.save_total_limit = limit
    trainer.accelerator.wait_for_everyone()  # each process writes its random state
    if trainer.args.should_save:
        seal_checkpoint(path, owner)
        drop_old_checkpoints(output, limit, trainer.state.best_model_checkpoint)


def seal_checkpoint(path: Path, owner: str) -> None:
    """Write the manifest of a checkpoint whose files all processes have written.

    `owner` is the identity of the training; a checkpoint goes on only in a training of the same identity.
    """
    seal(path, owner=owner, step=_step(path))


def drop_old_checkpoints(directory: str | Path, limit: int | None, best: str | None) -> None:
    """Delete the checkpoints before the newest `limit` whole ones, but for the `best` one.

    None or 0 keeps all. Those after the newest are of an interrupted attempt, which the training will write anew.
    """
    numbered = _numbered(directory)
    sealed = sorted(step for step, path in numbered.items() if (path / MANIFEST).exists())
    if not limit or limit < 0 or not sealed:
        return
    kept = sealed[-limit:]
    for step, path in numbered.items():
        if step not in kept and step < kept[-1] and (best is None or path != Path(best)):
            shutil.rmtree(path, ignore_errors=True)


def _numbered(directory: str | Path) -> dict[int, Path]:
    """Checkpoints by optimizer step."""
    found = ((_step(path), path) for path in Path(directory).glob("checkpoint-*") if path.is_dir())
    return {step: path for step, path in found if step is not None}


def _step(path: Path) -> int | None:
    number = path.name.removeprefix("checkpoint-")
    return int(number) if number.isdecimal() else None


def _fault(path: Path, step: int, owner: str) -> str:
    """What is wrong with a checkpoint that has a manifest; empty if nothing is."""
    try:
        manifest = read_manifest(path) or {"files": {}}
    except ValueError as error:
        return f"{MANIFEST} is damaged: {error}"
    theirs = manifest.get("owner")
    if owner and theirs and theirs != owner:
        raise UserError(
            f"{path} is a checkpoint of another training, with other settings: delete it, or bring back that of "
            "this training."
        )
    if manifest.get("step") != step:
        return f"it is of step {manifest.get('step')}"
    return in_short(damages(path, manifest["files"], trust_dates=False))


def _gap(path: Path, step: int) -> str:
    """What a checkpoint without a manifest lacks for exact resuming; empty if it lacks nothing."""
    try:
        state = json.loads((path / TRAINER_STATE_NAME).read_text(encoding="utf-8"))
        if state["global_step"] != step or not isinstance(state["log_history"], list):
            return f"{TRAINER_STATE_NAME} is of another step"
    except (OSError, ValueError, TypeError, KeyError) as error:
        return f"{TRAINER_STATE_NAME} is missing or damaged ({type(error).__name__})"
    sharded = (path / "latest").exists() or any(path.glob("pytorch_model_fsdp*"))  # DeepSpeed, FSDP
    weights = [*path.glob("*.safetensors"), *path.glob("*/*.safetensors")]
    wanted = {"*.safetensors": weights, "scheduler.pt": [path / "scheduler.pt"]}
    wanted["rng_state"] = [*path.glob("rng_state*.pth")]
    if not sharded:
        wanted["optimizer.pt"] = [path / "optimizer.pt"]
    for name, files in wanted.items():
        if not (files or (sharded and name == "*.safetensors")):
            return f"{name} is missing"
        for file in files:
            if not _readable(file):
                return f"{file.name} is missing or damaged"
    index = path / SAFE_WEIGHTS_INDEX_NAME
    shards = json.loads(index.read_text("utf-8"))["weight_map"].values() if index.exists() else ()
    missing = sorted({name for name in shards if not (path / name).exists()})
    return f"{missing[0]} is missing" if missing else ""


def _readable(file: Path) -> bool:
    """Whether a file of weights has its length, or a file of torch the checksums inside it."""
    try:
        if file.suffix == ".safetensors":
            with safe_open(file, "pt") as weights:
                return bool(weights.keys())
        with zipfile.ZipFile(file) as parts:
            return parts.testzip() is None
    except (OSError, SafetensorError, zipfile.BadZipFile):
        return False


def copy_model(source: str, directory: Path, limits: Mapping[str, int] | None = None) -> None:
    """Copy a model and its tokenizer or processor from a directory or the hub; only rank 0 writes.

    `limits` are those of a processor on the area of images, see `load_processor`.
    """
    if not is_first_process():
        return
    if is_vision_model(source):
        load_vision_model(source).save_pretrained(directory)
        load_processor(source, **(limits or {})).save_pretrained(directory)
    else:
        with loading_whole():
            AutoModelForCausalLM.from_pretrained(source).save_pretrained(directory)
        AutoTokenizer.from_pretrained(source).save_pretrained(directory)


def merge_adapter(path: str, directory: Path) -> str:
    """Write the whole weights of a vision-language model that was saved as an adapter; return their directory."""
    with loading_whole():
        load_critic(path).merge_and_unload().save_pretrained(directory)  # type: ignore[union-attr]
    load_processor(path).save_pretrained(directory)
    return str(directory)


def convert_gguf(source: str, gguf_file: str, directory: Path) -> None:
    """Write a GGUF model as float32 weights with their tokenizer, which trl loads.

    Raises:
        UserError: transformers cannot load the file.
    """
    try:
        with loading_whole():
            model = AutoModelForCausalLM.from_pretrained(source, gguf_file=gguf_file, dtype=torch.float32)
        tokenizer = AutoTokenizer.from_pretrained(source, gguf_file=gguf_file)
    except (OSError, ValueError) as error:
        raise UserError(f"base: cannot load {gguf_file} from {source}: {error}") from error
    # transformers dequantises on loading but still calls the model quantised, and refuses to save it.
    del model.config.quantization_config
    with loading_whole():
        plain = AutoModelForCausalLM.from_config(model.config, dtype=torch.float32)
    plain.load_state_dict(model.state_dict())
    plain.generation_config = model.generation_config
    plain.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
