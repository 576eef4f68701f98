"""SuperCorrect without its stronger model: DPO on the critic's own critiques, from the SFT critic.

A pair holds two critiques of one response. The chosen one has a right verdict, and the actor's refinement after it
is right; for the rejected one, the verdict or the refinement is wrong.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from datasets import Dataset
from transformers import PrinterCallback
from trl import DPOConfig, DPOTrainer

from critique_rl.config.reading import check_options
from critique_rl.methods.base import Inputs
from critique_rl.methods.sampling import (
    Draw,
    JudgedCritique,
    judged_critiques,
    read_options,
    require_full_weights,
    require_mapping,
)
from critique_rl.prompts import PromptSet
from critique_rl.training.config import machine_defaults
from critique_rl.training.saving import save_trained
from critique_rl.types import Conversation, UserError, child_seed

DPO: dict[str, Any] = {  # ours; batch and length are those of the SFT critic
    "num_train_epochs": 1,
    "learning_rate": 5e-7,
    "beta": 0.1,
    "per_device_train_batch_size": 2,
    "gradient_accumulation_steps": 4,
    "max_length": 4096,
}


@dataclass(frozen=True)
class SuperCorrectOptions(Draw):
    """Options of SuperCorrect, besides those of the draw.

    Attributes:
        pairs: Most pairs of one response; no critique is in two pairs.
        dpo: Fields of trl's `DPOConfig`; they win over `DPO`.
    """

    pairs: int = 2
    dpo: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.pairs < 1 or self.samples < 2:
            raise UserError(f"pairs={self.pairs} must be at least 1, samples={self.samples} at least 2.")
        require_mapping("dpo", self.dpo)


def check(options: Mapping[str, Any]) -> None:
    """See `Method.check`."""
    dpo = read_options(SuperCorrectOptions, options, "super_correct").dpo
    dpo_args(Path("unused"), seed=0, options=dpo)


def train(inputs: Inputs) -> None:
    """See `Method.train`; critiques are kept, an interrupted DPO starts again.

    Raises:
        UserError: No response has both a critique to choose and one to reject.
    """
    require_full_weights(inputs)
    options = read_options(SuperCorrectOptions, inputs.options, "super_correct")
    seed = child_seed(inputs.seed, "super_correct")
    judged = judged_critiques(inputs, inputs.start, inputs.output / "critiques.jsonl", options, seed=seed)
    pairs = preference_pairs(judged, inputs.prompts, most=options.pairs)
    if not pairs:
        raise UserError(
            f"super_correct: of {len(judged)} critiques, no response has both a right and a wrong one: draw "
            "more `samples`, or raise the `temperature`."
        )
    inputs.on_progress(0, 1, f"{len(pairs)} pairs of {len(judged)} critiques")
    trainer = DPOTrainer(
        model=inputs.start,
        args=dpo_args(inputs.output, seed=seed, options=options.dpo),
        train_dataset=Dataset.from_list(pairs),
    )
    trainer.remove_callback(PrinterCallback)  # it prints every log to stdout where there is no progress bar
    trainer.train()
    save_trained(trainer, inputs.output)
    trainer.accelerator.wait_for_everyone()  # or another process may read half a file
    inputs.on_progress(1, 1, f"loss {trainer.state.log_history[-1].get('train_loss', float('nan')):.3f}")


def preference_pairs(
    judged: Sequence[JudgedCritique], prompts: PromptSet, *, most: int
) -> list[dict[str, Conversation]]:
    """Make the rows of `DPOTrainer`, with prompt, chosen and rejected: at most `most` for each response.

    A critique with a right verdict is left out if its refinement could not be graded.
    """
    by_response: dict[tuple[str, str], list[JudgedCritique]] = {}
    for critique in judged:
        by_response.setdefault((critique.question, critique.response), []).append(critique)
    pairs = []
    for (question, response), critiques in by_response.items():
        right = [c.critique for c in critiques if c.judges and c.refines]
        wrong = [c.critique for c in critiques if not c.judges or c.refinement_correct is False]
        for chosen, rejected in list(zip(right, wrong, strict=False))[:most]:
            prompt = prompts.critique_prompt(question, response)
            pairs.append({"prompt": prompt, "chosen": _turn(chosen), "rejected": _turn(rejected)})
    return pairs


def _turn(text: str) -> Conversation:
    return [{"role": "assistant", "content": text}]


def dpo_args(output: Path, *, seed: int, options: Mapping[str, Any]) -> DPOConfig:
    """Make trl's configuration of the DPO.

    Raises:
        UserError: An option is no field of `DPOConfig`, or has an invalid value.
    """
    check_options(DPOConfig, options, "super_correct: dpo")
    defaults = {"disable_tqdm": True, "report_to": "none", "save_strategy": "no", **machine_defaults(), **DPO}
    try:
        return DPOConfig(**(defaults | dict(options) | {"output_dir": str(output), "seed": seed}))
    except (TypeError, ValueError) as error:
        raise UserError(f"super_correct: dpo: {error}") from error
