"""The value model of PPO: a second network that predicts, at each token of a critique, the reward still to come.

It has separate weights, as in arXiv 2009.01325. A head on the critic would let the first, large errors move the
critic, and would be saved with it. It starts as the start of the training, with a head of zeros.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType
from torch import Tensor
from transformers import AutoModel, TrainerCallback
from trl.trainer.utils import disable_dropout_in_model

from critique_rl.adapters import is_adapter
from critique_rl.training import objectives
from critique_rl.training.watch import require_finite
from critique_rl.types import UserError

if TYPE_CHECKING:
    from critique_rl.training.config import CriticConfig

FILE = "value_model.pt"
"""File in a checkpoint's folder with the weights and the optimizer of the value model."""


class ValueNetwork(torch.nn.Module):
    """The language model at `start`, with one number for each token in place of its LM head."""

    def __init__(self, start: str, **options: Any) -> None:
        super().__init__()
        self.trunk = AutoModel.from_pretrained(start, **options)
        self.head = torch.nn.Linear(self.trunk.config.get_text_config().hidden_size, 1)
        torch.nn.init.zeros_(self.head.weight)
        torch.nn.init.zeros_(self.head.bias)
        disable_dropout_in_model(self.trunk)

    def forward(self, ids: Tensor, attention: Tensor, tokens: int) -> Tensor:
        """(N, T) values of the states before each of the last T = `tokens` tokens."""
        hidden = self.trunk(input_ids=ids, attention_mask=attention, use_cache=False).last_hidden_state
        values_NT: Tensor = self.head(hidden[:, -tokens - 1 : -1]).squeeze(2).float()
        return values_NT


