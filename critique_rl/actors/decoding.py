"""Decode many prompts at once: what prompts share is read once, and a finished row leaves the batch.

The k critiques of a response have one prompt, and the k refinements after them start alike. `transformers`'
`generate` reads each prompt whole, and computes a finished row until the last one ends. `decode` reads each shared
beginning once, expands its keys and values to the rows, and then reads what follows. The tokens are those of
`generate` up to the order of floating-point sums.
"""

from __future__ import annotations

import contextlib
import inspect
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from peft import PeftModel

from critique_rl.actors.loading import fastest_dtype

Choose = Callable[[torch.Tensor, torch.Tensor, int], torch.Tensor]
"""Next tokens (B,) of the running rows, from their logits (B, V), their numbers (B,) and the step."""

_ENOUGH_SAVED = 0.9
"""Share of the positions, with padding, above which reading beginnings separately does not pay."""

_MOST_TOGETHER = 64
"""Most prompts that read their beginning together."""


@dataclass
class Group:
    """Prompts that start alike.

    Attributes:
        rows: Their numbers.
        shared: Number of tokens that all of them start with; each prompt has at least one more.
    """

    rows: list[int]
    shared: int


def refusal(model: Any) -> str:
    """Why a model cannot be decoded here; empty if it can."""
    text = model.config.get_text_config()
    kinds = set(getattr(text, "layer_types", None) or ["full_attention"])
    if text is not model.config:
        return "the model reads images"
    if kinds != {"full_attention"} or getattr(text, "sliding_window", None):
        return (
            f"layers of the model have {', '.join(sorted(kinds - {'full_attention'})) or 'a sliding window'}"
        )
    if isinstance(model, PeftModel) and model.active_peft_config.is_prompt_learning:
        return "its adapter is a prompt"
    needed = {"attention_mask", "position_ids", "past_key_values", "logits_to_keep"}
    missing = needed - inspect.signature(without_adapter(model).forward).parameters.keys()
    return f"its forward pass takes no {' and no '.join(sorted(missing))}" if missing else ""


def without_adapter(model: Any) -> Any:
    """The model that an adapter is in, or the model itself; the layers of an adapter stay in their places."""
    return model.get_base_model() if isinstance(model, PeftModel) else model


@torch.no_grad()
def decode(
    model: Any,
    prompts: Sequence[Sequence[int]],
    choose: Choose,
    *,
    max_tokens: int,
    stop_ids: Sequence[int],
    pad_id: int,
) -> list[list[int]]:
    """New tokens of each prompt, up to `max_tokens`, with the one that ended it.

    Args:
        model: A causal language model, perhaps with an adapter, that `refusal` lets pass.
        prompts: Token ids, at least one each.
        choose: Picks the next tokens.
        max_tokens: Most new tokens of a row.
        stop_ids: Tokens that end a row.
        pad_id: Token of the padding.
    """
    stop_ids_S = torch.tensor(list(stop_ids), device=model.device)
    rows_B = torch.arange(len(prompts), device=model.device)
    replies: list[list[int]] = [[] for _ in prompts]
    with contiguous_head(model), packed_weights(model, max_tokens):
        ids_BL, mask_BL, cache = _read_beginnings(model, prompts, pad_id)
        for step in range(max_tokens):
            output = _forward(model, ids_BL, mask_BL, cache)
            cache = output.past_key_values
            tokens_B = choose(output.logits[:, -1], rows_B, step)
            for row, token in zip(rows_B.tolist(), tokens_B.tolist(), strict=True):
                replies[row].append(token)
            going_B = ~torch.isin(tokens_B, stop_ids_S)
            if not going_B.any():
                break
            if not going_B.all():
                kept = going_B.nonzero().flatten()
                cache.batch_select_indices(kept)
                rows_B, mask_BL, tokens_B = rows_B[kept], mask_BL[kept], tokens_B[kept]
            ids_BL = tokens_B.unsqueeze(1)
            mask_BL = torch.cat([mask_BL, torch.ones_like(ids_BL)], dim=1)
    return replies


def greedy(logits_BV: torch.Tensor, rows_B: torch.Tensor, step: int) -> torch.Tensor:
    """The most likely tokens (B,)."""
    return logits_BV.argmax(-1)


def shared_beginnings(prompts: Sequence[Sequence[int]]) -> list[Group]:
    """Groups of prompts that start alike; together they hold each prompt once, and save the most tokens.

    Groups are runs of the prompts in the order of their tokens, of at most 64.

    >>> [(g.rows, g.shared) for g in shared_beginnings([[1, 2, 3, 4], [1, 7, 8, 9], [1, 2, 3, 5], [1, 7, 8, 8]])]
    [([0, 2], 3), ([3, 1], 3)]
    """
    order = sorted(range(len(prompts)), key=lambda row: list(prompts[row]))
    common = [_common(prompts[a], prompts[b]) for a, b in itertools.pairwise(order)]
    # For the first n prompts: most tokens that groups of them save, size and beginning of the last group.
    best: list[tuple[int, int, int]] = [(0, 0, 0)]
    for n in range(1, len(order) + 1):
        shared = len(prompts[order[n - 1]]) - 1
        choices = [(best[n - 1][0], 1, shared)]
        for size in range(2, min(n, _MOST_TOGETHER) + 1):
            shared = min(shared, common[n - size])
            if shared == 0:
                break
            choices.append((best[n - size][0] + (size - 1) * shared, size, shared))
        best.append(max(choices))
    groups: list[Group] = []
    while order:
        _, size, shared = best[len(order)]
        groups.append(Group(order[-size:], shared))
        del order[-size:]
    return groups[::-1]


