# %% [markdown]
# # Both stages, step by step
#
# A frozen *actor* answers a question, the *critic* writes a critique that ends in a verdict, and the actor
# refines its answer. Only the critic is trained: Stage I rewards a right verdict, Stage II also a right
# refinement.
#
# Both stages train for a few RL steps from the cold start that the package ships: a model of 0.1 M weights, on
# chains of arithmetic modulo 10. This takes less than a minute and shows the mechanism. Results of full runs
# stand at the end.

# %%
FULL = False  # True trains for as long as the configuration says, some minutes on two cores

# %%
from critique_rl.studies.notebook import start

start()

import tempfile
from dataclasses import asdict, replace
from pathlib import Path

from critique_rl.config.run import load_config
from critique_rl.display import Display
from critique_rl.evaluation.episodes import read_episodes
from critique_rl.runs.run import Run
from critique_rl.studies.notebook import EXPERIMENTS, cases, episodes, figure, lines, measured, table

folder = tempfile.TemporaryDirectory()  # a run of your own needs a folder that stays

# %% [markdown]
# ## The run
#
# A configuration describes a run. Settings replace its values, as on the command line (`--set a.b=value`); here
# they shorten the run. We leave out the third critic of the configuration, trained on the refinement alone.

# %%
settings = [f"output={folder.name}/run"]
if not FULL:
    settings += [
        "pool.problems=300",
        "stages.stage1.trainer.rl_steps=8",
        "stages.stage2.trainer.rl_steps=5",
        "evaluation.tasks=[{name: modular_chain, split: test, limit: 150, options: {size: 20000}}]",
    ]
config = load_config(EXPERIMENTS / "configs" / "tiny.yaml", settings)
config = replace(config, stages={name: config.stages[name] for name in ("stage1", "stage2")})
run = Run(config, display=Display(quiet=True))
cases([{"step": step.name, "kind": step.kind, "finished": step.finished()} for step in run.steps()])

# %% [markdown]
# The actor and the critic before RL come with the package and need no step. Every step writes a folder.
#
# ## The response pool
#
# The actor answers train questions, and its answers are graded. The pool has as many right as wrong responses:
# otherwise the critic could earn r_dis by always giving the same verdict.

# %%
run.execute(("pool",))

# %%
from datasets import load_from_disk

pool = load_from_disk(Path(folder.name) / "run" / "seed0" / "pool" / "table", keep_in_memory=True)
print(len(pool), "responses, of which right:", sum(pool["response_correct"]))
cases(
    [
        {name: pool[i][name] for name in ("question", "response", "answer", "response_correct")}
        for i in range(3)
    ]
)

# %% [markdown]
# The prompt of the critic. It does not hold the gold answer.

# %%
print(run.context.prompts.critique_prompt(pool[0]["question"], pool[0]["response"])[0]["content"])

# %% [markdown]
# ## Training
#
# Stage I rewards r_dis alone: 1 for a right verdict. Stage II starts from the Stage I critic and rewards
# r_refine + 0.2 r_dis. A KL term holds it close to that critic.

# %%
run.execute(("train",))

# %% [markdown]
# Every RL step is logged. `acc_dis` is the share of right verdicts among the step's critiques.

# %%
names = ("critic/acc_dis", "critic/parse_rate", "reward/r_dis", "kl")
cases(
    [
        {"RL step": i, **{name: row[name] for name in names}}
        for i, row in enumerate(run.folder.history(0, "stage1"), 1)
    ]
)

# %%
names = ("critic/acc_dis", "actor/acc_refine", "actor/delta_ci", "actor/delta_ic", "kl")
cases(
    [
        {"RL step": i, **{name: row[name] for name in names}}
        for i, row in enumerate(run.folder.history(0, "stage2"), 1)
    ]
)

# %%
first, second = run.folder.history(0, "stage1"), run.folder.history(0, "stage2")
lines(
    {
        "Stage I, Acc@Dis": [(i, row["critic/acc_dis"]) for i, row in enumerate(first, 1)],
        "Stage II, Acc@Dis": [(i, row["critic/acc_dis"]) for i, row in enumerate(second, 1 + len(first))],
        "Stage II, Acc@Refine": [
            (i, row["actor/acc_refine"]) for i, row in enumerate(second, 1 + len(first))
        ],
    },
    x_label="RL step of both stages",
    y_label="share of the critiques drawn",
)

# %% [markdown]
# The KL is exactly 0 at the first step: each stage starts as its own reference.
#
# ## Before and after
#
# Each test problem once, all greedy. So few problems and steps give wide intervals.

# %%
run.execute(("evaluate",))
measured_episodes = {
    run.folder.labels()[m.row]: read_episodes(run.folder.records(0, m)) for m in run.folder.measurements
}
measured(measured_episodes)

# %% [markdown]
# ## Single episodes
#
# A wrong response that passed the critic before RL and is mended after it. Response and actor are the same; only
# the critique differs.

# %%
before, after = measured_episodes["SFT critic"], measured_episodes["Stage I+II"]
turned = [
    (b, a)
    for b, a in zip(before, after, strict=True)
    if not b.response_correct
    and (b.verdict, a.verdict) == ("correct", "wrong")
    and (b.refinement_correct, a.refinement_correct) == (False, True)
]
print(len(turned), "of", sum(not e.response_correct for e in before), "wrong responses")
episodes({"SFT critic": turned[0][0], "Stage I+II": turned[0][1]}) if turned else None

# %% [markdown]
# The other kind of mistake: the refinement spoils a right response. One example, if there is one:

# %%
spoiled = [e for e in after if e.response_correct and not e.refinement_correct]
print(len(spoiled), "of", sum(bool(e.response_correct) for e in after), "right responses")
episodes({"Stage I+II": spoiled[0]}) if spoiled else None

# %% [markdown]
# An episode is one line of `records.jsonl`:

# %%
asdict(after[0])

# %% [markdown]
# `critique-rl view RUN` writes a page to read and filter the episodes of a run.
#
# ## Full runs
#
# The same with all RL steps, 1,000 test problems and eight seeds (Table 1 of the paper, with its baselines).

# %% tags=["results"]
table("table1_main")

# %% tags=["results"]
figure("table1_main")

# %% [markdown]
# Curves of the default run (`make demo`), with the critic trained on the refinement alone.

# %% tags=["results"]
figure("curves")
