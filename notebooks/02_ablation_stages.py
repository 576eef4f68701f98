# %% [markdown]
# # Which stage does what
#
# Critique-RL trains a critic in two stages: first for verdicts that are right (r_dis), then for refinements
# that are right, with r_dis beside it. What is lost without Stage I, without Stage II, without r_dis in Stage
# II?
#
# Training these critics takes hours. Shown here are the results of the repository, measured with the preset
# `tiny`, a model of 0.1 M weights on arithmetic modulo 10, beside what the paper reports of Qwen2.5-3B on
# MATH. What has not been run is said to be so.

# %%
RUN = False  # True trains and measures all of this with SEEDS and shows that; it takes hours on two cores
SEEDS = [0, 1, 2]

# %%
from pathlib import Path

from critique_rl.studies.notebook import COMMITTED, claims, examples, figure, run_scripts, table

STEMS = (
    "table3_ablation",
    "table13_steps",
    "controls_factorial",
    "table2_iterative",
    "figure8_sft_vs_rl",
    "figure9_stage1_vs_stage2",
)
results = run_scripts(STEMS, seeds=SEEDS, into=Path("notebook-runs")) if RUN else COMMITTED

# %% [markdown]
# ## The ablation (Table 3)
#
# `w/o Stage I` has the objective of Stage II from the SFT critic on, for as many RL steps as both stages
# together. `w/o discrimination` has in Stage II neither r_dis nor the KL to Stage I, as in the paper.

# %% tags=["results"]
table(
    "table3_ablation",
    methods=["SFT critic", "Critique-RL", "w/o Stage I", "w/o Stage II", "w/o discrimination"],
    results=results,
)

# %% tags=["results"]
figure("table3_ablation", results=results)

# %% [markdown]
# How to read it: `Acc@Dis` is the share of verdicts that are right, `Acc@Refine` that of refinements that
# are. `c→i` is the share of responses that were right and whose refinement is wrong, `i→c` the opposite.
#
# ## What that says of the paper's claims
#
# Each difference is taken seed by seed. A claim holds where the whole 95 % interval of its difference lies
# above the bound.

# %% tags=["results"]
claims("table3_ablation", results=results)

# %% [markdown]
# A claim about judgment (Acc@Dis) may hold where the same claim about refinement does not show: they are two
# things.
#
# ## Along the way (Table 13)
#
# The same critics after each fifth of each stage.

# %% tags=["results"]
table("table13_steps", ["acc_refine", "acc_dis"], results=results)

# %% tags=["results"]
figure("table13_steps", results=results)

# %% [markdown]
# ## Stages, joining of the rewards and KL apart
#
# `w/o discrimination` changes two things at once, r_dis and the KL. Here every combination is trained.

# %% tags=["results"]
table("controls_factorial", results=results)

# %% tags=["results"]
figure("controls_factorial", results=results)

# %% [markdown]
# ## Both stages once more (Table 2)

# %% tags=["results"]
table("table2_iterative", results=results)

# %% tags=["results"]
claims("table2_iterative", results=results)

# %% [markdown]
# ## Single episodes
#
# An error that the SFT critic misses and the trained critic finds (Figure 8):

# %% tags=["results"]
examples("figure8_sft_vs_rl", results=results)

# %% [markdown]
# An error that both stages find, and that is mended only after the critique of Stage II (Figure 9):

# %% tags=["results"]
examples("figure9_stage1_vs_stage2", results=results)
