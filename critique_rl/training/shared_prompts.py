"""One forward pass of a prompt for all critiques of its group: in sampling, in log-probabilities, in the update.

The k critiques of a group share their prompt. `log_probabilities` runs each different prompt once, expands its
keys and values to the rows, and runs the critiques behind them. Positions, masks and results are those of the
plain pass, up to the order of floating-point sums. Gradients flow through the expanded keys and values. The head,
which trl applies to the prompts as well on CPU, sees critiques alone. `actors.decoding` does the same in sampling,
where the log-probabilities of the drawn tokens are known already.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Sequence
from typing import Any

import torch
from trl import GRPOTrainer
from trl.models import unwrap_model_for_generation
from trl.trainer.utils import split_tensor_dict

from critique_rl.actors import decoding
from critique_rl.actors.sampler import SeededSampler
from critique_rl.types import Sampling, child_seed

logger = logging.getLogger(__name__)

Batch = dict[str, Any]


def refusal(model: Any, *, checkpointing: bool, processes: int) -> str:
    """Why a model cannot share prompts in passes with a gradient; empty if it can.

    Args:
        model: The model.
        checkpointing: Whether activations are computed again in the backward pass, which drops the cache.
        processes: Number of processes; wrappers of several expect one forward pass per backward pass.
    """
    if reason := decoding.refusal(model):
        return reason
    if hasattr(model.config, "output_router_logits"):
        return "its experts may be balanced by a loss that needs the plain pass"
    if checkpointing:
        return "gradient_checkpointing drops the keys and values of the prompt"
    return "" if processes == 1 else "several processes train one model"


class SharedPromptTrainer(GRPOTrainer):
    """trl's trainer with one pass of a prompt for its group where `args.share_prompts` asks for it.

    What cannot share prompts is logged with the reason.

    Attributes:
        shares_prompts: Whether passes for log-probabilities and updates share prompts.
        shares_sampling: Whether sampling does.
        sampled_logps: Log-probabilities (N, T) of the last rollout's tokens as they were drawn; None unless
            sampling shares prompts.
    """

    args: Any
    model: Any
    eos_token_ids: Any
    _buffered_inputs: Any
    _tokenizer: Any
    is_fsdp_enabled: bool
    is_deepspeed_enabled: bool
    shares_prompts = False
    shares_sampling = False
    sampled_logps: torch.Tensor | None = None

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        if not self.args.share_prompts:
            return
        checkpointing, processes = bool(self.args.gradient_checkpointing), self.accelerator.num_processes
        passes = refusal(self.model, checkpointing=checkpointing, processes=processes)
        sampling = decoding.refusal(self.model) or self._other_sampler()
        for what, reason in (("in passes", passes), ("in sampling", sampling)):
            if reason:
                logger.info("share_prompts: %s each row computes its prompt, because %s", what, reason)
        self.shares_prompts, self.shares_sampling = not passes, not sampling

    def _other_sampler(self) -> str:
        """Why `generate` of transformers, or vLLM, has to draw the critiques; empty if not."""
        if self.use_vllm or self.use_transformers_continuous_batching:
            return "another engine samples"
        if self.is_fsdp_enabled or self.is_deepspeed_enabled:
            return "the processes that share its weights have to make the same steps"
        args = self.args
        extra = set(args.generation_kwargs or ()) - {"temperature", "top_p"}
        extra |= {name for name in ("top_k", "min_p", "cache_implementation") if getattr(args, name)}
        extra |= {"repetition_penalty"} if args.repetition_penalty != 1.0 else set()
        return f"the sampler is set by {', '.join(sorted(extra))}" if extra else ""

    def _generate_single_turn(
        self, prompt_ids: list[list[int]], images: Any, multimodal_fields: Any, *args: Any, **options: Any
    ) -> Any:
        self.sampled_logps = None
        if not self.shares_sampling or not self.model.training:
            return super()._generate_single_turn(prompt_ids, images, multimodal_fields, *args, **options)
        config, given = self.args, self.args.generation_kwargs or {}
        sampling = Sampling(
            config.max_completion_length,
            given.get("temperature", config.temperature),
            given.get("top_p", config.top_p),
        )
        # A row has the seed of its place in the whole rollout: so many processes draw what one would.
        path, first = ("critique", self.state.global_step, 0), config.process_index * len(prompt_ids)
        seeds = [child_seed(config.seed, *path, first + i) for i in range(len(prompt_ids))]
        sampler = SeededSampler(seeds, sampling)
        logps_NT = torch.zeros(len(prompt_ids), sampling.max_tokens, device=self.accelerator.device)

        def choose(logits_BV: torch.Tensor, rows_B: torch.Tensor, step: int) -> torch.Tensor:
            drawn_B = sampler.draw(logits_BV, rows_B, step)
            scaled_BV = logits_BV.float() / self.temperature
            drawn_B1 = scaled_BV.gather(-1, drawn_B.unsqueeze(1))
            logps_NT[rows_B, step] = drawn_B1.squeeze(1) - scaled_BV.logsumexp(-1)
            return drawn_B

        pad_id = self._tokenizer.pad_token_id
        with unwrap_model_for_generation(
            self.model_wrapped,
            self.accelerator,
            gradient_checkpointing_kwargs=config.gradient_checkpointing_kwargs,
        ) as model:
            settings = {"max_tokens": sampling.max_tokens, "stop_ids": self.eos_token_ids, "pad_id": pad_id}
            completion_ids = decoding.decode(model, prompt_ids, choose, **settings)
        if not logps_NT.isfinite().all():  # in the words of torch, which draws elsewhere
            raise RuntimeError("probability tensor contains inf or nan")
        self.sampled_logps = logps_NT[:, : max(map(len, completion_ids))]
        return completion_ids, None

    def _prepare_inputs(self, generation_batch: Any) -> Any:
        buffered = self._buffered_inputs
        inputs = super()._prepare_inputs(generation_batch)
        if not self.shares_prompts or not self.model.training or self._buffered_inputs is buffered:
            return inputs
        self._buffered_inputs = grouped(self._buffered_inputs, self.current_gradient_accumulation_steps)
        return self._buffered_inputs[self._step % self.args.steps_per_generation]

    def _get_per_token_logps_and_entropies(
        self,
        model: Any,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        logits_to_keep: int,
        batch_size: int | None = None,
        **kwargs: Any,
    ) -> Any:
        if not self.shares_prompts:
            return super()._get_per_token_logps_and_entropies(
                model, input_ids, attention_mask, logits_to_keep, batch_size, **kwargs
            )
        rows = batch_size or len(input_ids)
        parts = zip(input_ids.split(rows), attention_mask.split(rows), strict=True)
        with self.accelerator.autocast():
            passes = [log_probabilities(model, *part, completion_length=logits_to_keep) for part in parts]
        logps, entropies = zip(*passes, strict=True)
        return torch.cat(logps), None if entropies[0] is None else torch.cat(entropies), None


def rows_of_prompts(prompt_ids_NP: torch.Tensor, prompt_mask_NP: torch.Tensor) -> tuple[list[int], list[int]]:
    """First row of each different prompt, and for each row the place of its prompt among them.

    >>> ids = torch.tensor([[0, 5], [3, 5], [0, 5]])
    >>> rows_of_prompts(ids, (ids > 0).long())
    ([0, 1], [0, 1, 0])
    """
    places: dict[tuple[int, ...], int] = {}
    first: list[int] = []
    place_of_row: list[int] = []
    for row, (ids, mask) in enumerate(zip(prompt_ids_NP.tolist(), prompt_mask_NP.tolist(), strict=True)):
        key = (*ids, *mask)
        if key not in places:
            places[key] = len(first)
            first.append(row)
        place_of_row.append(places[key])
    return first, place_of_row


def log_probabilities(
    model: Any, input_ids_NL: torch.Tensor, attention_mask_NL: torch.Tensor, completion_length: int
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Log-probabilities (N, T) of the critiques' tokens, and entropies (N, T) of their distributions.

    The head of a reference computes no entropies: None.

    Args:
        model: A causal language model with trl's fused head, perhaps with an adapter; see `refusal`.
        input_ids_NL: Left-padded prompts of one width, then right-padded critiques.
        attention_mask_NL: 1 for tokens, 0 for padding.
        completion_length: Width T of the critiques.
    """
    starts_NL = attention_mask_NL.cumsum(-1)  # 0 in the padding on the left
    unread = int((starts_NL == 0).all(0).sum())
    longest = max(1, int(attention_mask_NL[:, -completion_length:].sum(-1).max()))
    missing = completion_length - longest
    kept = slice(unread, input_ids_NL.size(1) - missing)  # without columns that are padding in each row
    input_ids_NL, attention_mask_NL = input_ids_NL[:, kept], attention_mask_NL[:, kept]
    width = input_ids_NL.size(1) - longest - 1  # a prompt's last token predicts the first of a critique
    ids_NS, cache = input_ids_NL[:, width:], None
    if width > 0:
        first, place_of_row = rows_of_prompts(input_ids_NL[:, :width], attention_mask_NL[:, :width])
        prompts = decoding.without_adapter(
            model
        ).base_model(  # without the head
            input_ids=input_ids_NL[first, :width],
            attention_mask=attention_mask_NL[first, :width],
            use_cache=True,
        )
        cache = prompts.past_key_values
        cache.batch_select_indices(torch.tensor(place_of_row, device=input_ids_NL.device))
    labels_NS = ids_NS.masked_fill(attention_mask_NL[:, width:] == 0, -100)
    labels_NS[:, 0] = -100
    output = model(
        input_ids=ids_NS,
        attention_mask=attention_mask_NL,
        past_key_values=cache,
        labels=labels_NS,
        fused_lm_head=True,
    )
    pad = torch.nn.functional.pad
    entropy_NT = None if output.entropy is None else pad(output.entropy[:, -longest:], (0, missing))
    return pad(output.log_probs[:, -longest:], (0, missing)), entropy_NT


