"""Time a whole RL step of ours against a plain trl script: same weights, rows, samples, dtype and new tokens.

    python experiments/bench.py tiny
    python experiments/bench.py qwen2.5-0.5b-lora --model FOLDER --prompts 4 --repeats 3

Ours and the plain script take turns in one process. `ratio` is plain / ours, above 1 where ours is faster. The
phases of a step are exclusive and include `rest`. Limits are measured in the same process. Without `--model`, the
0.5B shape gets random weights and the tokenizer of `tiny`. The KL coefficient is the same on both sides.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from math_verify import parse, verify
from peft import LoraConfig, PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer, Qwen2Config, TrainerCallback
from trl import GRPOConfig, GRPOTrainer

from critique_rl import Stage1Config, Stage1Trainer, Stage2Config, Stage2Trainer, TransformersActor
from critique_rl.pool import collect_pool
from critique_rl.prompts import prompt_set
from critique_rl.reports.provenance import origin
from critique_rl.tasks import load_task
from critique_rl.types import Sampling

RESULTS = Path(__file__).resolve().parent / "results" / "bench"
TINY = files("critique_rl") / "assets" / "tiny"
SHAPES = ("tiny", "qwen2.5-0.5b-lora", "qwen2.5-0.5b-full")
LOGPS, UPDATE = "old and reference log-probabilities", "forward and backward"


class Clock:
    """Exclusive time of each phase of a step, and the token positions that its forwards compute."""

    def __init__(self) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self.positions: Counter[str] = Counter()  # with padding
        self.tokens: Counter[str] = Counter()  # without
        self.calls: Counter[str] = Counter()
        self.stack, self.running, self.wall = ["rest"], False, 0.0
        self.last = 0.0  # time of the last change of the phase

    def charge(self) -> None:
        """Add the time since the last change to the current phase."""
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        now = time.perf_counter()
        if self.running:
            self.seconds[self.stack[-1]] += now - self.last
        self.last = now

    def start(self) -> None:
        """Begin the step."""
        self.charge()
        self.running, self.began = True, self.last

    def stop(self) -> None:
        """End the step."""
        self.charge()
        self.running, self.wall = False, self.last - self.began

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Charge the time within to `name`."""
        self.charge()
        self.stack.append(name)
        try:
            yield
        finally:
            self.charge()
            self.stack.pop()

    def timed(self, owner: Any, method: str, name: str, *, without_gradient: bool = False) -> None:
        """Charge the calls of a method of this one object to a phase."""
        inner: Callable[..., Any] = getattr(owner, method)

        def call(*args: Any, **kwargs: Any) -> Any:
            if without_gradient and torch.is_grad_enabled():
                return inner(*args, **kwargs)
            with self.phase(name):
                return inner(*args, **kwargs)

        setattr(owner, method, call)

    def watch(self, model: Any) -> None:
        """Count the positions of each forward, and tell prefill from decoding by their number."""

        def before(_: Any, args: Any, kwargs: dict[str, Any]) -> None:
            ids = kwargs["input_ids"] if "input_ids" in kwargs else args[0]
            mask, name = kwargs.get("attention_mask"), self.stack[-1]
            if name.endswith(("prefill", "decode")):
                self.charge()
                name = f"{name.split()[0]} {'prefill' if ids.shape[1] > 1 else 'decode'}"
                self.stack[-1] = name
            self.calls[name] += 1
            self.positions[name] += ids.numel()
            self.tokens[name] += ids.numel()
            if mask is not None and mask.dim() == 2:  # without padding
                self.tokens[name] += int(mask[:, -ids.shape[1] :].sum()) - ids.numel()

        model.register_forward_pre_hook(before, with_kwargs=True)
        if isinstance(
            model, PeftModel
        ):  # whose `generate` calls the base, and whose `forward` passes its hooks
            model.get_base_model().register_forward_pre_hook(before, with_kwargs=True)


