"""TODO docstring."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from transformers import PrinterCallback, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from critique_rl.config.reading import check_options
from critique_rl.methods.base import Inputs
from critique_rl.records import is_first_process
from critique_rl.training.callbacks import KeepCallback
from critique_rl.training.config import CriticConfig, machine_defaults
from critique_rl.training.trainer import CriticTrainer
from critique_rl.types import UserError

Config = TypeVar("Config", bound=CriticConfig)

# What the run sets itself, and what has no effect where no critic is trained.
FIXED = ("output_dir", "seed", "prompts", "max_steps", "response_max_tokens", "refinement_max_tokens")

CRITIC_ONLY = (
    "refinement_reward",
    "combination",
    "beta_1",
    "signed_dis",
    "oracle_noise",
    "response_source",
    "response_temperature",
    "refinement_temperature",
)


class _Progress(TrainerCallback):
    """Reports finished RL steps."""

    def __init__(self, report: Callable[[int, int, str], None], block: int) -> None:
        self.report, self.block = report, block

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Called by the trainer at every log."""
        last = state.log_history[-1]
        if "reward" in last and state.is_world_process_zero:
            note = f"reward {last['reward']:.3f}"
            self.report(state.global_step // self.block, state.max_steps // self.block, note)


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
    """The trainer's configuration.

    Args:
        cls: Its class.
        where: How messages call the options.
        defaults: Settings that options win over.
        options: Fields of `cls` but for `FIXED` and `CRITIC_ONLY`, and `checkpoint_rl_steps` (50).
        output: Directory of the run.
        seed: Its seed.
        fixed: Settings that win over all.

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
        "disable_tqdm": True,
        "report_to": "tensorboard",
        "save_total_limit": 1,
        "rl_steps": 500,  # of either stage of Critique-RL
        **machine_defaults(),
        **defaults,
        **settings,
        "output_dir": str(output),
        "seed": seed,
        **fixed,
    }
    try:
        args = cls(**merged)
        if "save_strategy" not in merged:
            steps = every * args.optimizer_steps_per_rl_step
            args = cls(**merged, save_strategy="steps", save_steps=steps)
    except (TypeError, ValueError, UserError) as error:
        raise UserError(f"{where}: {error}") from error
    return args


def run(trainer: CriticTrainer, inputs: Inputs) -> None:
    """Train from the last checkpoint on, if there is one, and save; the last file is `trainer_state.json`."""
    from critique_rl.training.checkpoints import last_checkpoint

    output = Path(str(trainer.args.output_dir))
    trainer.remove_callback(PrinterCallback)  # it prints every log to stdout where there is no bar
    block = trainer.args.optimizer_steps_per_rl_step
    trainer.add_callback(_Progress(inputs.on_progress, block))
    trainer.add_callback(
        KeepCallback(
            inputs.keep_rl_steps, block, lambda step: trainer.save_model(str(output / f"rl_step-{step}"))
        )
    )
    trainer.train(resume_from_checkpoint=last_checkpoint(output))
    trainer.save_model(str(output))
    if is_first_process():
        trainer.state.save_to_json(str(output / "trainer_state.json"))
    trainer.accelerator.wait_for_everyone()  # no process may read what another still writes
