"""Supervised fine-tuning whose head scores completions alone.

On a GPU trl's head leaves out the prompts. On CPU it scores them as well and masks them afterwards. With a
vocabulary of 152 k words and 0.5 B weights this is half of the time.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from trl import SFTTrainer

from critique_rl.actors import decoding
from critique_rl.training.config import check_processes
from critique_rl.training.shared_prompts import refusal


class CompletionSFTTrainer(SFTTrainer):
    """trl's trainer; on CPU the prompts pass through the layers first, and the head sees what is behind them."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        check_processes(processes := self.accelerator.num_processes)
        model: Any = self.model
        checkpointing = bool(self.args.gradient_checkpointing)
        self._splits = model.device.type == "cpu" and not refusal(
            model, checkpointing=checkpointing, processes=processes
        )

    def compute_loss(self, model: Any, inputs: dict[str, Any], *args: Any, **options: Any) -> Any:
        """trl's loss and metrics, from the log-probabilities of completions."""
        splits = self._splits and {*inputs} <= {"input_ids", "attention_mask", "labels"}
        asked = partial(_behind_prompts, model) if splits else model
        return super().compute_loss(asked, inputs, *args, **options)


def _behind_prompts(model: Any, *, fused_lm_head: bool = False, **inputs: Any) -> Any:
    """Output of trl's fused head for the columns that hold completions; rows are aligned at their ends."""
    if not fused_lm_head:
        return model(**inputs)
    mask_NL = inputs["attention_mask"]
    width = mask_NL.size(1)
    padding_N1 = width - mask_NL.sum(-1, keepdim=True)
    # Moves the padding to the left.
    order_NL = (torch.arange(width, device=mask_NL.device) - padding_N1) % width
    ids_NL, mask_NL, labels_NL = (
        inputs[name].gather(1, order_NL) for name in ("input_ids", "attention_mask", "labels")
    )
    places_NL = (mask_NL.cumsum(-1) - 1).clamp(min=0)
    written_L = (labels_NL != -100).any(0).nonzero()
    # The last token of a prompt predicts the first of its completion.
    start = max(0, int(written_L[0]) - 1) if len(written_L) else 0
    cache = None
    if start:
        prompts = decoding.without_adapter(
            model
        ).base_model(  # without the head
            input_ids=ids_NL[:, :start],
            attention_mask=mask_NL[:, :start],
            position_ids=places_NL[:, :start],
            use_cache=True,
        )
        cache = prompts.past_key_values
    return model(
        input_ids=ids_NL[:, start:],
        attention_mask=mask_NL,
        position_ids=places_NL[:, start:],
        past_key_values=cache,
        labels=labels_NL[:, start:],
        fused_lm_head=True,
    )