def _common(a: Sequence[int], b: Sequence[int]) -> int:
    """Number of tokens that both start with, less than the length of either."""
    most = min(len(a), len(b)) - 1
    return next((i for i in range(most) if a[i] != b[i]), most)


def _read_beginnings(
    model: Any, prompts: Sequence[Sequence[int]], pad_id: int
) -> tuple[torch.Tensor, torch.Tensor, Any]:
    """Tokens (B, L) that are still to be read, mask of all tokens, and the cache of those that were read."""
    groups = shared_beginnings(prompts)
    width = max((g.shared for g in groups if len(g.rows) > 1), default=0)
    for group in groups:  # a prompt on its own must not widen the beginnings of the others
        group.shared = min(group.shared, width)
    rest = max(len(prompts[row]) - group.shared for group in groups for row in group.rows)
    positions = len(groups) * width + len(prompts) * rest
    if not width or positions > _ENOUGH_SAVED * len(prompts) * max(map(len, prompts)):
        ids_BL, mask_BL = _padded(prompts, pad_id, model.device)
        return ids_BL, mask_BL, None
    ids_GP, mask_GP = _padded([prompts[g.rows[0]][: g.shared] for g in groups], pad_id, model.device)
    cache = _forward(model, ids_GP, mask_GP, None).past_key_values
    place = {row: (number, group.shared) for number, group in enumerate(groups) for row in group.rows}
    number_B = torch.tensor([place[row][0] for row in range(len(prompts))], device=model.device)
    cache.batch_select_indices(number_B)
    rests = [prompt[place[row][1] :] for row, prompt in enumerate(prompts)]
    ids_BR, mask_BR = _padded(rests, pad_id, model.device)
    return ids_BR, torch.cat([mask_GP[number_B], mask_BR], dim=1), cache


def _padded(
    texts: Sequence[Sequence[int]], pad_id: int, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """Left-padded ids and mask, with one column of padding more than needed.

    Without any padding, transformers drops the mask, and on CPU takes a path for grouped queries that needs ten
    times as long for one token in bfloat16.
    """
    return left_padded(texts, pad_id, max(map(len, texts)) + 1, device)


def left_padded(
    texts: Sequence[Sequence[int]], pad_id: int, width: int, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids and mask (B, width) of texts with padding on the left, whatever the tokenizer's padding side is."""
    ids = torch.tensor([[pad_id] * (width - len(text)) + list(text) for text in texts], device=device)
    mask = torch.tensor([[0] * (width - len(text)) + [1] * len(text) for text in texts], device=device)
    return ids, mask


def _forward(model: Any, ids_BL: torch.Tensor, mask_BL: torch.Tensor, cache: Any) -> Any:
    positions_BL = (mask_BL.cumsum(-1) - 1).clamp(min=0)[:, -ids_BL.size(1) :]
    return model(
        input_ids=ids_BL,
        attention_mask=mask_BL,
        position_ids=positions_BL,
        past_key_values=cache,
        use_cache=True,
        logits_to_keep=1,
    )


@contextlib.contextmanager
def contiguous_head(model: Any) -> Iterator[None]:
    """Within, the output layer gets the last positions of a prompt side by side in memory.

    transformers passes a slice of all positions. For that, and frozen weights, torch multiplies row by row, with a
    copy of the whole output layer for each row.
    """
    head = model.get_output_embeddings()
    if head is None:
        yield
        return
    handle = head.register_forward_pre_hook(lambda _, given: (given[0].contiguous(), *given[1:]))
    try:
        yield
    finally:
        handle.remove()


@contextlib.contextmanager
def packed_weights(model: Any, steps: int) -> Iterator[None]:
    """Within, linear layers in bfloat16 on CPU multiply by weights in the order of oneDNN's kernels.

    Otherwise each step of a few rows brings all weights into that order again, which takes as long as the step. To
    pack them takes the time of some steps; a few steps are left alone. Adapters that are kept in float32 count in
    bfloat16 within. Weights must not change within.
    """
    layers, kept = [], []
    if steps >= 8 and model.device.type == "cpu" and _can_pack():
        linear: list[Any] = [layer for layer in model.modules() if type(layer) is torch.nn.Linear]
        if any(layer.weight.dtype == torch.bfloat16 for layer in linear):
            kept = [(p, p.data) for p in model.parameters() if p.dtype == torch.float32]
            layers = linear
    try:
        for parameter, data in kept:
            parameter.data = data.to(torch.bfloat16)
        for layer in layers:
            packed = torch.ops.mkldnn._reorder_linear_weight(layer.weight.detach(), None)
            layer.forward = partial(_multiply_packed, packed, layer.bias)
        yield
    finally:
        for parameter, data in kept:
            parameter.data = data
        for layer in layers:
            vars(layer).pop("forward", None)


def _can_pack() -> bool:
    names = ("_reorder_linear_weight", "_linear_pointwise")
    return fastest_dtype("cpu") == torch.bfloat16 and all(hasattr(torch.ops.mkldnn, name) for name in names)


def _multiply_packed(weight: torch.Tensor, bias: torch.Tensor | None, x: torch.Tensor) -> torch.Tensor:
    product: torch.Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return product
