"""Check the accuracy of a base under our protocol against a bare `generate` with the same prompt and grader.

    python experiments/base_accuracy.py experiments/configs/qwen2.5-0.5b.yaml --tokens 320

Both get the base of a configuration before any training, its evaluation problems, its prompt set and its `actor`
settings, and both are greedy. Ours is the actor that every evaluation asks. The bare one is a padded batch
through the tokenizer's chat template and `generate` of transformers. `difference` is ours less bare in points;
`same_texts` is the share of replies that are equal to the last character: in float32 nearly all, in bfloat16 those
that rounding leaves alone. A base learns no length from examples, so `--tokens` may be more than the limit of the
run. Writes `results/CONFIG/base_accuracy.json`.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from critique_rl import TransformersActor
from critique_rl.config.reading import as_dict
from critique_rl.config.run import EXPERIMENTS, RunConfig, load_config
from critique_rl.display import Display
from critique_rl.grading.replies import grade_replies
from critique_rl.prompts import prompt_set
from critique_rl.reports.provenance import result
from critique_rl.reports.settings import without_folders
from critique_rl.runs.problems import load_problems
from critique_rl.runs.process import go_offline_without_hub, guarded, quiet_libraries
from critique_rl.types import Conversation, Sampling

BATCH = 25
"""Prompts of a batch of the bare `generate`."""


def main() -> int:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("config", help="YAML file of a run")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override a setting")
    parser.add_argument("--tokens", type=int, help="most tokens of a response; the run's limit if left out")
    parser.add_argument("--limit", type=int, help="most problems of a task; all if left out")
    parser.add_argument("--output", type=Path, help="result file")
    given = parser.parse_args()

    def work() -> int:
        config = load_config(given.config, given.set)
        go_offline_without_hub()
        quiet_libraries()
        tokens = given.tokens or config.lengths.response
        rows = accuracy(config, tokens, given.limit)
        output = given.output or EXPERIMENTS / "results" / config.name / "base_accuracy.json"
        output.parent.mkdir(parents=True, exist_ok=True)
        content = result(without_folders(as_dict(config)), config.seeds[:1], rows) | {"tokens": tokens}
        output.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        print(f"result: {output}")
        return 0

    return guarded(work)


def accuracy(config: RunConfig, tokens: int, limit: int | None) -> list[dict[str, Any]]:
    """One row for each evaluation task: `dataset`, `n`, accuracies, their difference, share of equal texts."""
    loading = {k: v for k, v in config.actor.items() if k in ("dtype", "device", "batch_size")}
    actor = TransformersActor(config.base, gguf_file=config.base_gguf, **loading)
    prompts, display, rows = prompt_set(config.prompts), Display(), []
    for task in config.evaluation.tasks:
        problems = load_problems(task, display)[:limit]
        asked = [prompts.reasoning_prompt(p.question, image=p.image) for p in problems]
        ours = [reply.text for reply in actor.generate(asked, Sampling(tokens))]
        plain: list[str | None] = list(bare(actor, asked, tokens))
        right = [
            sum(grade is True for grade in grade_replies(problems, texts)) / len(problems)
            for texts in (ours, plain)
        ]
        row = {
            "dataset": task.title,
            "n": len(problems),
            "ours": right[0],
            "bare": right[1],
            "difference": 100 * (right[0] - right[1]),
            "same_texts": sum(a == b for a, b in zip(ours, plain, strict=True)) / len(problems),
        }
        rows.append(row)
        print(
            f"{task.title}: ours {row['ours']:.1%}, bare {row['bare']:.1%} of {row['n']} problems; "
            f"{row['same_texts']:.0%} of the replies are equal",
            flush=True,
        )
    return rows


def bare(actor: TransformersActor, asked: Sequence[Conversation], tokens: int) -> list[str]:
    """Greedy replies as a script would ask for them, on the same weights."""
    model, tokenizer = actor._model, actor._tokenizer
    tokenizer.padding_side, texts = "left", []
    for start in range(0, len(asked), BATCH):
        batch = list(asked[start : start + BATCH])
        continued = batch[0][-1]["role"] == "assistant"
        encoded = tokenizer.apply_chat_template(
            batch,
            add_generation_prompt=not continued,
            continue_final_message=continued,
            padding=True,
            return_tensors="pt",
            return_dict=True,
        ).to(model.device)
        with torch.inference_mode():
            output = model.generate(
                input_ids=encoded["input_ids"],
                attention_mask=encoded["attention_mask"],
                max_new_tokens=tokens,
                do_sample=False,
                repetition_penalty=1.0,  # the checkpoint's 1.1 would change greedy replies
            )
        new = output[:, encoded["input_ids"].shape[1] :]
        texts += tokenizer.batch_decode(new, skip_special_tokens=True)
    return texts


if __name__ == "__main__":
    sys.exit(main())
