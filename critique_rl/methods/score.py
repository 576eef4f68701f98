"""SCoRe (arXiv 2409.12917): one model learns to answer and to correct itself, by RL in two stages.

The second turn is the protocol's: the model criticises its response, then refines it. Every rollout draws the
turns before the trained one from the current policy, afresh for each member of a group. The baseline of a group is
then taken over whole trajectories of one question:

    response    y1 ~ pi(x)            reward r(y1)                         (stage one: none)
    critique    c  ~ pi(x, y1)        reward r(y2) + alpha (r(y2) - r(y1)) (stage one: r(y2))
    refinement  y2 ~ pi(x, y1, c)     the same

Stage one holds the response close to the start by a KL of weight `beta_first`; stage two trains all turns. No turn
is rewarded for later ones: with the bonus, a response would be rewarded for being wrong.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset

from critique_rl.manifest import MANIFEST, damages, in_short, read_manifest, seal
from critique_rl.methods.actor_rl import ActorTrainer
from critique_rl.methods.base import FIRST, Inputs
from critique_rl.methods.rl import rl_args, run
from critique_rl.methods.sampling import require_full_weights
from critique_rl.records import is_first_process, wait_for
from critique_rl.sharding import has_parts, launched_in_parts
from critique_rl.training.config import option
from critique_rl.training.stage_config import CritiqueConfig
from critique_rl.types import Conversation, Sampling, UserError, child_seed

RESPONSE, CRITIQUE, REFINEMENT = TURNS = ("response", "critique", "refinement")


@dataclass
class ScoreConfig(CritiqueConfig):
    """Configuration of one stage of SCoRe."""

    whiten: bool = option(
        False, source="ours: it would give unrewarded turns of stage one the mean of the others"
    )
    stage: int = option(1, "1 or 2.")
    alpha: float = option(10.0, "Weight of the bonus for progress, in stage two.")
    beta_first: float = option(0.1, "Weight of the KL on the response, in stage one; elsewhere it is `beta`.")
    first_rl_steps: int | None = option(None, "Length of stage one in RL steps; `None` takes `rl_steps`.")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.beta <= 0 or self.kl_placement != "reward":
            raise UserError("SCoRe weighs the KL by turn: beta > 0 and kl_placement='reward'.")
        no_steps = self.first_rl_steps is not None and self.first_rl_steps < 1
        if self.alpha < 0 or self.beta_first < 0 or no_steps:
            raise UserError("alpha and beta_first must not be negative, first_rl_steps at least 1.")
        if self.use_vllm and self.vllm_mode == "server":
            raise UserError(
                "SCoRe gives each completion of a group a prompt of its own, but trl sends a vLLM server only the "
                "first: set vllm_mode='colocate'."
            )


class ScoreTrainer(ActorTrainer):
    """Trains one stage of SCoRe; arguments are those of `ActorTrainer`.

    Raises:
        UserError: As of `ActorTrainer`, or the weights are in parts.
    """

    args: ScoreConfig

    def __init__(self, model: Any, *, args: ScoreConfig, **options: Any) -> None:
        super().__init__(model, args=args, **options)
        _require_whole(has_parts(self.accelerator))

    def _with_prompts(self, dataset: Dataset, name: str) -> Dataset:
        """Make a row for each question and turn; the rollout makes the prompt."""
        rows = super()._with_prompts(dataset, name)
        return Dataset.from_list([row | {"turn": turn} for row in rows for turn in TURNS])

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        rows = self.unrolled(inputs)
        first_N = torch.tensor([row["turn"] == RESPONSE for row in rows], device=self.accelerator.device)
        weight = self.args.beta_first / self.beta if self.args.stage == 1 else 1.0
        self._kl_weight_N1 = torch.where(first_N, weight, 1.0).unsqueeze(1)
        return super()._generate_and_score_completions(rows)

    def _reward_kl(self, output: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
        kl_NT, cost_NT = super()._reward_kl(output)
        return kl_NT * self._kl_weight_N1, cost_NT * self._kl_weight_N1

    def unrolled(self, inputs: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Add the current policy's texts before the trained turn, and the prompt of that turn."""
        rows = [row | {"response": "", "response_correct": None, "critique": ""} for row in inputs]
        late = [row for row in rows if row["turn"] != RESPONSE]
        responses = self._draw([row["prompt"] for row in late], self.args.response_max_tokens, RESPONSE)
        for row, text in zip(late, responses, strict=True):
            row["response"] = self._prompts.reasoning_prefill + text
            row["prompt"] = self._prompts.critique_prompt(row["question"], row["response"])
        columns = [[row[key] for row in late] for key in ("response", "answer", "kind")]
        for row, grade in zip(late, self.graded(*columns), strict=True):
            row["response_correct"] = grade
        last = [row for row in late if row["turn"] == REFINEMENT]
        critiques = self._draw([row["prompt"] for row in last], self.max_completion_length, CRITIQUE)
        for row, text in zip(last, critiques, strict=True):
            row["critique"] = text
            row["prompt"] = self._prompts.refinement_prompt(row["question"], row["response"], text)
        return rows

    def reward(self, completions: list[Any], **columns: Any) -> list[float | None]:
        """Reward each completion by its turn; None where a needed grade is missing."""
        turns, texts = columns["turn"], [c[0]["content"] for c in completions]
        critiques = [i for i, turn in enumerate(turns) if turn == CRITIQUE]
        asked = [
            self._prompts.refinement_prompt(columns["question"][i], columns["response"][i], texts[i])
            for i in critiques
        ]
        refinements = self._draw(asked, self.args.refinement_max_tokens, REFINEMENT)
        for i, text in zip(critiques, refinements, strict=True):
            texts[i] = text
        first, second = self._prompts.reasoning_prefill, self._prompts.refinement_prefill
        replies = [
            (first if turn == RESPONSE else second) + text for turn, text in zip(turns, texts, strict=True)
        ]
        grades = self.graded(replies, columns["answer"], columns["kind"])
        rewards = []
        for turn, before, after in zip(turns, columns["response_correct"], grades, strict=True):
            columns["log_metric"]("actor/graded_rate", float(after is not None))
            if after is not None:
                columns["log_metric"]("actor/acc" if turn == RESPONSE else "actor/acc_refine", float(after))
            rewards.append(turn_reward(turn, before, after, stage=self.args.stage, alpha=self.args.alpha))
        return rewards

    def _draw(self, prompts: list[Conversation], max_tokens: int, purpose: str) -> list[str]:
        """Draw texts from the current policy, with random numbers of this purpose alone, none of trl's."""
        seed = child_seed(self.args.seed, purpose, self.state.global_step, self.accelerator.process_index)
        sampling = Sampling(max_tokens, self.temperature, seed=seed)
        return [generation.text or "" for generation in self.policy.generate(prompts, sampling)]


