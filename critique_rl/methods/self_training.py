"""Self-training on the critic's own critiques: STaR, Critic-CoT and Self-Refine, one method with two switches.

Each iteration draws critiques from the current critic, lets the frozen actor refine after them, filters them and
fine-tunes the *first* critic on the rest. As in STaR, an iteration improves the data, not the last weights.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from critique_rl.cold_start.sft import Example, example, fine_tune, sft_args
from critique_rl.methods.base import Inputs
from critique_rl.methods.sampling import (
    Draw,
    JudgedCritique,
    judged_critiques,
    read_options,
    require_full_weights,
    require_mapping,
)
from critique_rl.pool import select_balanced
from critique_rl.prompts import PromptSet
from critique_rl.records import is_first_process, wait_for
from critique_rl.types import UserError, child_seed

SFT: dict[str, Any] = {  # as for the SFT critic: paper, section 5.1, and the released script
    "num_train_epochs": 5,
    "learning_rate": 5e-6,
    "lr_scheduler_type": "cosine",
    "per_device_train_batch_size": 2,
    "gradient_accumulation_steps": 4,
    "max_length": 4096,
}


@dataclass(frozen=True)
class SelfTrainingOptions(Draw):
    """Options of self-training, besides those of the draw.

    Attributes:
        iterations: Rounds of draw, filter and fine-tuning.
        balanced: Whether as many critiques of right as of wrong responses are kept.
        sft: Fields of trl's `SFTConfig`; they win over `SFT`.
    """

    iterations: int = 3
    balanced: bool = True
    sft: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.iterations < 1:
            raise UserError(f"iterations must be at least 1, got {self.iterations}.")
        require_mapping("sft", self.sft)


@dataclass(frozen=True)
class SelfTraining:
    """One method of self-training.

    Attributes:
        name: Name of the method.
        right_verdict: Whether the filter also asks for a right verdict.
        all_turns: Whether the model also learns the actor's turns: it then answers, criticises and refines.
        iterations: Default of the option `iterations`.
    """

    name: str
    right_verdict: bool = False
    all_turns: bool = False
    iterations: int = 3

    def check(self, options: Mapping[str, Any]) -> None:
        """See `Method.check`."""
        sft = self._options(options).sft
        sft_args(Path("unused"), seed=0, options=SFT | sft, where=f"{self.name}: sft")

    def train(self, inputs: Inputs) -> None:
        """See `Method.train`; each iteration keeps its critiques and its model in its own folder.

        Raises:
            UserError: An iteration keeps no critique, or with `balanced` none of one class.
        """
        require_full_weights(inputs)
        options = self._options(inputs.options)
        critic = Path(inputs.start)
        for iteration in range(options.iterations):
            folder = inputs.output / f"iteration{iteration}"
            model, unfinished = folder / "model", folder / "model.new"
            seed, note = child_seed(inputs.seed, self.name, iteration), "made before"
            if not model.exists():
                judged = judged_critiques(inputs, str(critic), folder / "critiques.jsonl", options, seed=seed)
                try:
                    kept = self.select(judged, balanced=options.balanced, seed=seed)
                except UserError as error:
                    raise UserError(f"{self.name}, iteration {iteration}: {error}") from error
                examples = self.examples(kept, inputs.prompts)
                fine_tune(inputs.start, examples, unfinished, seed=seed, options=SFT | options.sft)
                if is_first_process():
                    os.replace(unfinished, model)
                wait_for(model.exists)
                note = f"{len(kept)} of {len(judged)} critiques kept"
            critic = model
            inputs.on_progress(iteration + 1, options.iterations, note)
        if is_first_process():
            shutil.copytree(critic, inputs.output, dirs_exist_ok=True)

    def select(self, judged: Sequence[JudgedCritique], *, balanced: bool, seed: int) -> list[JudgedCritique]:
        """Keep the critiques to learn from.

        Args:
            balanced: Keep as many critiques of right as of wrong responses, in each data set; `seed` draws those
                that are dropped.

        Raises:
            UserError: No critique is left.
        """
        kept = [c for c in judged if c.refines and (c.judges or not self.right_verdict)]
        if not kept:
            raise UserError(
                f"the filter keeps none of {len(judged)} critiques: draw more `samples`, or start from a "
                "critic after which the actor refines rightly at times."
            )
        if not balanced:
            return kept
        rows = [{"dataset": c.dataset, "response_correct": c.response_correct, "kept": c} for c in kept]
        try:
            return [row["kept"] for row in select_balanced(rows, seed=seed)]
        except UserError as error:
            raise UserError(f"{error} Draw more `samples`, or set `balanced: false`.") from error

    def examples(self, kept: Sequence[JudgedCritique], prompts: PromptSet) -> list[Example]:
        """Make examples of the kept critiques; with `all_turns` of the actor's right texts, too."""
        examples = [example(prompts.critique_prompt(c.question, c.response), c.critique) for c in kept]
        if self.all_turns:
            prefill = prompts.reasoning_prefill
            right = dict.fromkeys((c.question, c.response) for c in kept if c.response_correct)
            examples += [example(prompts.reasoning_prompt(x), y.removeprefix(prefill)) for x, y in right]
            for c in kept:
                prompt = prompts.refinement_prompt(c.question, c.response, c.critique)
                examples.append(example(prompt, c.refinement))
        return examples

    def _options(self, options: Mapping[str, Any]) -> SelfTrainingOptions:
        return read_options(SelfTrainingOptions, {"iterations": self.iterations, **options}, self.name)


STAR = SelfTraining("star")
CRITIC_COT = SelfTraining("critic_cot", right_verdict=True)
SELF_REFINE = SelfTraining("self_refine", all_turns=True, iterations=1)
