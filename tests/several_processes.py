"""Train, save, resume and evaluate in each process of a launch; `training/test_several_processes.py` starts them.

Critiques are given, because sampling may differ with the number of processes: so all weights can be compared.
"""

from __future__ import annotations

import shutil
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import load_from_disk
from peft import LoraConfig

from critique_rl.actors import Actor, OpenAIActor, TransformersActor
from critique_rl.config.data import LengthConfig
from critique_rl.config.evaluation import ProtocolConfig
from critique_rl.evaluation.protocol import evaluate
from critique_rl.methods.score import ScoreConfig, ScoreTrainer
from critique_rl.prompts import STEP_LABEL, VERDICT_LABEL, prompt_set
from critique_rl.records import rank_of_ranks
from critique_rl.runs.folder import shipped_directory
from critique_rl.runs.problems import protocol_of
from critique_rl.tasks import load_task
from critique_rl.training.saving import save_trained
from critique_rl.training.stages import CritiqueTrainer, Stage1Trainer, Stage2Trainer
from critique_rl.types import UserError

MODELS = shipped_directory("assets/tiny")
SEEING = shipped_directory("assets/tiny-vl") / "sft"
CRITIQUES = [
    f"{STEP_LABEL} {digit} + 1 = {digit + 1}\nExplanation: {digit}\n{VERDICT_LABEL} {verdict}"
    for digit, verdict in ((1, "Correct"), (4, "Wrong"), (7, "Wrong"), (2, "Correct"))
]
SHARDED = {
    "ACCELERATE_USE_FSDP": "true",
    "FSDP_VERSION": "2",
    "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP",
    "FSDP_RESHARD_AFTER_FORWARD": "true",
    "FSDP_CPU_RAM_EFFICIENT_LOADING": "true",
}
ZERO3 = {
    "CUDA_VISIBLE_DEVICES": "",
    "DS_ACCELERATOR": "cpu",
    "ACCELERATE_USE_DEEPSPEED": "true",
    "ACCELERATE_DEEPSPEED_ZERO_STAGE": "3",
    "ACCELERATE_DEEPSPEED_ZERO3_INIT": "true",
    "ACCELERATE_DEEPSPEED_OFFLOAD_OPTIMIZER_DEVICE": "none",
    "ACCELERATE_DEEPSPEED_OFFLOAD_PARAM_DEVICE": "none",
}
LAUNCHES: dict[str, dict[str, str]] = {"ddp": {}, "fsdp2": SHARDED, "zero3": ZERO3}
"""Variables of the launches, as `accelerate launch` sets them; neither gathers weights for saving by itself."""


class _Given:
    """Writes the given critiques to each prompt, as an engine beside the trainer would."""

    processing_class: Any

    def _generate_single_turn(self, prompt_ids: list[list[int]], *_: Any, **__: Any) -> Any:
        tokenizer = getattr(self.processing_class, "tokenizer", self.processing_class)
        ids = [[*tokenizer(text)["input_ids"], tokenizer.eos_token_id] for text in CRITIQUES]
        asked: Counter[tuple[int, ...]] = Counter()
        written = []
        for prompt in map(tuple, prompt_ids):
            written.append(ids[asked[prompt] % len(ids)])
            asked[prompt] += 1
        return written, None


class First(_Given, Stage1Trainer):
    """Stage I on given critiques."""


class Second(_Given, Stage2Trainer):
    """Stage II on given critiques."""


def enter(launch: str) -> dict[str, Any]:
    """Prepare the libraries for the next trainer of a launch on CPU; returns the settings that it needs."""
    if launch == "fsdp2":
        # torch shards on CPU, but accelerate asks for it on accelerators alone.
        from accelerate import PartialState
        from accelerate.state import AcceleratorState
        from accelerate.utils import DistributedType

        AcceleratorState._reset_state()  # it knows the layers of the model before
        PartialState(cpu=True)
        PartialState._shared_state["distributed_type"] = DistributedType.MULTI_GPU
        return {"use_cpu": True, "accelerator_config": {"use_configured_state": True}}
    if launch == "zero3":
        import deepspeed.ops
        from deepspeed.runtime.zero.config import DeepSpeedZeroConfig

        deepspeed.ops.__compatible_ops__.clear()  # it would compile operators that it can do without
        # By default weights of less than 100,000 numbers stay whole, so all of these models.
        DeepSpeedZeroConfig.model_fields["param_persistence_threshold"].default = 0
        DeepSpeedZeroConfig.model_rebuild(force=True)
        return {"use_cpu": False, "ddp_backend": "gloo"}
    return {"use_cpu": True, "ddp_find_unused_parameters": False}


