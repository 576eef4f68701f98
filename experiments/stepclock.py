"""Measure one RL step from outside: phases, computed positions, arithmetic and memory.

`bench.py` and `growth.py` use it. Nothing here changes what a trainer computes: methods of one trainer are wrapped
and its models get hooks, so both a trainer of trl and one of ours can be measured.
"""

from __future__ import annotations

import contextlib
import gc
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import psutil
import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PrinterCallback,
    Qwen2Config,
    TrainerCallback,
    set_seed,
)

TINY = files("critique_rl") / "assets" / "tiny"
LOGPS, UPDATE, REST = "old and reference log-probabilities", "forward and backward", "rest"
PHASES = {
    "get_batch_samples": "data",
    "_prepare_inputs": "batches",
    "_generate_and_score_completions": "advantages",
    "_generate": "critique texts",
    "_generate_single_turn": "critique texts",
    "_check_weights": "checks",
    "_calculate_rewards": "reward",
    "training_step": UPDATE,
    "_clip_grad_norm": "optimizer",
    "_get_grad_norm": "optimizer",
    "floating_point_ops": "log",
    "_maybe_log_save_evaluate": "log",
}
"""Phase of the methods of a trainer; a method inside another one is charged to its own phase alone."""


class Clock:
    """Exclusive time of each phase of a step, and the positions and arithmetic of its forwards.

    Attributes:
        seconds: Time by phase; the sum is `wall`.
        work: By phase: `calls` of the model, `positions` computed, `tokens` among them that are no padding, `flop`
            of the forward pass of these, and `bytes` of weights read. Positions of a prompt that rows share count
            once. A finished row that stays in the batch of a decoding is padding. `flop` leaves attention out.
        texts: By name (`critiques`, `refinements`): rows and tokens that were written, whether computed or
            remembered.
        models: Models that are watched.
        graded: Number of texts graded, of `distinct` pairs of gold answer and text among them, and of `new` ones
            among these, which no earlier step of this side had.
    """

    def __init__(self) -> None:
        self.stack, self.running, self.last = [REST], False, 0.0
        self.models: list[Any] = []
        self._known: set[tuple[str, str]] = set()
        self._clear()

    def _clear(self) -> None:
        self.wall = 0.0
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self.work: defaultdict[str, defaultdict[str, Any]] = defaultdict(lambda: defaultdict(int))
        self.texts: dict[str, dict[str, int]] = {}
        self._earlier = frozenset(self._known)
        self.graded = {"texts": 0, "distinct": 0, "new": 0}

    def charge(self) -> None:
        """Add the time since the last change to the current phase."""
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        now = time.perf_counter()
        if self.running:
            self.seconds[self.stack[-1]] += now - self.last
        self.last = now

    def start(self) -> None:
        """Begin a step, and forget the one before."""
        self._clear()
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

    def timed(
        self,
        owner: Any,
        method: str,
        name: str,
        *,
        without_gradient: bool = False,
        then: Callable[[Any, tuple[Any, ...]], None] | None = None,
    ) -> None:
        """Charge the calls of a method of this one object to a phase, if it has the method.

        `without_gradient` leaves out calls that build a graph. `then` gets result and arguments of each call.
        """
        inner: Callable[..., Any] | None = getattr(owner, method, None)
        if inner is None:
            return

        def call(*args: Any, **kwargs: Any) -> Any:
            if without_gradient and torch.is_grad_enabled():
                return inner(*args, **kwargs)
            with self.phase(name):
                result = inner(*args, **kwargs)
            if then is not None:
                then(result, args)
            return result

        setattr(owner, method, call)

    def wrote(self, name: str, lengths: Iterable[int]) -> None:
        """Count texts and their tokens."""
        lengths, said = list(lengths), self.texts.setdefault(name, {"rows": 0, "tokens": 0})
        said["rows"] += len(lengths)
        said["tokens"] += sum(lengths)

    def grades(self, pairs: Iterable[tuple[str, str]]) -> None:
        """Count graded pairs of gold answer and text."""
        pairs = list(pairs)
        self.graded["texts"] += len(pairs)
        self.graded["distinct"] += len(set(pairs))
        self.graded["new"] += len(set(pairs) - self._earlier)
        self._known.update(pairs)

    def watch(self, model: Any) -> None:
        """Count the work of each forward of a model, and tell prefill from decoding by its width."""
        self.models.append(model)
        base = model.get_base_model() if hasattr(model, "get_base_model") else model
        head = base.get_output_embeddings().weight
        embedding = base.get_input_embeddings().weight
        every = {id(p): p.numel() for p in base.parameters()}
        body = sum(every.values()) - sum({id(w): w.numel() for w in (head, embedding)}.values())
        sizes = body, head.numel(), (body + head.numel()) * head.element_size()
        stop = base.generation_config.eos_token_id
        ends = [*(stop if isinstance(stop, list) else [stop]), base.generation_config.pad_token_id]
        ends_E = torch.tensor([i for i in ends if i is not None], device=head.device)

        def labelled(_: Any, args: Any, kwargs: dict[str, Any]) -> None:
            if self.running and kwargs.get("labels") is not None:
                self._add(flop=2 * sizes[1] * (kwargs["labels"] >= 0).sum())

        def before(_: Any, args: Any, kwargs: dict[str, Any]) -> None:
            if self.running:
                self._count(kwargs, args, sizes, ends_E)

        # The decoder, because every path through a model calls it once, also those past an adapter or the head.
        base.get_decoder().register_forward_pre_hook(before, with_kwargs=True)
        model.register_forward_pre_hook(labelled, with_kwargs=True)

    def _count(self, kwargs: Mapping[str, Any], args: Any, sizes: tuple[int, int, int], ends_E: Any) -> None:
        ids = kwargs.get("input_ids", args[0] if args else None)
        grid = ids if ids is not None else kwargs["inputs_embeds"][..., 0]
        rows, width = grid.shape
        writes = self.stack[-1].startswith(("critique", "refine"))
        if writes:
            name = f"{self.stack[-1].split()[0]} {'prefill' if width > 1 else 'decode'}"
            if name != self.stack[-1]:
                self.charge()
                self.stack[-1] = name
        mask, tokens = kwargs.get("attention_mask"), grid.numel()
        if writes and width == 1 and ids is not None:
            tokens = torch.isin(ids, ends_E, invert=True).sum()
        elif isinstance(mask, torch.Tensor) and mask.dim() == 2:
            tokens = mask[:, -width:].sum()
        body, head, read = sizes
        heads = (tokens if width == 1 else rows) if writes else 0  # else those with a label
        flop = 2 * body * tokens + 2 * head * heads
        self._add(calls=1, positions=grid.numel(), tokens=tokens, flop=flop, bytes=read)

    def _add(self, **counts: Any) -> None:
        """Add to the work of the current phase. Tensors are read at the end: no wait for a GPU here."""
        work = self.work[self.stack[-1]]
        for name, value in counts.items():
            work[name] = work[name] + value  # not in place, which tensors of inference mode forbid

    def measured(self) -> dict[str, Any]:
        """Counts of the step as plain numbers."""
        work = {name: {k: float(v) for k, v in counts.items()} for name, counts in self.work.items()}
        return {
            **{"seconds": self.wall, "phases": dict(self.seconds), "work": work},
            **{"texts": self.texts, "graded": self.graded},
        }


