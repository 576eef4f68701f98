# %% [markdown]
# # Your own model and data
#
# The trainers in your own script: a JSONL file, a model directory, your own prompts and reward, an adapter
# (LoRA), and an actor behind a server. Everything is small enough for a CPU and made on the spot. For your own
# models, change the paths and remove the settings for small models (learning rate, token limits, CPU): the
# defaults are those of the papers and their code.

# %%
from critique_rl.studies.notebook import start

start()

import atexit
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from dataclasses import replace
from functools import partial
from pathlib import Path

from peft import LoraConfig

from critique_rl import (
    OpenAIActor,
    Stage1Config,
    Stage1Trainer,
    Stage2Config,
    Stage2Trainer,
    TransformersActor,
    load_critic,
)
from critique_rl.cold_start.sft import base_examples, fine_tune
from critique_rl.cold_start.teachers import ScriptedTeacher
from critique_rl.cold_start.tiny import save_untrained
from critique_rl.evaluation.protocol import Protocol, evaluate
from critique_rl.pool import collect_pool
from critique_rl.prompts import COMPACT, PROMPT_SETS
from critique_rl.rewards import REFINEMENT_REWARDS
from critique_rl.studies.notebook import cases, episodes, measured
from critique_rl.tasks import Task, gold_report, load_task
from critique_rl.tasks.modular_chain_teacher import Annotator, Solver
from critique_rl.tasks.published import load_published, make_problem
from critique_rl.tasks.rows import Row
from critique_rl.types import Problem, Sampling

folder = tempfile.TemporaryDirectory()
work = Path(folder.name)

# %% [markdown]
# ## Data
#
# A file with one problem a line and your own field names. (Here it holds sums modulo 10, so that the tiny model
# below has a chance.)

# %%
lines = [
    json.dumps({"task": p.question, "steps": p.solution, "result": p.answer})
    for p in load_task("modular_chain", split="train", steps=1, size=105)
]
path = work / "train.jsonl"
path.write_text("\n".join(lines), encoding="utf-8")
print(len(lines), "lines, for instance", lines[0])


# %%
def parse(row: Row) -> Problem:
    """A line of the file as a problem."""
    row.layout(("task", "result"))  # a row without these fields is refused, by file and line
    return make_problem(
        dataset="sums",
        question=row.text("task"),
        solution=row.text("steps"),
        answer=row.text("result"),
        kind="number",  # how it is graded: math, number, choice, yes_no, mixed
    )


task = Task(
    name="sums",
    about="Sums on one digit.",
    kinds=("number",),
    load=partial(load_published, parse, {}),
    hub=None,
    licence="CC0-1.0",
)
problems = task.load(source=str(path), split="train", seed=0)
held_out = task.load(
    source=str(path), split="validation", seed=0
)  # held out of the file, as there is no other
print(gold_report(problems).summary())

# %% [markdown]
# A broken row is refused; the message names file and line:

# %%
from critique_rl.types import UserError

broken = work / "broken" / "train.jsonl"
broken.parent.mkdir()
broken.write_text(lines[0] + "\n" + json.dumps({"task": "1+1"}), encoding="utf-8")
try:
    task.load(source=str(broken), split="train", seed=0)
except UserError as error:
    print(str(error).replace(f"{work}/", ""))

# %% [markdown]
# ## Prompts
#
# A prompt set is data: copy the nearest one and change it. Most models need `PAPER`; this one is too small to
# read instructions.

# %%
PROMPT_SETS["mine"] = mine = replace(
    COMPACT, name="mine", critique="Solution: {response}\nQuestion: {question}"
)
print(mine.critique_prompt(problems[0].question, problems[0].solution)[0]["content"])

# %% [markdown]
# ## Model
#
# Any directory or hub id that transformers loads. Here we make one: real architecture, a tenth of a million
# weights, trained for some seconds on texts that a script writes. Skip this with your own model.

# %%
save_untrained(work / "untrained", seed=0)
faulty = ScriptedTeacher(Solver(wrong_facts=0.5, conviction=0.5), Annotator(), Annotator())
teacher = ScriptedTeacher(
    Solver(wrong_facts=0.3, conviction=0.6), Annotator(miss=0.4, false_alarm=0.2), Annotator()
)
examples = base_examples(
    problems, teacher, faulty, mine, reasoning=80, critiques=120, refinements=240, seed=0
)
options = {
    "learning_rate": 5e-3,
    "lr_scheduler_type": "constant",
    "per_device_train_batch_size": 16,
    "num_train_epochs": 5,
    "max_length": 128,
    "use_cpu": True,
    "gradient_checkpointing": False,
}
fine_tune(str(work / "untrained"), examples, work / "my-model", seed=0, options=options)
sorted(p.name for p in (work / "my-model").iterdir())

