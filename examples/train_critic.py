"""Both stages of Critique-RL with the trainers, on the models that the package ships.

`python examples/train_critic.py --steps 40 --output critics` takes a minute on two CPU cores.
"""

import argparse
from importlib.resources import files
from pathlib import Path

from critique_rl import Stage1Config, Stage1Trainer, Stage2Config, Stage2Trainer, TransformersActor
from critique_rl.pool import collect_pool
from critique_rl.prompts import prompt_set
from critique_rl.tasks import load_task
from critique_rl.types import Sampling

MODELS = files("critique_rl") / "assets" / "tiny"
SETTINGS = {
    "prompts": "compact",  # `paper` for models that follow instructions
    "generation_batch_size": 128,  # 32 responses with 4 critiques each
    "per_device_train_batch_size": 64,
    "max_completion_length": 48,  # tokens of a critique
    "learning_rate": 2e-4,  # of a model with 0.1 M weights; the default is the paper's
    "beta": 0.02,
    "temperature": 1.0,
    "use_cpu": True,
    "gradient_checkpointing": False,
    "report_to": "none",
    "disable_tqdm": True,
}


def train(steps: int, output: str, seed: int = 0) -> None:
    """Write the critics of both stages to `output`/stage1 and `output`/stage2."""
    actor = TransformersActor(str(MODELS / "actor"))  # or OpenAIActor("http://localhost:8000/v1")
    problems = load_task("modular_chain", split="train", size=2000)
    sampling = Sampling(max_tokens=24, temperature=0.7)
    pool = collect_pool(problems, actor, prompt_set("compact"), samples=2, sampling=sampling, seed=seed)

    folders = [str(Path(output, stage)) for stage in ("stage1", "stage2")]
    args = Stage1Config(output_dir=folders[0], rl_steps=steps, seed=seed, **SETTINGS)
    stage1 = Stage1Trainer(str(MODELS / "sft"), args=args, train_dataset=pool)
    stage1.train()
    stage1.save_model(folders[0])

    # The *path* of the Stage I critic: the KL of Stage II is taken to the critic that it starts from.
    args = Stage2Config(
        output_dir=folders[1], rl_steps=steps, seed=seed, refinement_max_tokens=24, **SETTINGS
    )
    stage2 = Stage2Trainer(folders[0], actor, args, train_dataset=pool)
    stage2.train()
    stage2.save_model(folders[1])


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=40, help="RL steps of each stage")
    parser.add_argument("--output", default="critics")
    parser.add_argument("--seed", type=int, default=0)
    train(**vars(parser.parse_args()))