class Steps(TrainerCallback):
    """Starts and stops the clock, and charges the optimizer. A step ends after its log."""

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

    def on_epoch_end(self, *_: Any, **__: Any) -> None:
        """End the step."""
        self.clock.stop()


def attach(clock: Clock, trainer: Any) -> None:
    """Measure the steps of a trainer of trl, or of one derived from it."""
    clock.watch(trainer.model)
    if getattr(trainer, "ref_model", None) is not None:
        clock.watch(trainer.ref_model)
    for method, name in PHASES.items():
        written = method == "_generate"
        clock.timed(trainer, method, name, then=_critiques(clock) if written else None)
    clock.timed(trainer, "_get_per_token_logps_and_entropies", LOGPS, without_gradient=True)
    clock.timed(trainer.model, "zero_grad", "optimizer")
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(Steps(clock))


def _critiques(clock: Clock) -> Callable[[Any, tuple[Any, ...]], None]:
    return lambda result, _: clock.wrote("critiques", map(len, result[1]))


class Side:
    """A trainer that makes one step a turn, and its clock.

    Args:
        build: Returns the trainer for rows, a folder for its output, and a clock, to which it is attached.
        rows: Rows of all turns, in order.
        folder: Folder for its files.
        rl_steps: RL steps that the trainer makes in a turn.
    """

    def __init__(
        self, build: Callable[[Any, str, Clock], Any], rows: Any, folder: Path, rl_steps: int = 1
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.rl_steps, self.clock, self.turns = folder, rl_steps, Clock(), 0
        self.trainer = build(rows, str(folder), self.clock)
        self.rows = self.trainer.train_dataset  # with prompts
        self.asleep: dict[str, list[torch.Tensor]] = {}
        self.moved = False

    def turn(self, rows: Sequence[int] | range) -> dict[str, Any]:
        """Make the steps of a turn with these rows; return what the clock says, and memory.

        Raises:
            RuntimeError: The optimizer or trl's buffer of micro-batches did not go on from the turn before.
        """
        for name, tensors in self.asleep.items():
            saved = torch.load(self.folder / f"{name}.pt", weights_only=True)
            for tensor, data in zip(tensors, saved, strict=True):
                tensor.data = data
        self.asleep = {}
        trainer, args = self.trainer, self.trainer.args
        trainer.train_dataset = self.rows.select(rows)
        set_seed(self.turns)
        trained = [p for p in trainer.model.parameters() if p.requires_grad]
        before = [p.detach().flatten()[:512].clone() for p in trained]
        gc.collect()
        peak = Peak()
        trainer.train()
        growth = peak.growth()
        self.turns += 1
        self.moved |= any(not b.equal(p.flatten()[:512]) for b, p in zip(before, trained, strict=True))
        updates = self.turns * self.rl_steps
        counts = {int(state["step"]) for state in trainer.optimizer.state.values()}
        if counts != {updates} or trainer._step != updates * args.gradient_accumulation_steps:
            raise RuntimeError(f"after {updates} updates: optimizer at {counts}, trl at {trainer._step}.")
        held = sum(tensor.nbytes for tensors in self.tensors().values() for tensor in tensors)
        facts = {"held_bytes": held, "peak_bytes": None if growth is None else held + growth}
        return {**self.clock.measured(), **facts}

    def tensors(self) -> dict[str, list[torch.Tensor]]:
        """Weights that are frozen, and weights and moments that change."""
        every = {id(p): p for model in self.clock.models for p in model.parameters()}
        trained = {id(p): p for p in self.trainer.model.parameters() if p.requires_grad}
        optimizer = self.trainer.optimizer
        states = [] if optimizer is None else optimizer.state.values()
        moments = [v for state in states for v in state.values() if isinstance(v, torch.Tensor) and v.dim()]
        frozen = [p for key, p in every.items() if key not in trained]
        return {"frozen": frozen, "trained": [*trained.values(), *moments]}

    def needs(self) -> int:
        """Bytes of a side in a step, from before the first one: weights, gradients and two moments."""
        tensors = self.tensors()
        return sum(t.nbytes for t in tensors["frozen"]) + 4 * sum(t.nbytes for t in tensors["trained"])

    def sleep(self) -> None:
        """Hold the weights and moments on disk until the next turn."""
        self.asleep = self.tensors()
        for name, tensors in self.asleep.items():
            file = self.folder / f"{name}.pt"
            if name == "trained" or not file.exists():
                torch.save([t.detach() for t in tensors], file)
            for tensor in tensors:
                tensor.data = tensor.data.new_empty(0)


class Peak:
    """Growth of memory in a step: of the GPU, else resident; None where the system does not say."""

    def __init__(self) -> None:
        self.start = 0
        with contextlib.suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")  # the peak of memory starts anew
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
            self.start = torch.cuda.memory_allocated()
        else:
            self.start = resident()

    def growth(self) -> int | None:
        """Most bytes above those at the start."""
        if torch.cuda.is_available():
            return torch.cuda.max_memory_allocated() - self.start
        with contextlib.suppress(OSError):
            for line in Path("/proc/self/status").read_text().splitlines():
                if line.startswith("VmHWM"):
                    return max(0, int(line.split()[1]) * 1024 - self.start)
        return None


def resident() -> int:
    """Resident bytes of this process."""
    return int(psutil.Process().memory_info().rss)


def random_weights(folder: str, **shape: Any) -> str:
    """Write a Qwen2 of some shape with random weights, and the tokenizer of `tiny`; return the folder."""
    tokenizer = AutoTokenizer.from_pretrained(str(TINY / "actor"))
    ends: dict[str, Any] = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(Qwen2Config(**shape, **ends)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
