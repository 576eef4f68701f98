"""Both stages of Critique-RL with the trainers, on the models that the package ships.

`python examples/train_critic.py` takes two minutes on one CPU core, logs every step and ends with

    Stage I: Acc@Dis 0.54 -> 0.95
    Stage II: Acc@Dis 0.91 -> 0.94
"""

import argparse
from importlib.resources import files

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
    "learning_rate": 2e-4,  # for 0.1 M weights; the default is the released script's
    "temperature": 1.0,
    "use_cpu": True,
    "bf16": False,
    "gradient_checkpointing": False,
    "report_to": "none",
}


def train(steps: int, output: str, seed: int) -> None:
    """Write the critics of both stages to OUTPUT/stage1 and OUTPUT/stage2."""
    actor = TransformersActor(str(MODELS / "actor"))  # or OpenAIActor("http://localhost:8000/v1")
    problems = load_task("modular_chain", split="train", size=2000)
    sampling = Sampling(max_tokens=24, temperature=0.7)
    pool = collect_pool(problems, actor, prompt_set("compact"), samples=2, sampling=sampling, seed=seed)

    first, second = f"{output}/stage1", f"{output}/stage2"
    args = Stage1Config(output_dir=first, rl_steps=steps, seed=seed, **SETTINGS)
    stage1 = Stage1Trainer(str(MODELS / "sft"), args=args, train_dataset=pool)
    stage1.train()
    stage1.save_model(first)

    args = Stage2Config(output_dir=second, rl_steps=steps, seed=seed, refinement_max_tokens=24, **SETTINGS)
    stage2 = Stage2Trainer(first, actor, args, train_dataset=pool)  # the path: its KL is taken to that critic
    stage2.train()
    stage2.save_model(second)
    for name, trainer in (("Stage I", stage1), ("Stage II", stage2)):
        values = [entry["critic/acc_dis"] for entry in trainer.state.log_history if "kl" in entry]
        print(f"{name}: Acc@Dis {values[0]:.2f} -> {values[-1]:.2f}")  # noqa: T201


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=40, help="RL steps of each stage")
    parser.add_argument("--output", default="runs/example", help="folder for the critics")
    parser.add_argument("--seed", type=int, default=0)
    train(**vars(parser.parse_args()))