def grouped(batches: Sequence[Batch], together: int) -> list[Batch]:
    """Reorder the rows of each `together` micro-batches, one optimizer step, for little work.

    Equal prompts become neighbours, and long critiques come together. trl shuffles the rows of a rollout, which
    scatters the groups over micro-batches. The gradient of an optimizer step is a sum over its rows and does not
    know their order.
    """
    ordered: list[Batch] = []
    for start in range(0, len(batches), together):
        parts = batches[start : start + together]
        whole = {key: _joined([part[key] for part in parts]) for key in parts[0]}
        _, place_of_row = rows_of_prompts(whole["prompt_ids"], whole["prompt_mask"])
        lengths = whole["completion_mask"].sum(-1).tolist()
        longest: dict[int, int] = {}
        for place, length in zip(place_of_row, lengths, strict=True):
            longest[place] = max(longest.get(place, 0), length)
        order = sorted(
            range(len(lengths)), key=lambda row: (-longest[place_of_row[row]], place_of_row[row], row)
        )
        ordered += split_tensor_dict({key: _chosen(value, order) for key, value in whole.items()}, len(parts))
    return ordered


def _joined(values: list[Any]) -> Any:
    if isinstance(values[0], torch.Tensor) and values[0].ndim > 0:
        return torch.cat(values)
    return list(itertools.chain(*values)) if isinstance(values[0], list) else values[0]


def _chosen(value: Any, order: list[int]) -> Any:
    if isinstance(value, torch.Tensor) and value.ndim > 0:
        return value[order]
    return [value[row] for row in order] if isinstance(value, list) else value