# %% [markdown]
# ## The actor, behind a server
#
# The actor is frozen, so it can run anywhere. Any server with the chat-completions protocol works, for example
# vLLM (`vllm serve MODEL --generation-config vllm`). On a CPU, use `transformers serve`, which decodes greedily.

# %%
with socket.socket() as free:
    free.bind(("127.0.0.1", 0))
    port = free.getsockname()[1]
command = [str(Path(sys.executable).with_name("transformers")), "serve", str(work / "my-model")]
command += ["--device", "cpu", "--dtype", "float32", "--host", "127.0.0.1", "--port", str(port)]
log = (work / "server.log").open("w")
server = subprocess.Popen(command, stdout=log, stderr=log, env={**os.environ, "HF_HUB_OFFLINE": "1"})

# %%
atexit.register(server.terminate)  # also if a cell below fails
while server.poll() is None:  # it takes some seconds to start
    try:
        urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5).close()
        break
    except OSError:
        time.sleep(0.2)
else:
    raise RuntimeError((work / "server.log").read_text())
actor = OpenAIActor(f"http://127.0.0.1:{port}/v1", str(work / "my-model"), prefill="user", max_retries=2)
print(actor.generate([mine.reasoning_prompt(problems[0].question)], Sampling(20))[0].text)

# %% [markdown]
# ## The response pool
#
# The actor's responses to your questions, graded. `TransformersActor` runs the same model in this process and can
# sample.

# %%
pool = collect_pool(
    problems,
    TransformersActor(str(work / "my-model")),
    mine,
    samples=3,
    sampling=Sampling(max_tokens=20, temperature=1.0),
)
print(len(pool), "responses, of which right:", sum(pool["response_correct"]))

# %% [markdown]
# You can also use responses that you already have: a `datasets.Dataset` with the columns `question`, `response`,
# `answer`, `kind` and `response_correct`.
#
# ## Stage I with an adapter
#
# `peft_config` works as in every trl trainer. The other names are trl's too, except `rl_steps` and `prompts`.

# %%
settings = {
    "prompts": "mine",
    "max_completion_length": 32,
    "generation_batch_size": 32,  # 8 responses with 4 critiques each
    "per_device_train_batch_size": 32,
    "learning_rate": 1e-3,
    "temperature": 1.0,
    "use_cpu": True,
    "bf16": False,
    "gradient_checkpointing": False,
    "report_to": "none",
    "disable_tqdm": False,  # a bar in place of printed logs
}
lora = LoraConfig(r=8, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM")
stage1 = Stage1Trainer(
    str(work / "my-model"),
    args=Stage1Config(output_dir=str(work / "stage1"), rl_steps=6, **settings),
    train_dataset=pool,
    peft_config=lora,
)
stage1.train()
stage1.save_model(str(work / "stage1"))
names = ("critic/acc_dis", "critic/parse_rate", "kl")
cases([{name: row[name] for name in names} for row in stage1.state.log_history if "kl" in row])

# %% [markdown]
# ## Your own reward, and Stage II
#
# A function of two facts: was the response right, and is the refinement right? Its name becomes an option of
# Stage II.


# %%
def r_careful(response_correct: bool | None, refinement_correct: bool | None) -> float | None:
    """1 for a right refinement, -1 for spoiling a right response."""
    if response_correct is None or refinement_correct is None:
        return None
    if refinement_correct:
        return 1.0
    return -1.0 if response_correct else 0.0


REFINEMENT_REWARDS["r_careful"] = r_careful

# %% [markdown]
# The critic starts from the adapter of Stage I. `load_critic` loads it so that the KL is taken to that critic; the
# trainer checks this on its first rollout. The server writes the refinements.

# %%
stage2 = Stage2Trainer(
    load_critic(str(work / "stage1")),
    actor,
    Stage2Config(
        output_dir=str(work / "stage2"),
        rl_steps=3,
        refinement_reward="r_careful",
        refinement_max_tokens=20,
        **settings,
    ),
    train_dataset=pool,
)
stage2.train()
stage2.save_model(str(work / "stage2"))
names = ("reward/r_careful", "actor/acc_refine", "critic/acc_dis", "kl")
cases([{name: row[name] for name in names} for row in stage2.state.log_history if "kl" in row])

# %% [markdown]
# ## Measure it
#
# On held-out problems. The critic is the adapter's folder; transformers finds the model below the adapter.

# %%
greedy = Protocol(prompts=mine, response=Sampling(20), critique=Sampling(32), refinement=Sampling(20))
critics = {"before": "my-model", "Stage I": "stage1", "Stage I+II": "stage2"}
results = {
    label: evaluate(
        held_out, actor, TransformersActor(str(work / name)), greedy, records=work / f"{name}.jsonl"
    )
    for label, name in critics.items()
}
measured(results)

# %% [markdown]
# A handful of problems and a few steps show that the path works, and no more.

# %%
episodes({label: per_problem[0] for label, per_problem in results.items()})

# %%
server.terminate()
server.wait(30)
log.close()