class Trainings:
    """Trainings below one folder, each in all processes of a launch."""

    def __init__(self, folder: Path, launch: str) -> None:
        self.folder, self.launch = folder, launch
        self.rank, self.ranks = rank_of_ranks()
        self.pool = load_from_disk(str(folder.parent / "pool"))

    def settings(self, name: str, **more: Any) -> dict[str, Any]:
        """Settings of a training; those in `more` win."""
        return {
            **{"output_dir": str(self.folder / name), "report_to": "none", "disable_tqdm": True},
            **{"bf16": False, "gradient_checkpointing": False, "save_strategy": "steps", "save_steps": 2},
            **{"prompts": "compact", "max_completion_length": 48, "refinement_max_tokens": 24},
            **{"generation_batch_size": 16, "per_device_train_batch_size": 16 // self.ranks},
            **{"rl_steps": 2, "num_iterations": 2, "beta": 0.05, "temperature": 1.0, "learning_rate": 3e-4},
            "adam_epsilon": 1e-3,  # or rounding would decide the sign of the step of a weight without gradient
            **enter(self.launch),
            **more,
        }

    def build(
        self,
        cls: type[CritiqueTrainer],
        start: Path,
        name: str,
        actor: Actor | None = None,
        lora: LoraConfig | None = None,
        **more: Any,
    ) -> Any:
        """Make a trainer of the launch; a new adapter `lora` is trained in place of all weights."""
        args = cls.config_class(**self.settings(name, **more))
        rows = self.pool
        if name.startswith("seeing"):
            rows = rows.add_column("image", [str(self.folder.parent / "picture.png")] * len(rows))
        trainer: Any = cls(str(start), actor, args, rows, peft_config=lora)
        assert trainer.accelerator.num_processes == self.ranks
        alone = "MULTI_CPU" if self.ranks > 1 else "NO"
        kind = {"ddp": alone, "fsdp2": "FSDP", "zero3": "DEEPSPEED"}[self.launch]
        assert trainer.accelerator.distributed_type.value == kind
        return trainer

    def train(self, *args: Any, resume: Path | None = None, **options: Any) -> None:
        """Train and save; the arguments are those of `build`."""
        trainer = self.build(*args, **options)
        trainer.accelerator.wait_for_everyone()
        trainer.train(resume_from_checkpoint=None if resume is None else str(resume))
        save_trained(trainer, Path(trainer.args.output_dir))
        trainer.accelerator.wait_for_everyone()

    def resume(self, cls: type[CritiqueTrainer], start: Path, name: str, *args: Any, **options: Any) -> None:
        """Train once more from the first checkpoint of the training `name`."""
        resumed, checkpoint = self.folder / f"{name}_resumed", "checkpoint-2"
        if self.rank == 0:
            shutil.copytree(self.folder / name / checkpoint, resumed / checkpoint)
        self.train(cls, start, resumed.name, *args, resume=resumed / checkpoint, **options)


def whole(do: Trainings, url: str) -> None:
    """All weights: both stages, Stage II with a server too, and a model with vision."""
    first = do.folder / "stage1"
    do.train(First, MODELS / "sft", "stage1")
    actor = TransformersActor(MODELS / "actor")  # beside a trainer that is still there
    do.train(Second, first, "stage2", actor)
    do.resume(Second, first, "stage2", actor)
    do.train(Second, first, "served", OpenAIActor(url, model="tiny"), rl_steps=1)
    do.train(First, SEEING, "seeing")
    do.resume(First, SEEING, "seeing")
    do.train(First, SEEING, "blind")  # a model with vision on text alone
    do.resume(First, SEEING, "blind")


def adapters(do: Trainings, url: str) -> None:
    """An adapter: both stages, of which the second goes on with that of the first, and a model with vision."""
    first, rate = do.folder / "stage1", {"learning_rate": 2e-3}
    actor = TransformersActor(MODELS / "actor")
    do.train(First, MODELS / "sft", "stage1", lora=_lora(), **rate)
    do.train(Second, first, "stage2", actor, **rate)
    do.resume(Second, first, "stage2", actor, **rate)
    do.train(First, SEEING, "seeing", lora=_lora(), **rate)
    do.resume(First, SEEING, "seeing", lora=_lora(), **rate)
    if do.launch != "ddp":
        with pytest.raises(UserError, match="leaves it a part of the weights"):
            ScoreTrainer(str(MODELS / "sft"), args=ScoreConfig(**do.settings("score")), train_dataset=do.pool)


def _lora() -> LoraConfig:
    return LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM")


JOBS = {"whole": whole, "adapters": adapters}


def work(job: str, folder: Path, launch: str, url: str) -> None:
    """One of the `JOBS` and an evaluation of its Stage II, all below `folder`."""
    do = Trainings(folder, launch)
    JOBS[job](do, url)
    measure(folder, folder / "records.jsonl", do.rank, do.ranks)


def measure(models: Path, records: Path, rank: int = 0, ranks: int = 1) -> None:
    """Evaluate the critic of a Stage II with sampled critiques."""
    evaluate(
        load_task("modular_chain", split="test", size=2000)[:40],
        TransformersActor(MODELS / "actor"),
        TransformersActor(models / "stage2"),
        protocol_of(
            ProtocolConfig(critique_temperature=1.0), prompt_set("compact"), LengthConfig(24, 48, 24), 0
        ),
        records=records,
        chunk_size=8,
        rank=rank,
        ranks=ranks,
    )


if __name__ == "__main__":
    torch.set_num_threads(1)
    work(sys.argv[1], Path(sys.argv[2]), sys.argv[3], sys.argv[4])
    torch.distributed.destroy_process_group()