class ValueModel(TrainerCallback):
    """The value model in training: predicts, learns after the critic, is saved with checkpoints.

    Each rank holds the whole network; gradients are averaged over ranks before a step.

    Args:
        start: Directory or hub id of the model that the training starts from.
        args: The configuration: `value_learning_rate`, `value_clip` and `gae_lambda`. AdamW's settings,
            `max_grad_norm`, micro-batches and checkpointing of activations are those of the critic.
        accelerator: The trainer's.
        record: Takes the name and value of a metric.

    Raises:
        UserError: Weights are sharded over ranks, or `start` holds an adapter.
    """

    def __init__(
        self,
        start: str,
        args: CriticConfig,
        accelerator: Accelerator,
        record: Callable[[str, float], None],
    ) -> None:
        kind = accelerator.distributed_type
        if kind not in (DistributedType.NO, DistributedType.MULTI_CPU, DistributedType.MULTI_GPU):
            raise UserError(
                f"advantage='gae' runs on one device or with plain data parallelism, not with {kind.value}: "
                "start it without a DeepSpeed or FSDP configuration, or choose 'rloo' or 'grpo'."
            )
        if is_adapter(start):
            raise UserError(
                f"advantage='gae' cannot make a value model from the adapter {start}: merge it into its base with "
                "merge_and_unload(), save that and start from there."
            )
        self.args, self.accelerator, self.record = args, accelerator, record
        options: dict[str, Any] = {"trust_remote_code": args.trust_remote_code}
        options |= cast("dict[str, Any]", args.model_init_kwargs or {})  # a string is parsed by transformers
        # Steps of the size of the learning rate would be lost in bfloat16 weights.
        options |= {"dtype": torch.float32, "device_map": None}
        with torch.random.fork_rng(devices=[]):  # the critic's draws must not depend on the value model
            self.network = ValueNetwork(start, **options).to(accelerator.device)
        if args.activation_checkpointing:
            self.network.trunk.activation_checkpointing_enable(
                activation_checkpointing_kwargs=args.activation_checkpointing_kwargs
            )
        self.network.train()
        self.optimizer = torch.optim.AdamW(
            self.network.parameters(),
            lr=args.value_learning_rate,
            betas=(args.adam_beta1, args.adam_beta2),
            eps=args.adam_epsilon,
            weight_decay=args.weight_decay,
        )

    def values(self, batch: dict[str, Any]) -> Tensor:
        """(N, T) values of a rollout or micro-batch, in trl's form."""
        ids = torch.cat([batch["prompt_ids"], batch["completion_ids"]], dim=1)
        attention = torch.cat([batch["prompt_mask"], batch["completion_mask"]], dim=1)
        with self.accelerator.autocast():
            values_NT: Tensor = self.network(ids, attention, batch["completion_ids"].size(1))
        return values_NT

    def advantages(self, rollout: dict[str, Any], rewards_NT: Tensor, mask_NT: Tensor) -> Tensor:
        """Compute the advantages of a rollout, and store in it the tensors for `learn`.

        Args:
            rollout: This rank's rollout; `old_values`, `returns` and `value_mask` are added to it.
            rewards_NT: (N, T) rewards of `objectives.token_rewards`.
            mask_NT: (N, T) mask of the tokens to learn from; a critique without reward has none.

        Returns:
            (N, T) advantages of `objectives.gae`.

        Raises:
            UserError: The weights hold NaN or infinity.
        """
        self.check_weights()
        size = self.args.per_device_train_batch_size
        inputs = ("prompt_ids", "prompt_mask", "completion_ids", "completion_mask")
        with torch.no_grad():
            values_NT = torch.cat(
                [
                    self.values({name: rollout[name][i : i + size] for name in inputs})
                    for i in range(0, mask_NT.size(0), size)
                ]
            )
        advantages_NT, returns_NT = objectives.gae(rewards_NT, values_NT, mask_NT, lam=self.args.gae_lambda)
        rollout.update(old_values=values_NT, returns=returns_NT, value_mask=mask_NT)
        # Measured against the reward to go: the returns above contain the values themselves.
        to_go_NT = objectives.reward_to_go(rewards_NT)
        explained = objectives.explained_variance(
            self._moments(to_go_NT - values_NT, mask_NT), self._moments(to_go_NT, mask_NT)
        )
        if explained is not None:
            self.record("value/explained_variance", explained)
        return advantages_NT

    def learn(self, batch: dict[str, Any], *, parts: int) -> None:
        """Add the gradient of one micro-batch, one of the `parts` of an optimizer step."""
        loss = objectives.value_loss(
            self.values(batch),
            batch["old_values"],
            batch["returns"],
            batch["value_mask"],
            clip=self.args.value_clip,
        )
        mean = self.accelerator.reduce(loss.detach(), "mean").item()
        if not math.isfinite(mean):
            raise UserError(f"the loss of the value model is {mean}: {self._advice()}")
        (loss / parts).backward()
        self.record("value/loss", mean)

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Called by the trainer right after the critic's optimizer step."""
        parameters = [p for p in self.network.parameters() if p.grad is not None]
        for parameter in parameters:
            parameter.grad = self.accelerator.reduce(parameter.grad, "mean")
        limit = self.args.max_grad_norm if self.args.max_grad_norm > 0 else math.inf  # which clips nothing
        norm = torch.nn.utils.clip_grad_norm_(parameters, limit).item()
        if not math.isfinite(norm):
            raise UserError(f"the gradient norm of the value model is {norm}: {self._advice()}")
        self.optimizer.step()
        self.optimizer.zero_grad()

    def save(self, directory: str) -> None:
        """Write weights and optimizer into a checkpoint's folder.

        Raises:
            UserError: The weights hold NaN or infinity.
        """
        self.check_weights()
        state = {"network": self.network.state_dict(), "optimizer": self.optimizer.state_dict()}
        torch.save(state, Path(directory) / FILE)

    def load(self, directory: str) -> None:
        """Read what `save` wrote.

        Raises:
            UserError: The checkpoint has no value model; the stage must start anew.
        """
        path = Path(directory) / FILE
        if not path.exists():
            raise UserError(
                f"{path} is missing: the checkpoint is of a run without advantage='gae', or was written with "
                "save_only_model. Start the stage anew."
            )
        state = torch.load(path, map_location=self.accelerator.device, weights_only=True)
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])

    def check_weights(self) -> None:
        """Raise `UserError` if the weights hold NaN or infinity."""
        require_finite(self.network, "the value model", self._advice())

    def _advice(self) -> str:
        return f"lower value_learning_rate (now {self.args.value_learning_rate:g}), and start the stage anew."

    def _moments(self, values_NT: Tensor, mask_NT: Tensor) -> Tensor:
        moments_3: Tensor = self.accelerator.reduce(objectives.masked_moments(values_NT, mask_NT), "sum")
        return moments_3
