"""trl's trainer with guards: prompts fit, critiques end as a turn ends, and no NaN is trained on or saved."""

from __future__ import annotations

import math
from typing import Any, NoReturn

import torch
from datasets import Dataset
from trl import GRPOTrainer

from critique_rl.actors.encoding import PromptEncoder
from critique_rl.sharding import is_dtensor
from critique_rl.training.checkpoints import last_checkpoint
from critique_rl.training.images import prompts_to_check
from critique_rl.training.saving import gathering_weights, leaving_tokenizer_to_base
from critique_rl.training.watch import Watch, not_finite
from critique_rl.types import UserError


class GuardedTrainer(GRPOTrainer):
    """Base of `CriticTrainer`, which sets `encoder`, `watch` and `_losses`."""

    args: Any
    model: Any
    train_dataset: Any
    processing_class: Any
    num_generations: int
    max_completion_length: int
    encoder: PromptEncoder
    watch: Watch
    _losses: list[torch.Tensor]

    def _make_encoder(self) -> PromptEncoder:
        """Check the chat template, and let its end of a turn end a critique, as it ends a reply of an actor."""
        name = str(self.model.config._name_or_path or "the critic")
        options: Any = {"chat_template": self.chat_template} | self.chat_template_kwargs  # type: ignore[operator]
        encoder = PromptEncoder.of(name, self.processing_class, options)
        encoder.check_template()
        declared = self.model.generation_config
        stop = encoder.stop_ids(declared)
        if set(stop) <= set(self.eos_token_ids):
            return encoder
        self.eos_token_ids = declared.eos_token_id = stop  # saved with the critic, for whatever serves it
        if self.use_vllm:
            self.vllm_generation.generation_kwargs.setdefault("stop_token_ids", stop)
        elif "eos_token_id" not in (self.args.generation_kwargs or {}):
            self.generation_config.eos_token_id = self.generation_kwargs["eos_token_id"] = stop
        return encoder

    def _check_data(self) -> None:
        """Refuse prompts that exceed the context, and data that do not fill one RL step."""
        for name in ("train_dataset", "eval_dataset"):
            if isinstance(data := getattr(self, name), Dataset):
                self._check_prompts(data, name)
        prompts_per_step: int = self.args.generation_batch_size // self.num_generations
        if len(self.train_dataset) < prompts_per_step:
            raise UserError(
                f"train_dataset has {len(self.train_dataset)} rows, fewer than the {prompts_per_step} of one RL "
                "step: not one would be made."
            )

    def _check_prompts(self, dataset: Dataset, name: str) -> None:
        self.encoder.warn_of_control_tokens(dataset["prompt"], name)
        context: Any = getattr(self.model.config.get_text_config(), "max_position_embeddings", None)
        for row, prompt in prompts_to_check(dataset, self.processing_class, name):
            if context is None:
                continue
            ids = self.processing_class.apply_chat_template(
                prompt, add_generation_prompt=True, tokenize=True, return_dict=True
            )["input_ids"]
            length = len(ids[0] if isinstance(ids[0], list) else ids)
            if length + self.max_completion_length > context:
                raise UserError(
                    f"{name}, row {row}: a prompt of {length} tokens and max_completion_length="
                    f"{self.max_completion_length} exceed the critic's context of {context} tokens."
                )

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """Train; see `Trainer.train`.

        Raises:
            UserError: Loss, gradient or weights are not finite, or `unhealthy="stop"` has ended the training.
        """
        result = super().train(*args, **kwargs)
        if self.watch.stopped:
            raise UserError(f"{self.watch.stopped}. unhealthy='stop' ended the training; {self._way_out()}")
        return result

    def _generate(self, prompts: list[Any]) -> Any:
        self._check_weights()
        try:
            return super()._generate(prompts)
        except RuntimeError as error:
            if "probability tensor" not in str(error):
                raise
            self._stop("the critic's probabilities are not finite: its weights have become too large")

    def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        """One micro-batch; see `Trainer.training_step`."""
        loss: torch.Tensor = super().training_step(*args, **kwargs)
        self._losses.append(loss.detach())
        return loss

    def _get_grad_norm(self, model: Any, grad_norm: Any = None) -> Any:
        norm = super()._get_grad_norm(model, grad_norm=grad_norm)  # called right before the optimizer's step
        norm = norm.full_tensor() if is_dtensor(norm) else norm
        losses, self._losses = self._losses, []
        if self.accelerator.scaler is None:  # a scaler of float16 leaves out such steps itself
            loss = torch.stack(losses).sum() if losses else torch.zeros((), device=self.accelerator.device)
            pair_2 = torch.stack([loss.float(), torch.as_tensor(norm).to(loss.device).float()])
            loss_value, norm_value = self.accelerator.reduce(pair_2, "mean").tolist()
            if not (math.isfinite(loss_value) and math.isfinite(norm_value)):
                self._stop(
                    f"loss {loss_value:g}, gradient norm {norm_value:g}; no weight was changed by them"
                )
        return norm

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Save the critic whole; see `Trainer.save_model`.

        A checkpoint keeps the parts of shared weights, and of an adapter no tokenizer: the base has it.

        Raises:
            UserError: Its weights hold NaN or infinity.
        """
        self._check_weights()
        with leaving_tokenizer_to_base(self) if _internal_call else gathering_weights(self):
            super().save_model(output_dir, _internal_call)

    def _check_weights(self) -> None:
        """Stop on NaN or infinity; frozen weights were checked when they were loaded, and stay as they are."""
        name = not_finite(self.model, trained=True)
        if (
            self.accelerator.reduce(torch.tensor(float(bool(name)), device=self.accelerator.device), "sum")
            > 0
        ):
            self._stop(
                f"NaN or infinity in the weights, first in {name or 'another process'}; they are not saved"
            )

    def _stop(self, what: str) -> NoReturn:
        step = self.state.global_step
        rl_step = step // self.args.optimizer_steps_per_rl_step + 1
        raise UserError(f"RL step {rl_step}, optimizer step {step + 1}: {what}. {self._way_out()}")

    def _way_out(self) -> str:
        args, last = self.args, last_checkpoint(str(self.args.output_dir))
        return (
            f"Last good checkpoint: {last or 'none'}. Lower learning_rate (now {args.learning_rate:g}) or "
            f"max_grad_norm ({args.max_grad_norm:g}), or raise beta ({args.beta:g}), and start the stage anew."
        )