def turn_reward(
    turn: str, before: bool | None, after: bool | None, *, stage: int, alpha: float
) -> float | None:
    """Reward of one trained turn.

    Args:
        turn: One of `TURNS`.
        before: r(y1), for a critique or a refinement.
        after: r(y1) for a response, else r(y2).
        stage: 1 or 2.
        alpha: Weight of the bonus.

    Returns:
        None if a needed grade is missing.

    >>> turn_reward("refinement", False, True, stage=2, alpha=10.0)
    11.0
    >>> turn_reward("refinement", True, False, stage=2, alpha=10.0)
    -10.0
    """
    if stage == 1 and turn == RESPONSE:
        return 0.0  # equal in the whole group: only the KL trains
    if after is None:
        return None
    if stage == 1 or turn == RESPONSE:
        return float(after)
    return None if before is None else after + alpha * (after - before)


def check(options: Mapping[str, Any]) -> None:
    """See `Method.check`."""
    _require_whole(launched_in_parts())
    for stage in (1, 2):
        _args(options, stage, Path("unused"), seed=0)


def _require_whole(parts: str) -> None:
    """Raise a `UserError` if something cuts the weights into parts: a process could not draw texts by itself."""
    if parts:
        raise UserError(
            f"score: each process draws its earlier turns by itself, and {parts} leaves it a part of the weights "
            "alone, so that all would wait for each other. Start the run with whole weights, for instance "
            "`accelerate launch --config_file experiments/launch/ddp.yaml`."
        )


def train(inputs: Inputs) -> None:
    """See `Method.train`: stage one in the folder `first`, stage two from there; both resume after a kill."""
    require_full_weights(inputs)
    lengths = inputs.lengths
    first = inputs.output / FIRST
    for stage, start, output in ((1, inputs.start, first), (2, str(first), inputs.output)):
        if stage == 1 and finished(first):
            continue
        args = _args(
            inputs.options,
            stage,
            output,
            seed=child_seed(inputs.seed, "score", stage),
            prompts=inputs.prompts.name,
            response_max_tokens=lengths.response,
            refinement_max_tokens=lengths.refinement,
            max_completion_length=max(lengths.response, lengths.critique, lengths.refinement),  # of any turn
        )
        run(ScoreTrainer(start, args=args, train_dataset=inputs.pool), inputs)
        if stage == 1 and is_first_process():
            seal(first)
        wait_for((output / "trainer_state.json").exists)


def finished(first: Path) -> bool:
    """Whether stage one has left its folder whole.

    Raises:
        UserError: A file has changed since.
    """
    if not (first / "trainer_state.json").exists():  # written last
        return False
    try:
        manifest = read_manifest(first)
    except ValueError as error:
        raise UserError(f"{first / MANIFEST} is damaged: {error}. Delete {first} to make it anew.") from error
    found = damages(first, manifest["files"], trust_dates=True) if manifest is not None else []
    if found:
        raise UserError(f"{first} is not as it was left: {in_short(found)}. Delete it to make it anew.")
    return True


def _args(options: Mapping[str, Any], stage: int, output: Path, *, seed: int, **fixed: Any) -> ScoreConfig:
    if "stage" in options:
        raise UserError("score: stage cannot be set here; both stages are run.")
    settings = dict(options)
    if stage == 1 and settings.get("first_rl_steps"):
        settings["rl_steps"] = settings["first_rl_steps"]
    return rl_args(ScoreConfig, "score", {}, settings, output=output, seed=seed, stage=stage, **fixed)
