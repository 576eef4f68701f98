"""Time the refinements of a step: a bare `generate` of transformers, our actor, and our actor without each piece.

    python experiments/bench_actor.py
    python experiments/bench_actor.py --model FOLDER --rows FILE --dtype bfloat16 --new-tokens 96 --threads 2

All get the same weights and the same chats: `--prompts` responses, with `--k` critiques of each, greedy. They take
turns in one process, after a turn that is not timed. `ratio` is bare / ours of the medians; `gains` is ours less a
piece over ours. `same_replies` is the share of replies that are those of the bare `generate`: in float32 all, in
bfloat16 those that rounding leaves alone. Critiques are made up: `--words` words each. Writes
`results/bench/refinements.json`.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from bench import QWEN, RESULTS, some_rows
from stepclock import random_weights

from critique_rl import TransformersActor
from critique_rl.actors import decoding
from critique_rl.prompts import prompt_set
from critique_rl.reports.provenance import origin
from critique_rl.types import Conversation, Sampling

WORDS = ("this", "step", "is", "right", "wrong", "because", "the", "value", "does", "not", "follow", "then")
PIECES: dict[str, dict[str, Any]] = {
    "shared beginnings": {"_MOST_TOGETHER": 1},
    "packed weights": {"_can_pack": lambda: False},
    "packed weights, and the output layer copied": {
        "_can_pack": lambda: False,  # a packed layer is never copied
        "contiguous_head": lambda model: contextlib.nullcontext(),
    },
}
"""Pieces of the decoding, each with what takes it away; the last takes two."""


@contextlib.contextmanager
def without(piece: str | None) -> Iterator[None]:
    """Take a piece away within."""
    with contextlib.ExitStack() as stack:
        for name, value in PIECES.get(piece or "", {}).items():
            stack.enter_context(mock.patch.object(decoding, name, value))
        yield


def chats(given: argparse.Namespace) -> list[Conversation]:
    """Chats in which the actor refines; the critiques of a response differ."""
    rng, prompts = random.Random(given.seed), prompt_set(given.prompt_set)
    asked = []
    for row in some_rows(given.prompts, given.rows):
        for _ in range(given.k):
            said = " ".join(rng.choices(WORDS, k=given.words + rng.randrange(8)))
            critique = f"Step sentence: {row['response']}\nStep analysis: {said}\n" + (
                "Correctness of the final answer: Wrong"
            )
            asked.append(prompts.refinement_prompt(row["question"], row["response"], critique))
    return asked


def bare(actor: TransformersActor, asked: list[Conversation], new_tokens: int) -> list[str]:
    """Replies as a script would ask for them: one padded batch, weights not frozen."""
    model, tokenizer = actor._model, actor._tokenizer
    ids = [prompt.ids for prompt in actor._encoder.encode(asked)]
    width, pad = max(map(len, ids)), tokenizer.pad_token_id
    padded = torch.tensor([[pad] * (width - len(row)) + list(row) for row in ids])
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in ids])
    model.requires_grad_(True)  # as from_pretrained gives it; frozen, its output layer is copied for each row
    with torch.inference_mode():
        output = model.generate(
            input_ids=padded.to(model.device),
            attention_mask=mask.to(model.device),
            max_new_tokens=new_tokens,
            do_sample=False,
            repetition_penalty=1.0,  # Qwen2.5's default of 1.1 would change greedy replies
        )
    model.requires_grad_(False)
    return list(tokenizer.batch_decode(output[:, width:], skip_special_tokens=True))


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    add = parser.add_argument
    add("--model", help="checkpoint folder; without it, the shape of Qwen2.5-0.5B with random weights")
    add("--rows", type=Path, help="rows as in bench.py")
    add("--prompts", type=int, default=4)
    add("--prompt-set", default="paper")
    add("--k", type=int, default=4, help="critiques of a response")
    add("--words", type=int, default=18)
    add("--new-tokens", type=int, default=96)
    add("--repeats", type=int, default=3)
    add("--threads", type=int, default=1)
    add("--dtype", choices=("float32", "bfloat16"), default="float32")
    add("--seed", type=int, default=0)
    add("--output", type=Path, default=RESULTS / "refinements.json")
    return parser.parse_args()


def main() -> None:
    """Measure, print and write."""
    given = arguments()
    torch.set_num_threads(given.threads)
    with tempfile.TemporaryDirectory() as folder:
        actor = TransformersActor(
            given.model or random_weights(folder, **QWEN), dtype=given.dtype, cache_size=0
        )
    asked, sampling = chats(given), Sampling(given.new_tokens)

    def ours(piece: str | None) -> list[str]:
        with without(piece):
            return [generation.text or "" for generation in actor.generate(asked, sampling)]

    ways: dict[str, Callable[[], list[str]]] = {
        "bare": lambda: bare(actor, asked, given.new_tokens),
        "ours": lambda: ours(None),
    }
    ways |= {f"without {piece}": (lambda piece=piece: ours(piece)) for piece in PIECES}  # type: ignore[misc]
    times: dict[str, list[float]] = {name: [] for name in ways}
    replies: dict[str, list[str]] = {}
    for turn in range(given.repeats + 1):
        order = list(ways.items())
        for name, way in reversed(order) if turn % 2 else order:
            began = time.perf_counter()
            replies[name] = way()
            if turn:
                times[name].append(time.perf_counter() - began)
    medians = {name: statistics.median(values) for name, values in times.items()}
    same = sum(a == b for a, b in zip(replies["bare"], replies["ours"], strict=True)) / len(asked)
    gains = {piece: medians[f"without {piece}"] / medians["ours"] for piece in PIECES}
    config = {k: v for k, v in vars(given).items() if k not in ("model", "rows", "output")}
    config |= {"weights": "real" if given.model else "random", "rows": "given" if given.rows else "tiny"}
    found: dict[str, Any] = {"ratio": medians["bare"] / medians["ours"], "gains": gains, "seconds": times}
    content = {
        "config": config,
        **origin(),
        "device": actor.settings["device"],
        **found,
        "same_replies": same,
    }
    given.output.parent.mkdir(parents=True, exist_ok=True)
    given.output.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    print(f"bare / ours {content['ratio']:.2f}, the same replies {100 * same:.0f} %")
    for name, values in times.items():
        print(f"  {name:32} median {medians[name]:8.2f} s, {[round(v, 2) for v in values]}")


if __name__ == "__main__":
    main()