class Steps(TrainerCallback):
    """Starts and stops the clock, and charges the optimizer."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        """Begin the step."""
        self.clock.start()

    def on_pre_optimizer_step(self, *_: Any, **__: Any) -> None:
        """Enter the optimizer."""
        self.clock.charge()
        self.clock.stack.append("optimizer")

    def on_optimizer_step(self, *_: Any, **__: Any) -> None:
        """Leave the optimizer."""
        self.clock.charge()
        self.clock.stack.pop()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        """End the step."""
        self.clock.stop()


def plain_reward(given: argparse.Namespace, clock: Clock, stage: int) -> Callable[..., list[float]]:
    """Reward function of the plain script: `generate` of the frozen model and math-verify, in line."""
    prompts, tokenizer = prompt_set(given.prompt_set), AutoTokenizer.from_pretrained(given.actor)
    tokenizer.padding_side = "left"
    if stage == 2:
        actor = AutoModelForCausalLM.from_pretrained(given.actor, dtype=given.dtype).eval().to(given.device)
        clock.watch(actor)

    def reward(completions: Any, question: Any, response: Any, answer: Any, **columns: Any) -> list[float]:
        critiques = [c[0]["content"] for c in completions]
        truths = columns["response_correct"]
        said = [0.2 * (("answer: Correct" in c) == o) for c, o in zip(critiques, truths, strict=True)]
        if stage == 1:
            return said
        texts = []
        for q, y, c in zip(question, response, critiques, strict=True):
            chat: Any = prompts.refinement_prompt(q, y, c)
            end = "continue_final_message" if chat[-1]["role"] == "assistant" else "add_generation_prompt"
            options: dict[str, Any] = {end: True}
            texts.append(tokenizer.apply_chat_template(chat, tokenize=False, **options))
        with clock.phase("refine prefill"), torch.inference_mode():
            encoded = tokenizer(texts, return_tensors="pt", padding=True).to(given.device)
            encoded.pop("token_type_ids", None)
            ids = actor.generate(**encoded, max_new_tokens=given.new_tokens, do_sample=False)
            refined = tokenizer.batch_decode(ids[:, encoded.input_ids.shape[1] :], skip_special_tokens=True)
        with clock.phase("grade"):
            right = [float(verify(parse(a), parse(r))) for a, r in zip(answer, refined, strict=True)]
        return [a + b for a, b in zip(right, said, strict=True)]

    return reward


def build(side: str, stage: int, given: argparse.Namespace, rows: Dataset, clock: Clock, output: str) -> Any:
    """Trainer of one side, one RL step long, with its timers."""
    batch = given.prompts * 4
    own = {"prompts": given.prompt_set, "rl_steps": 1}
    length = {"refinement_max_tokens": given.new_tokens} if stage == 2 else {}
    settings: dict[str, Any] = {
        **{"output_dir": output, "per_device_train_batch_size": min(batch, 8), "num_generations": 4},
        **{"generation_batch_size": batch, "gradient_accumulation_steps": batch // min(batch, 8)},
        **{"max_completion_length": given.new_tokens, "learning_rate": 1e-6, "beta": 0.01},
        **{"num_iterations": 1, "temperature": 0.7, "bf16": False, "use_cpu": given.device == "cpu"},
        **{"gradient_checkpointing": False, "report_to": "none", "disable_tqdm": True, "seed": 0},
        **{"dataloader_pin_memory": False, "model_init_kwargs": {"dtype": given.dtype}},
        **{"save_strategy": "no"},
    }
    lora = LoraConfig(r=16, target_modules="all-linear") if given.shape.endswith("lora") else None
    trainer: Any
    if side == "ours" and stage == 1:
        trainer = Stage1Trainer(
            given.critic, args=Stage1Config(**settings, **own), train_dataset=rows, peft_config=lora
        )
    elif side == "ours":
        actor = TransformersActor(given.actor, dtype=getattr(torch, given.dtype))
        clock.watch(actor._model)
        clock.timed(actor, "generate", "refine prefill")
        args = Stage2Config(**settings, **own, **length)
        trainer = Stage2Trainer(given.critic, actor, args, train_dataset=rows, peft_config=lora)
        clock.timed(trainer.reward_funcs[0], "grade", "grade")
    else:
        critique = prompt_set(given.prompt_set).critique_prompt
        data = [{**row, "prompt": critique(row["question"], row["response"])} for row in rows]
        reward: Any = plain_reward(given, clock, stage)
        trainer = GRPOTrainer(
            given.critic,
            reward_funcs=reward,
            args=GRPOConfig(**settings, max_steps=1),
            train_dataset=Dataset.from_list(data),
            peft_config=lora,
        )
    clock.watch(trainer.model)
    if getattr(trainer, "ref_model", None) is not None:
        clock.watch(trainer.ref_model)
    clock.timed(trainer, "_generate", "critique prefill")
    clock.timed(trainer, "_get_per_token_logps_and_entropies", LOGPS, without_gradient=True)
    clock.timed(trainer, "training_step", UPDATE)
    clock.timed(trainer, "_prepare_inputs", "rest")
    trainer.add_callback(Steps(clock))
    return trainer


def one_step(side: str, stage: int, given: argparse.Namespace, rows: Dataset) -> dict[str, Any]:
    """Seconds, phases, padding and peak memory of one step."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # the peak of memory starts anew
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    clock = Clock()
    with tempfile.TemporaryDirectory() as folder:
        trainer = build(side, stage, given, rows, clock, folder)
        weights = sum(p.numel() for p in trainer.model.parameters())
        trainer.train()
    limits, shares = given.limits, {}
    for name, seconds in clock.seconds.items():
        if not clock.calls[name] or not seconds:
            continue
        if name.endswith("decode"):
            read = weights * getattr(torch, given.dtype).itemsize * clock.calls[name]
            shares[name] = read / seconds / limits["bytes_per_second"]
        else:  # a backward pass through frozen weights needs the gradients of the inputs alone
            passes = 1 if name != UPDATE else 2 if given.shape.endswith("lora") else 3
            flop = 2 * passes * weights * clock.tokens[name]
            shares[name] = flop / seconds / limits["flop_per_second"]
    return {
        **{"seconds": clock.wall, "phases": dict(clock.seconds), "share_of_limit": shares},
        "coverage": sum(clock.seconds.values()) / clock.wall,
        "non_padding": sum(clock.tokens.values()) / sum(clock.positions.values()),
        "peak_bytes": peak_bytes(),
    }


