"""Time whole RL steps of ours against a plain trl script: same weights, rows, samples, dtype and new tokens.

    python experiments/bench.py tiny
    python experiments/bench.py qwen2.5-0.5b-lora --model FOLDER --dtype bfloat16 --repeats 3 --threads 2
    python experiments/bench.py tiny --stages 2 --share-prompts --set actor.batch_size=8

Each side is built once for a stage and makes one step that is not timed. Then the sides take turns in one process,
with other rows each turn and the order swapped each turn. Both draw with the same seed in a turn. `ratio` is
plain / ours of the medians, above 1 where ours is faster; `ratios` has each turn.

`alike` is what both sides get. They differ in what the plain script leaves at trl's defaults: advantages are trl's
(scaled by the group) against RLOO with whitening; the KL is in the loss against in the reward; refinements come
from a bare `generate` of all prompts at once and grades from math-verify in line, against our actor and grader.
Ours also checks weights and writes the rollout for the viewer. Gradient checkpointing is off on both sides.

The seconds of the phases are exclusive; `named_share` is the part of the step that is not `rest`. Limits are
measured in the same process. Shares of them count non-padding arithmetic alone, and for decoding the reading of
the weights alone. `peak_bytes` is what a side holds and what memory grew by in its step. Without `--model`, the
0.5B shape gets random weights and the tokenizer of `tiny`. Where the sides do not fit into memory together (full
fine-tuning of 0.5B in float32 and 24 GiB), weights and moments of those that wait are in temporary files.
"""

from __future__ import annotations

import argparse
import gc
import json
import math
import statistics
import tempfile
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import torch
from datasets import Dataset
from math_verify import parse, verify
from peft import LoraConfig
from stepclock import TINY, UPDATE, Clock, Side, attach, random_weights
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import GRPOConfig, GRPOTrainer

from critique_rl import Stage1Config, Stage1Trainer, Stage2Config, Stage2Trainer, TransformersActor
from critique_rl.pool import collect_pool
from critique_rl.prompts import prompt_set
from critique_rl.reports.provenance import origin
from critique_rl.runs.roofline import machine_limits
from critique_rl.tasks import load_task
from critique_rl.types import Sampling

RESULTS = Path(__file__).resolve().parent / "results" / "bench"
SMALL, LARGE = (
    {"prompts": 32, "new_tokens": 48, "micro_batch": 64},
    {"prompts": 4, "new_tokens": 96, "micro_batch": 8},
)
SHAPES = {"tiny": SMALL, "qwen2.5-0.5b-lora": LARGE, "qwen2.5-0.5b-full": LARGE}
"""Sizes of a step; those of `tiny` are the embedded default's."""
COLUMNS = {"question", "response", "answer", "kind", "response_correct"}
QWEN = {
    **{"hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": 24, "vocab_size": 151936},
    **{"num_attention_heads": 14, "num_key_value_heads": 2, "tie_word_embeddings": True},
}


