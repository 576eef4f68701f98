"""Reinforcement learning of every method: one way to configure a trainer, and one to run it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from accelerate.utils import broadcast_object_list
from transformers import PrinterCallback

from critique_rl.config.reading import check_options
from critique_rl.methods.base import Inputs
from critique_rl.methods.options import CRITIC_ONLY
from critique_rl.records import is_first_process
from critique_rl.training.callbacks import DisplayCallback, KeepCallback, StopCallback
from critique_rl.training.checkpoints import last_checkpoint, load_critic
from critique_rl.training.config import CriticConfig, machine_defaults
from critique_rl.training.saving import save_trained
from critique_rl.training.trainer import CriticTrainer
from critique_rl.types import Terminated, UserError

Config = TypeVar("Config", bound=CriticConfig)

FIXED = ("output_dir", "seed", "prompts", "max_steps", "response_max_tokens", "refinement_max_tokens")
"""Fields that the run sets itself."""
COMMON: dict[str, Any] = {"disable_tqdm": True, "report_to": "tensorboard", "save_total_limit": 1}
"""Defaults of every training by RL in a run; options of a stage win over them."""


def configured(cls: type[Config], where: str, settings: Mapping[str, Any], *, every: int) -> Config:
    """Make a trainer's configuration, with a checkpoint each `every` RL steps unless `settings` say otherwise.

    `settings` win over `COMMON` and the machine's defaults.

    Raises:
        UserError: A setting is invalid; `where` names the options.
    """
    settings = {**COMMON, **machine_defaults(), **settings}
    try:
        args = cls(**settings)
        if "save_strategy" not in settings:
            steps = every * args.optimizer_steps_per_rl_step
            args = cls(**settings, save_strategy="steps", save_steps=steps)
    except (TypeError, ValueError, UserError) as error:
        raise UserError(f"{where}: {error}") from error
    return args


def rl_args(
    cls: type[Config],
    where: str,
    defaults: Mapping[str, Any],
    options: Mapping[str, Any],
    *,
    output: Path,
    seed: int,
    **fixed: Any,
) -> Config:
    """Make the trainer's configuration for any method by RL but `critique_rl`.

    Args:
        cls: Class of the configuration.
        where: Name of the options in messages.
        defaults: Settings that options win over.
        options: Fields of `cls` but for `FIXED` and `CRITIC_ONLY`, and `checkpoint_rl_steps` (50).
        output: Directory of the training.
        seed: Seed of the training.
        fixed: Settings that win over options.

    Raises:
        UserError: An option is unknown, invalid or has no effect here.
    """
    settings = dict(options)
    every = settings.pop("checkpoint_rl_steps", 50)
    if not isinstance(every, int) or isinstance(every, bool) or every < 1:
        raise UserError(f"{where}: checkpoint_rl_steps must be a whole number from 1 on, got {every!r}.")
    check_options(cls, settings, where)
    for name in (*FIXED, *CRITIC_ONLY):
        if name in settings:
            instead = " Set rl_steps." if name == "max_steps" else ""
            raise UserError(f"{where}: {name} cannot be set here.{instead}")
    merged = {
        "rl_steps": 500,  # of either stage of Critique-RL
        **defaults,
        **settings,
        "output_dir": str(output),
        "seed": seed,
        **fixed,
    }
    return configured(cls, where, merged, every=every)


def starting_point(inputs: Inputs, args: CriticConfig) -> dict[str, Any]:
    """Load the start of a training; returns a trainer's arguments `model` and `peft_config`."""
    start = load_critic(inputs.start, args.init_options)
    return {"model": start, "peft_config": inputs.lora if isinstance(start, str) else None}


def run(trainer: CriticTrainer, inputs: Inputs) -> None:
    """Train, from the last checkpoint on if there is one, and save; `trainer_state.json` is written last.

    Raises:
        UserError: A checkpoint is of another training, or no whole one is left.
        Terminated: SIGTERM came; there is a checkpoint of the last RL step.
    """
    output = Path(str(trainer.args.output_dir))
    trainer.remove_callback(PrinterCallback)  # without a progress bar it prints every log to stdout
    block = trainer.args.optimizer_steps_per_rl_step
    trainer.add_callback(DisplayCallback(inputs.display, block))
    trainer.add_callback(
        KeepCallback(
            inputs.keep_rl_steps, block, lambda step: save_trained(trainer, output / f"rl_step-{step}")
        )
    )
    trainer.checkpoint_owner = f"{inputs.identity}-{trainer.args.seed}" if inputs.identity else ""
    stop = StopCallback(block, trainer.accelerator)
    trainer.add_callback(stop)
    try:
        trainer.train(resume_from_checkpoint=_newest(trainer, output, inputs))
    finally:
        stop.close()
    if stop.asked:
        raise Terminated
    save_trained(trainer, output)
    if is_first_process():
        unfinished = output / "trainer_state.json.new"
        trainer.state.save_to_json(str(unfinished))
        os.replace(unfinished, output / "trainer_state.json")
    trainer.accelerator.wait_for_everyone()  # or another process may read half a file


def _newest(trainer: CriticTrainer, output: Path, inputs: Inputs) -> str | None:
    """The checkpoint to go on from: the first process checks them, so that all take the same."""
    found: list[str | None] = [None]
    if is_first_process():
        found = [last_checkpoint(output, owner=trainer.checkpoint_owner, note=inputs.display.note)]
    return broadcast_object_list(found)[0] if trainer.accelerator.num_processes > 1 else found[0]
