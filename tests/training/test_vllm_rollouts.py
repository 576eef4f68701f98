"""Rollouts of vLLM, whose engine is simulated: its log-probabilities are those after temperature and nucleus."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from datasets import Dataset
from helpers import history

from critique_rl.actors.sampler import SeededSampler
from critique_rl.config.run import EXPERIMENTS, load_config
from critique_rl.runs.folder import RunFolder
from critique_rl.runs.steps.train import trainer_args
from critique_rl.training.config import CriticConfig
from critique_rl.training.stages import Stage1Trainer
from critique_rl.types import Sampling, UserError

Make = Callable[..., CriticConfig]


class Engine:
    """Answers as `trl.generation.VLLMGeneration` does: token ids, and processed log-probabilities of them."""

    def __init__(self, trainer: Any, top_p: float) -> None:
        self.trainer, self.top_p = trainer, top_p
        self.generation_kwargs: dict[str, Any] = {}

    def sync_weights(self) -> None:
        """The weights are the trainer's own."""

    def generate(self, prompts: list[list[int]], **options: Any) -> Any:
        """Draw one token after another from the nucleus."""
        args, stop = self.trainer.args, set(self.trainer.eos_token_ids)
        limit = args.max_completion_length
        sampler = SeededSampler(list(range(len(prompts))), Sampling(limit, args.temperature, self.top_p))
        replies, logps = [], []
        for row, prompt in enumerate(prompts):
            ids, own = list(prompt), []
            for step in range(limit):
                with torch.no_grad():
                    logits = self.trainer.model(input_ids=torch.tensor([ids])).logits[0, -1].float()
                drawn = int(sampler.draw(logits[None], torch.tensor([row]), step))
                ordered = (logits / args.temperature).softmax(-1).sort(descending=True)
                kept = int((ordered.values.cumsum(-1) < self.top_p).sum()) + 1  # as vLLM cuts
                place = int((ordered.indices == drawn).nonzero())
                own.append(float(ordered.values[place].log() - ordered.values[:kept].sum().log()))
                ids.append(drawn)
                if drawn in stop:
                    break
            replies.append(ids[len(prompt) :])
            logps.append([[value] for value in own])
        return None, replies, logps, None


class Replayed(Stage1Trainer):
    """Takes critiques that are there already, as if transformers had drawn them."""

    def __init__(self, *args: Any, replies: list[list[int]], **options: Any) -> None:
        super().__init__(*args, **options)
        self.replies = replies

    def _generate_single_turn(self, *args: Any, **options: Any) -> Any:
        return self.replies, None


def step(trainer: Any) -> torch.Tensor:
    """Change of all weights by one step of plain gradient descent."""
    before = torch.cat([p.detach().flatten().clone() for p in trainer.model.parameters()])
    trainer.train()
    return torch.cat([p.detach().flatten() for p in trainer.model.parameters()]) - before


def drawn_by_vllm(critic: Any, args: CriticConfig, pool: Dataset, top_p: float) -> Any:
    """A trainer with the engine in the place of vLLM, which is not installed here."""
    trainer = Stage1Trainer(critic, args=args, train_dataset=pool)
    trainer.use_vllm, trainer._last_loaded_step = True, 0
    trainer.shares_sampling = False
    trainer.vllm_generation = Engine(trainer, top_p)
    return trainer


@pytest.mark.parametrize("top_p", [1.0, 0.99])
def test_the_gradient_is_that_of_rollouts_by_transformers(
    critic_dir: Any, pool: Dataset, config: Make, top_p: float
) -> None:
    settings: dict[str, Any] = {"optim": "sgd", "learning_rate": 0.1, "weight_decay": 0.0, "rl_steps": 1}
    settings |= {"num_iterations": 1, "max_grad_norm": 0.0, "lr_scheduler_type": "constant", "top_p": top_p}
    args = config(**settings)
    engine = drawn_by_vllm(critic_dir, args, pool, top_p)
    replies: list[list[int]] = []
    write = engine.vllm_generation.generate

    def noted(prompts: list[list[int]], **options: Any) -> Any:
        written = write(prompts, **options)
        replies.extend(written[1])
        return written

    engine.vllm_generation.generate = noted
    moved = step(engine)
    plain = step(Replayed(critic_dir, replies=replies, args=config(**settings), train_dataset=pool))
    assert plain.norm() > 1e-3
    # a token's ratio is what the nucleus keeps of its distribution: 0.99 to 1
    assert (moved - plain).norm() < (1e-4 if top_p == 1.0 else 0.02) * plain.norm()
    ((ratio,),) = history(engine, "sampling/importance_sampling_ratio/mean")
    assert top_p - 1e-3 <= ratio <= 1.0 + 1e-3
    # the default of trl, over the whole critique
    engine = drawn_by_vllm(critic_dir, config(**settings), pool, top_p)
    engine.vllm_importance_sampling_mode = "sequence_mask"
    product = step(engine)
    assert (product - plain).norm() > (0.02 if top_p < 1.0 else -1.0) * plain.norm()


def test_samplers_that_the_correction_would_punish_are_refused(config: Make) -> None:
    vllm = {"use_vllm": True}
    with pytest.raises(UserError, match=r"temperature 0\.7 and log-probabilities are taken at 1:"):
        config(**vllm, temperature=1.0, generation_kwargs={"temperature": 0.7})
    for cut in ({"top_p": 0.99}, {"top_k": 20}, {"min_p": 0.1}, {"generation_kwargs": {"top_p": 0.9}}):
        with pytest.raises(UserError, match="so that the gradient vanishes: set 'token_truncate'"):
            config(**vllm, **cut, vllm_importance_sampling_mode="sequence_mask")
        assert config(**vllm, **cut).vllm_importance_sampling_mode == "token_truncate"
    assert config(**vllm, vllm_importance_sampling_mode="sequence_mask")
    different = {"temperature": 1.0, "generation_kwargs": {"temperature": 0.7}}
    assert config(**vllm, **different, vllm_importance_sampling_correction=False)
    assert config(**different)  # transformers draws: nothing is corrected


@pytest.mark.parametrize("name", ["qwen2.5-3b", "qwen2.5-7b", "llama3.2-3b", "qwen2.5-vl-7b", "qwen3-vl-8b"])
def test_the_presets_of_the_papers_take_vllm(name: str) -> None:
    config = load_config(EXPERIMENTS / "configs" / f"{name}.yaml")
    for stage in config.stages:
        args = trainer_args(RunFolder(config), stage, use_vllm=True, bf16=False, use_cpu=True)
        assert args is not None and args.vllm_importance_sampling_mode == "token_truncate"
