# %% [markdown]
# # A real model as a critic
#
# Qwen2.5-Coder-0.5B-Instruct on SVAMP and GSM8K. Actor and critics are adapters of a few MB on this base, trained
# by `experiments/configs/qwen2.5-0.5b.yaml` on two CPU cores. The adapters and all results are in the repository;
# the base is not.
#
# The first part asks the critics live. The second part shows what was measured.

# %%
BASE = ""  # folder or hub id of the base; empty: the small model that the package ships takes its place

# %% [markdown]
# The adapters were trained on the maker's 4-bit file, turned into float32. To make this base, with a network:
#
# ```
# cp -r experiments/results/qwen2.5-0.5b/run runs/qwen2.5-0.5b
# critique-rl sft experiments/configs/qwen2.5-0.5b.yaml
# ```
#
# Then `BASE = "runs/qwen2.5-0.5b/base"`. With `Qwen/Qwen2.5-Coder-0.5B-Instruct`, whose weights differ slightly,
# texts come out slightly different.

# %%
from critique_rl.studies.notebook import start

start(threads=2)

import tempfile
from importlib.resources import files
from pathlib import Path

from critique_rl import TransformersActor
from critique_rl.evaluation.protocol import Protocol, evaluate
from critique_rl.prompts import COMPACT
from critique_rl.studies.notebook import COMMITTED, episodes, examples, figure, measured, report, table
from critique_rl.tasks import load_task
from critique_rl.types import Sampling

PRESET = "qwen2.5-0.5b"
if BASE:
    models = COMMITTED / PRESET / "run"
    critics = {"SFT critic": "sft", "Stage I": "seed0/stage1", "Critique-RL": "seed0/stage2"}
    problems = load_task("svamp", split="test", limit=4)
else:
    models, critics = Path(str(files("critique_rl") / "assets" / "tiny")), {"SFT critic": "sft"}
    problems = load_task("modular_chain", split="test", limit=4)


def load(name: str) -> TransformersActor:
    """One of the trained models: whole weights, or an adapter on the base."""
    return TransformersActor(models / name, base=BASE or None, dtype="fastest" if BASE else None)


# %% [markdown]
# ## Live
#
# The actor answers, each critic criticises the same response, and the actor refines. All is greedy.

# %%
actor = load("actor")
greedy = Protocol(prompts=COMPACT, response=Sampling(192), critique=Sampling(256), refinement=Sampling(192))
folder = tempfile.TemporaryDirectory()
live = {
    label: evaluate(problems, actor, load(name), greedy, records=Path(folder.name) / f"{label}.jsonl")
    for label, name in critics.items()
}
measured(live)

# %%
episodes({label: per_problem[0] for label, per_problem in live.items()})

# %%
episodes({label: per_problem[1] for label, per_problem in live.items()})

# %% [markdown]
# ## Measured
#
# On test problems of SVAMP and GSM8K; no setting was chosen on them.

# %% tags=["results"]
report(preset=PRESET)

# %% tags=["results"]
figure("curves", preset=PRESET)

# %% [markdown]
# Controls: critiques that are empty, that hold the verdict alone, or that belong to another problem.

# %% tags=["results"]
table("controls_critiques", ["acc_refine", "delta"], preset=PRESET)

# %% [markdown]
# What the actor does with a critique: how often it changes its answer after the verdict Wrong, keeps it after
# Correct, and takes a value that the critique states.

# %% tags=["results"]
table(
    "controls_uptake",
    ["changed_after_wrong", "kept_after_correct", "followed_wrong_verdict", "took_stated_value"],
    preset=PRESET,
)

# %% tags=["results"]
examples("controls_uptake", most=3, preset=PRESET)
