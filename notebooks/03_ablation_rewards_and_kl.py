# %% [markdown]
# # Rewards of Stage II, and the KL
#
# Stage II rewards the refinement in one of three ways, joins it with r_dis in one of two, and keeps the critic
# close to the stage's start. This notebook shows the formulas at work, trains a few steps with several KL
# coefficients, and then shows full runs.

# %%
RUN = False  # True trains and measures the tables at the end with SEEDS; it takes hours on two cores
SEEDS = [0, 1, 2]

# %%
from critique_rl.studies.notebook import start

start()

import tempfile
from dataclasses import replace
from pathlib import Path

import torch
from torch.distributions import Categorical, kl_divergence

from critique_rl import rewards
from critique_rl.config.run import load_config
from critique_rl.display import Display
from critique_rl.prompts import Verdict
from critique_rl.runs.run import Run
from critique_rl.studies.notebook import (
    COMMITTED,
    EXPERIMENTS,
    cases,
    claims,
    figure,
    lines,
    run_scripts,
    table,
)
from critique_rl.training.objectives import KL_ESTIMATES, grpo_advantages, rloo_advantages

STEMS = ("table3_ablation", "figure3_dynamics", "table12_sensitivity", "controls_noise")
results = run_scripts(STEMS, seeds=SEEDS, into=Path("notebook-runs")) if RUN else COMMITTED
folder = tempfile.TemporaryDirectory()

# %% [markdown]
# ## Three rewards for a refinement
#
# o: is the response right? o': is the refinement right? `None`: could not be graded.

# %%
cases(
    [
        {
            "o": o,
            "o'": after,
            **{name: reward(o, after) for name, reward in rewards.REFINEMENT_REWARDS.items()},
        }
        for o in (True, False)
        for after in (True, False, None)
    ]
)

# %% [markdown]
# `r_refine` pays for every right refinement, also of a right response. `r_delta` pays for the change: a right
# response can only lose. `r_correction` pays for both, and more for a mended response.
#
# ## Joined with r_dis
#
# `additive` is Eq. 9 of the paper. `gated` is the rule of the released code: a wrong verdict costs 1, so its
# refinement does not matter and is not asked for.

# %%
cases(
    [
        {
            "o": o,
            "verdict": verdict.value,
            "o'": after,
            "r_dis": rewards.r_dis(verdict, o),
            "additive": rewards.additive(rewards.r_refine(o, after), rewards.r_dis(verdict, o), beta_1=0.2),
            "gated": rewards.gated(rewards.r_refine(o, after), rewards.r_dis(verdict, o), beta_1=0.2),
        }
        for o, verdict in ((False, Verdict.WRONG), (False, Verdict.CORRECT), (False, Verdict.UNPARSED))
        for after in (True, False)
    ]
)

# %% [markdown]
# In the third row the verdict is wrong and the refinement is right, perhaps because the explanation was good.
# `additive` pays 1.0, `gated` takes 1 away: two different objectives.
#
# ## From rewards to advantages
#
# Four critiques of one response make a group. RLOO, which the paper uses, compares each with the mean of the
# others; GRPO also divides by the spread. A group with equal rewards teaches nothing.

# %%
groups = {"one of four is right": [1.0, 0.0, 0.0, 0.0], "half": [1.2, 1.2, 0.2, 0.2], "all alike": [1.0] * 4}
cases(
    [
        {
            "group": name,
            "rewards": group,
            "RLOO": [round(x, 2) for x in rloo_advantages(torch.tensor([group]))[0].tolist()],
            "GRPO": [round(x, 2) for x in grpo_advantages(torch.tensor([group]))[0].tolist()],
        }
        for name, group in groups.items()
    ]
)

# %% [markdown]
# ## The KL, estimated from drawn tokens
#
# The exact KL needs the probabilities of all tokens. The estimators use only those of the drawn tokens. For a
# policy that has moved away from its reference:

# %%
torch.manual_seed(0)
reference = Categorical(logits=torch.randn(50))
policy = Categorical(logits=reference.logits + 0.5 * torch.randn(50))
tokens = policy.sample((20_000,))
exact = {"KL(policy || reference)": (policy, reference), "KL(reference || policy)": (reference, policy)}
print({name: round(kl_divergence(*pair).item(), 4) for name, pair in exact.items()})
estimates = {
    name: estimate(policy.log_prob(tokens), reference.log_prob(tokens))
    for name, estimate in KL_ESTIMATES.items()
}
cases(
    [
        {"estimator": name, "mean": e.mean().item(), "spread": e.std().item(), "smallest": e.min().item()}
        for name, e in estimates.items()
    ]
)

# %% [markdown]
# `k1` (in the reward, as released) and `k3` (in the loss, as in trl and LLaVA-Critic-R1) both estimate the KL
# of the policy to the reference. `k1` is negative for many tokens; `k3` never is, and spreads less. `forward`
# estimates the direction that the paper writes.
#
# ## The effect of its coefficient
#
# Stage I for a few RL steps from the same start, without KL and with a small and a large coefficient.

# %%
config = load_config(
    EXPERIMENTS / "configs" / "tiny.yaml", [f"output={folder.name}/run", "pool.problems=200"]
)
first = config.stages["stage1"]
stages = {
    f"beta_{i}": replace(
        first,
        label=f"beta = {beta}",
        trainer={
            **first.trainer,
            "rl_steps": 6,
            "beta": beta,
            "generation_batch_size": 64,
            "per_device_train_batch_size": 32,
        },
    )
    for i, beta in enumerate((0.0, 0.02, 0.5))
}
run = Run(replace(config, stages=stages), display=Display(quiet=True))
run.execute(("pool", "train"))
histories = {stage.label: run.folder.history(0, name) for name, stage in stages.items()}
lines(
    {
        label: [(i, row["kl"]) for i, row in enumerate(rows, 1)]
        for label, rows in histories.items()
        if "kl" in rows[0]
    },
    x_label="RL step",
    y_label="KL to the start, nats a token",
)

# %%
names = ("kl", "critic/acc_dis", "critic/parse_rate", "entropy")
cases(
    [
        {"last step": label, **{name: rows[-1].get(name) for name in names}}
        for label, rows in histories.items()
    ]
)

# %% [markdown]
# Without a coefficient the KL is not computed: that saves a model in memory and leaves no curve.
#
# ## Full runs: the reward of Stage II (Table 3)

# %% tags=["results"]
table(
    "table3_ablation", methods=["SFT critic", "Critique-RL", "w/ r_delta", "w/ r_correction"], results=results
)

# %% tags=["results"]
claims("table3_ablation", results=results)

# %% [markdown]
# ## Training under each reward alone (Figure 3)

# %% tags=["results"]
figure("figure3_dynamics", results=results)

# %% tags=["results"]
table("figure3_dynamics", results=results)

# %% [markdown]
# ## Coefficients moved up and down (Table 12)
#
# `beta` is the KL of both stages, `beta_1` the weight of r_dis in Stage II, `beta_2` the KL of Stage II.

# %% tags=["results"]
table("table12_sensitivity", ["acc_refine", "acc_dis"], results=results)

# %% [markdown]
# ## Labels that are partly wrong
#
# The rewards see a share of o and o' inverted; evaluation uses the true ones.

# %% tags=["results"]
table("controls_noise", ["acc_refine", "acc_dis", "acc_dis_balanced"], results=results)

# %% tags=["results"]
figure("controls_noise", results=results)