@dataclass(frozen=True)
class Work:
    """A step that both sides make, and settings of ours alone.

    Attributes:
        critic: Folder of the critic's start.
        actor: Folder of the frozen actor.
        stage: 1 or 2.
        prompts: Prompts of a step.
        k: Critiques of a prompt.
        new_tokens: Most new tokens of a critique, and of a refinement.
        micro_batch: Most critiques of a forward and backward pass.
        rl_steps: Steps of one call of `train`.
        lora: Train an adapter.
        dtype: Type of all weights.
        settings: Options of our configuration; those that start with `actor.` are of our actor.
    """

    critic: str
    actor: str
    prompt_set: str = "compact"
    stage: int = 2
    prompts: int = 4
    k: int = 4
    new_tokens: int = 48
    micro_batch: int = 8
    rl_steps: int = 1
    lora: bool = False
    dtype: str = "float32"
    device: str = "cpu"
    settings: Mapping[str, Any] = field(default_factory=dict)

    def alike(self) -> dict[str, Any]:
        """Options of both trainers, in trl's words."""
        batch = self.prompts * self.k
        micro = math.gcd(batch, self.micro_batch)
        return {
            **{"per_device_train_batch_size": micro, "gradient_accumulation_steps": batch // micro},
            **{"generation_batch_size": batch, "num_generations": self.k, "num_iterations": 1},
            **{"max_completion_length": self.new_tokens, "temperature": 0.7},
            **{"learning_rate": 1e-6, "beta": 0.01, "seed": 0, "shuffle_dataset": False},
            **{"bf16": False, "use_cpu": self.device == "cpu", "gradient_checkpointing": False},
            **{"logging_steps": 1, "report_to": "none", "save_strategy": "no", "disable_tqdm": True},
            **{"dataloader_pin_memory": False, "model_init_kwargs": {"dtype": self.dtype}},
        }

    def adapter(self) -> LoraConfig | None:
        """Adapter of both trainers."""
        return LoraConfig(r=16, target_modules="all-linear") if self.lora else None


def plain_reward(work: Work, clock: Clock) -> Callable[..., list[float]]:
    """Reward function of the plain script: `generate` of the frozen model and math-verify, in line."""
    prompts, tokenizer = prompt_set(work.prompt_set), AutoTokenizer.from_pretrained(work.actor)
    tokenizer.padding_side = "left"
    if work.stage == 2:
        actor = AutoModelForCausalLM.from_pretrained(work.actor, dtype=work.dtype).eval().to(work.device)
        clock.watch(actor)

    def refine(chats: list[Any]) -> list[str]:
        end = "continue_final_message" if chats[0][-1]["role"] == "assistant" else "add_generation_prompt"
        options: dict[str, Any] = {"tokenize": False, end: True}
        texts = [tokenizer.apply_chat_template(chat, **options) for chat in chats]
        encoded = tokenizer(texts, return_tensors="pt", padding=True).to(work.device)
        encoded.pop("token_type_ids", None)
        ids = actor.generate(**encoded, max_new_tokens=work.new_tokens, do_sample=False)
        replies = ids[:, encoded.input_ids.shape[1] :]
        clock.wrote("refinements", (replies != tokenizer.pad_token_id).sum(1).tolist())
        decoded: list[str] = tokenizer.batch_decode(replies, skip_special_tokens=True)
        return decoded

    def reward(completions: Any, question: Any, response: Any, answer: Any, **columns: Any) -> list[float]:
        critiques = [c[0]["content"] for c in completions]
        truths = columns["response_correct"]
        said = [0.2 * (("answer: Correct" in c) == o) for c, o in zip(critiques, truths, strict=True)]
        if work.stage == 1:
            return said
        rows = zip(question, response, critiques, strict=True)
        with clock.phase("refine texts"), torch.inference_mode():
            refined = refine([prompts.refinement_prompt(*row) for row in rows])
        clock.grades(zip(answer, refined, strict=True))
        with clock.phase("grade"):
            right = [float(verify(parse(a), parse(r))) for a, r in zip(answer, refined, strict=True)]
        return [a + b for a, b in zip(right, said, strict=True)]

    return reward


def plain(work: Work, rows: Dataset, output: str, clock: Clock) -> Any:
    """Trainer of a plain script."""
    critique = prompt_set(work.prompt_set).critique_prompt
    data = [{**row, "prompt": critique(row["question"], row["response"])} for row in rows]
    reward: Any = plain_reward(work, clock)
    trainer = GRPOTrainer(
        work.critic,
        reward_funcs=reward,
        args=GRPOConfig(output_dir=output, max_steps=work.rl_steps, **work.alike()),
        train_dataset=Dataset.from_list(data),
        peft_config=work.adapter(),
    )
    attach(clock, trainer)
    return trainer


def ours(work: Work, rows: Dataset, output: str, clock: Clock) -> Any:
    """Trainer of this project."""
    options: dict[str, Any] = {**work.alike(), "prompts": work.prompt_set, "rl_steps": work.rl_steps}
    options |= {k: v for k, v in work.settings.items() if not k.startswith("actor.")}
    data: dict[str, Any] = {"train_dataset": rows, "peft_config": work.adapter()}
    if work.stage == 1:
        trainer: Any = Stage1Trainer(work.critic, args=Stage1Config(output_dir=output, **options), **data)
        attach(clock, trainer)
        return trainer
    of_actor = {k.removeprefix("actor."): v for k, v in work.settings.items() if k.startswith("actor.")}
    actor = TransformersActor(work.actor, dtype=getattr(torch, work.dtype), device=work.device, **of_actor)
    args = Stage2Config(output_dir=output, refinement_max_tokens=work.new_tokens, **options)
    trainer = Stage2Trainer(work.critic, actor, args, **data)
    attach(clock, trainer)
    clock.watch(actor._model)
    clock.timed(
        actor,
        "generate",
        "refine texts",
        then=lambda said, _: clock.wrote("refinements", [g.completion_tokens for g in said]),
    )
    clock.timed(
        trainer.reward_funcs[0],
        "grade",
        "grade",
        then=lambda _, asked: clock.grades((item["gold"], item["reply"] or "") for item in asked[0]),
    )
    return trainer


def summary(turns: Sequence[Mapping[str, Any]], work: Work, limits: Mapping[str, Any]) -> dict[str, Any]:
    """Times of the turns of one side, and sums over them."""
    times = [turn["seconds"] for turn in turns]
    phases: defaultdict[str, float] = defaultdict(float)
    counts: defaultdict[str, defaultdict[str, float]] = defaultdict(lambda: defaultdict(float))
    for turn in turns:
        for name, seconds in turn["phases"].items():
            phases[name] += seconds
        for name, values in turn["work"].items():
            for key, value in values.items():
                counts[name][key] += value
    # A backward pass through frozen weights needs the gradients of the inputs alone.
    passes = {UPDATE: 2 if work.lora else 3}
    flop, shares = limits["flop_per_second"][work.dtype], {}
    for name, of_phase in counts.items():
        if name.endswith("decode"):
            shares[name] = of_phase["bytes"] / phases[name] / limits["bytes_per_second"]
        else:
            shares[name] = passes.get(name, 1) * of_phase["flop"] / phases[name] / flop
    texts: dict[str, Any] = {}
    for name in turns[0]["texts"]:
        texts[name] = {key: sum(turn["texts"][name][key] for turn in turns) for key in ("rows", "tokens")}
    total = {key: sum(of_phase[key] for of_phase in counts.values()) for key in ("tokens", "positions")}
    return {
        **{"best": min(times), "median": statistics.median(times), "worst": max(times), "all": times},
        "named_share": 1 - phases["rest"] / sum(times),
        "phases": {name: seconds / len(turns) for name, seconds in phases.items()},
        "share_of_limit": shares,
        "non_padding": total["tokens"] / total["positions"],
        "positions": {name: int(of_phase["positions"]) for name, of_phase in counts.items()},
        "texts": texts,
        "graded": {key: sum(turn["graded"][key] for turn in turns) for key in turns[0]["graded"]},
        "held_bytes": max(turn["held_bytes"] for turn in turns),
        "peak_bytes": max((turn["peak_bytes"] or 0) for turn in turns) or None,
    }


def compare(given: argparse.Namespace, work: Work, rows: Dataset) -> dict[str, Any]:
    """Both sides in turn, after a turn of each that is not timed."""
    wanted = {"plain": (plain, work), "ours": (ours, work)}
    if given.plain_dtype not in (None, work.dtype):
        wanted[f"plain_{given.plain_dtype}"] = (plain, replace(work, dtype=given.plain_dtype))
    turns: dict[str, list[dict[str, Any]]] = {name: [] for name in wanted}
    sizes = {name: getattr(torch, own.dtype).itemsize for name, (_, own) in wanted.items()}
    park = given.park
    with tempfile.TemporaryDirectory() as folder:
        sides: dict[str, Side] = {}
        for name, (build, own) in wanted.items():
            sides[name] = Side(partial(build, own), rows, Path(folder) / name)
            if len(sides) == 1 and work.device == "cpu":
                together = sides[name].needs() * sum(sizes.values()) / sizes[name]
                park |= together > 0.8 * psutil.virtual_memory().total
            if park:
                sides[name].sleep()
        for turn in range(given.repeats + 1):
            order = list(sides.items())
            for name, side in reversed(order) if turn % 2 else order:
                done = side.turn(range(turn * work.prompts, (turn + 1) * work.prompts))
                if park:
                    side.sleep()
                if turn:
                    turns[name].append(done)
        moved = {name: side.moved for name, side in sides.items()}
    made = {
        name: {**summary(turns[name], own, given.limits), "weights_moved": moved[name]}
        for name, (_, own) in wanted.items()
    }
    result: dict[str, Any] = ratios(made["plain"], made["ours"])
    for name in list(made)[2:]:
        result[f"to_{name}"] = ratios(made[name], made["ours"])
    return {**result, **made, "on_disk_between_turns": park}


def ratios(theirs: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """Times of the plain side over times of ours, and its texts over ours."""
    shared = [name for name in theirs["phases"] if own["phases"].get(name)]
    tokens = {name: theirs["texts"][name]["tokens"] / said["tokens"] for name, said in own["texts"].items()}
    return {
        "ratio": theirs["median"] / own["median"],
        "ratio_of_best": theirs["best"] / own["best"],  # other work on the machine moves it least
        "ratios": [a / b for a, b in zip(theirs["all"], own["all"], strict=True)],
        "ratio_of_phases": {name: theirs["phases"][name] / own["phases"][name] for name in shared},
        "ratio_of_tokens": tokens,
    }


def some_rows(count: int, file: Path | None = None) -> Dataset:
    """Rows of a file, or some of `tiny`.

    Raises:
        SystemExit: There are fewer, or a row of the file lacks a column.
    """
    if file is None:
        problems = load_task("modular_chain", split="train", size=2000)[: max(32, 3 * count)]
        sampling = Sampling(max_tokens=24)
        tiny, compact = TransformersActor(str(TINY / "actor")), prompt_set("compact")
        rows = collect_pool(problems, tiny, compact, samples=1, sampling=sampling, seed=0)
    else:
        try:
            content = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise SystemExit(f"{file}: {error}; give a JSON list of rows.") from error
        for number, row in enumerate(content):
            if missing := COLUMNS - row.keys():
                raise SystemExit(f"{file}, row {number}: {', '.join(sorted(missing))} missing.")
        rows = Dataset.from_list(content)
    if len(rows) < count:
        raise SystemExit(f"{count} rows are needed, {len(rows)} are there: fewer --prompts or --repeats.")
    return rows.select_columns(sorted(COLUMNS)).select(range(count))


def setting(text: str) -> tuple[str, Any]:
    """Name and value of `NAME=VALUE`; the value is JSON, or else text."""
    name, equals, value = text.partition("=")
    known = {f.name for f in fields(Stage2Config)}
    if not equals or (name not in known and not name.startswith("actor.")):
        raise argparse.ArgumentTypeError(f"{text!r} is no NAME=VALUE of an option of Stage2Config or actor.")
    if name in Work("", "").alike() or name in ("prompts", "rl_steps", "refinement_max_tokens"):
        raise argparse.ArgumentTypeError(f"{name} is the same on both sides.")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    add = parser.add_argument
    add("shape", choices=SHAPES)
    add("--model", help="checkpoint folder with real weights of Qwen2.5-0.5B")
    add("--rows", type=Path, help="JSON list of rows with " + ", ".join(sorted(COLUMNS)))
    add("--stages", type=int, nargs="+", choices=(1, 2), default=[1, 2])
    add("--prompts", type=int, help="prompts of a step; 32 for tiny, 4 for others")
    add("--k", type=int, default=4, help="critiques of a prompt")
    add("--new-tokens", type=int, help="most new tokens of a critique, of a refinement; 48 and 96")
    add("--micro-batch", type=int, help="most critiques of a forward and backward pass; 64 and 8")
    add("--repeats", type=int, default=5, help="timed steps of each side")
    add("--threads", type=int, default=1)
    add("--dtype", choices=("float32", "bfloat16"), default="float32")
    add("--plain-dtype", choices=("float32", "bfloat16"), help="one more plain side, of this dtype")
    add("--set", type=setting, action="append", default=[], help="option of ours alone, NAME=VALUE")
    add("--share-prompts", action=argparse.BooleanOptionalAction, help="the same as --set share_prompts=...")
    add("--park", action="store_true", help="sides wait on disk; by itself where memory is short")
    add("--output", type=Path, help="result file")
    given = parser.parse_args()
    given.set = dict(given.set)
    for name, value in SHAPES[given.shape].items():
        setattr(given, name, getattr(given, name) or value)
    if given.share_prompts is not None:
        given.set["share_prompts"] = given.share_prompts
    return given


def main() -> None:
    """Run one shape, print its ratios and write its result file."""
    given = arguments()
    torch.set_num_threads(given.threads)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtypes = {given.dtype, given.plain_dtype or given.dtype}
    given.limits = machine_limits(device, sorted(dtypes))
    rows = some_rows((given.repeats + 1) * given.prompts, given.rows)
    options: dict[str, Any] = {"prompts": given.prompts, "k": given.k, "new_tokens": given.new_tokens}
    options |= {"micro_batch": given.micro_batch}
    options |= {"dtype": given.dtype, "device": device, "settings": given.set}
    stages: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        work = Work(str(TINY / "sft"), str(TINY / "actor"), **options)
        if given.shape != "tiny":
            weights = given.model or random_weights(folder, **QWEN)
            work = Work(weights, weights, "paper", lora=given.shape.endswith("lora"), **options)
        for stage in given.stages:
            stages[f"stage{stage}"] = compare(given, replace(work, stage=stage), rows)
            gc.collect()  # the sides are in circles of references
    config = {
        **{"shape": given.shape, "repeats": given.repeats, "threads": given.threads, "lora": work.lora},
        **{"weights": "real" if given.model or given.shape == "tiny" else "random"},
        **{"rows": "given" if given.rows else "tiny", "prompt_set": work.prompt_set},
        **{"alike": work.alike(), "refinement_max_tokens": work.new_tokens, "ours": given.set},
    }
    facts = {"dtype": given.dtype, "plain_dtype": given.plain_dtype, "device": device, "limits": given.limits}
    output = given.output or RESULTS / f"{given.shape}.json"
    output.parent.mkdir(parents=True, exist_ok=True)
    content = {"config": config, **origin(), **facts, **stages}
    output.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    for name, result in stages.items():
        show(name, result)


def show(stage: str, result: Mapping[str, Any]) -> None:
    """Print the ratios of a stage, and the phases of both sides."""
    print(f"{stage}: plain / ours {result['ratio']:.2f}, each turn {[round(r, 2) for r in result['ratios']]}")
    for name in [key for key in result if key.startswith("to_")]:
        print(f"{stage}: {name[3:]} / ours {result[name]['ratio']:.2f}")
    sides = {side: result[side] for side in ("plain", "ours")}
    for name in sorted({name for side in sides.values() for name in side["phases"]}):
        seconds = [f"{side['phases'].get(name, 0.0):9.3f} s" for side in sides.values()]
        limits = [f"{100 * side['share_of_limit'].get(name, math.nan):5.1f} %" for side in sides.values()]
        print(f"  {name:36} plain {seconds[0]} {limits[0]}   ours {seconds[1]} {limits[1]}")
    for name, side in sides.items():
        print(
            f"  {name}: named {side['named_share']:.3f}, non-padding {side['non_padding']:.3f}, {side['texts']}"
        )


if __name__ == "__main__":
    main()