def peak_bytes() -> int | None:
    """Most memory held since the step began: of the GPU, else resident; None where the system does not say."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM"):
                return int(line.split()[1]) * 1024
    return None


def measured_limits(given: argparse.Namespace) -> dict[str, float]:
    """Best matmul of the dtype, FLOP/s, and best read of memory, bytes/s."""
    a = torch.randn(1024, 1024, device=given.device).to(getattr(torch, given.dtype))
    big = torch.ones(1 << 26, device=given.device)

    def best(work: Callable[[], Any]) -> float:
        times = []
        for _ in range(8):
            began = time.perf_counter()
            work()
            if given.device == "cuda":
                torch.cuda.synchronize()
            times.append(time.perf_counter() - began)
        return min(times)

    return {
        "flop_per_second": 2 * 1024**3 / best(lambda: a @ a),
        "bytes_per_second": big.nbytes / best(big.sum),
    }


def compare(stage: int, given: argparse.Namespace, rows: Dataset) -> dict[str, Any]:
    """Both sides in turn; the first turn warms up where more than one was asked for."""
    runs: dict[str, list[dict[str, Any]]] = {"plain": [], "ours": []}
    for turn in range(given.repeats + (given.repeats > 1)):
        for side, done in runs.items():
            step = one_step(side, stage, given, rows)
            if turn or given.repeats == 1:
                done.append(step)
    summary: dict[str, Any] = {}
    for side, done in runs.items():
        times = [step["seconds"] for step in done]
        spread = {"best": min(times), "median": statistics.median(times), "worst": max(times)}
        summary[side] = {**spread, **min(done, key=lambda step: step["seconds"]), "all": times}
    plain, ours = summary["plain"]["phases"], summary["ours"]["phases"]
    ratios = {name: plain[name] / ours[name] for name in plain if ours.get(name)}
    ratio = summary["plain"]["median"] / summary["ours"]["median"]
    of_best = summary["plain"]["best"] / summary["ours"]["best"]  # other work on the machine moves it least
    return {"ratio": ratio, "ratio_of_best": of_best, "ratio_of_phases": ratios, **summary}


def prepare(given: argparse.Namespace, folder: str) -> Dataset:
    """Set models and prompts of the shape, and return the rows."""
    tiny, compact = TransformersActor(str(TINY / "actor")), prompt_set("compact")
    problems = load_task("modular_chain", split="train", size=2000)[: given.prompts]
    rows = collect_pool(problems, tiny, compact, samples=1, sampling=Sampling(max_tokens=24), seed=0)
    given.prompt_set = "compact" if given.shape == "tiny" else "paper"
    given.critic, given.actor = str(TINY / "sft"), str(TINY / "actor")
    if given.shape != "tiny":
        given.critic = given.actor = given.model or random_weights(folder)
    return rows


def random_weights(folder: str) -> str:
    """Write Qwen2.5-0.5B's shape with random weights, and the tokenizer of `tiny`."""
    shape: dict[str, Any] = {
        "hidden_size": 896,
        "intermediate_size": 4864,
        "num_hidden_layers": 24,
        "vocab_size": 151936,
    }
    heads: dict[str, Any] = {"num_attention_heads": 14, "num_key_value_heads": 2, "tie_word_embeddings": True}
    tokenizer = AutoTokenizer.from_pretrained(str(TINY / "actor"))
    ends: dict[str, Any] = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    AutoModelForCausalLM.from_config(Qwen2Config(**shape, **heads, **ends)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def main() -> None:
    """Run one shape, print its ratios and write its result file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("shape", choices=SHAPES)
    parser.add_argument("--model", help="checkpoint folder with real weights of Qwen2.5-0.5B")
    parser.add_argument("--prompts", type=int, default=4, help="prompts of a step, with 4 critiques each")
    parser.add_argument(
        "--new-tokens", type=int, default=48, help="new tokens of a critique, of a refinement"
    )
    parser.add_argument("--repeats", type=int, default=5, help="timed steps of each side")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--output", type=Path, help="result file")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    given.device = "cuda" if torch.cuda.is_available() else "cpu"
    config = {name: str(v) for name, v in vars(given).items() if name not in ("output", "model")}
    config["weights"] = "real" if given.model or given.shape == "tiny" else "random"
    with tempfile.TemporaryDirectory() as folder:
        rows = prepare(given, folder)
        given.limits = measured_limits(given)
        stages = {f"stage{stage}": compare(stage, given, rows) for stage in (1, 2)}
    facts = {"dtype": given.dtype, "device": given.device, "limits": given.limits}
    content = {"config": config, **origin(), **facts, **stages}
    output = given.output or RESULTS / f"{given.shape}.json"
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    for name, stage in stages.items():
        print(f"{name}: plain / ours {stage['ratio']:.2f}", stage["ratio_of_phases"])


if __name__ == "__main__":
    main()
