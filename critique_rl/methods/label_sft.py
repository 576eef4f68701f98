"""Supervised fine-tuning on the labels of preference pairs, without rationales: the control of `pairwise_critic`.

A completion is an empty thought and the label in a box, the form of the critic's reply.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trl import SFTConfig

from critique_rl.cold_start.sft import Example, example, fine_tune, sft_args
from critique_rl.config.reading import check_options
from critique_rl.methods.base import Inputs
from critique_rl.methods.pairwise_critic import pair_options, pairs_of
from critique_rl.methods.sampling import require_full_weights
from critique_rl.records import written_once
from critique_rl.types import child_seed
from critique_rl.vision.images import data_url


def check(options: Mapping[str, Any]) -> None:
    """See `Method.check`; the options are `pairs` and the fields of trl's `SFTConfig`."""
    settings = _settings(options)
    check_options(SFTConfig, settings, "label_sft")
    sft_args(Path("unused"), seed=0, options=settings, where="label_sft")
    pair_options(options)


def train(inputs: Inputs) -> None:
    """See `Method.train`; an interrupted training starts again."""
    require_full_weights(inputs)
    seed = child_seed(inputs.seed, "label_sft")

    def examples() -> list[Example]:
        return [
            example(
                inputs.prompts.pairwise_prompt(
                    p.question,
                    p.response_1,
                    p.response_2,
                    image=data_url(p.image) if isinstance(p.image, bytes) else p.image,
                ),
                f"<think></think> \\boxed{{{p.label}}}",
            )
            for p in pairs_of(inputs, ties=False, seed=seed)
        ]

    learned = written_once(inputs.output / "examples.jsonl", examples)
    fine_tune(inputs.start, learned, inputs.output, seed=seed, options=_settings(inputs.options))
    inputs.on_progress(1, 1, f"{len(learned)} pairs")


def _settings(options: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if name != "pairs"}
