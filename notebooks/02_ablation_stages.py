# %% [markdown]
# # Which stage does what
#
# Critique-RL trains a critic in two stages: first for right verdicts (r_dis), then for right refinements with
# r_dis beside. This notebook shows the loss without Stage I, without Stage II, and without r_dis in Stage II.
#
# Training these critics takes hours, so the notebook shows the repository's results with the preset `tiny`, a
# model of 0.1 M weights on arithmetic modulo 10. The paper's numbers of Qwen2.5-3B on MATH stand beside. Rows
# that were not run say so.

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
# `w/o Stage I` trains the objective of Stage II from the SFT critic on, for as many RL steps as both stages
# together. `w/o discrimination` drops r_dis and the KL to Stage I from Stage II, as in the paper.

# %% tags=["results"]
table(
    "table3_ablation",
    methods=["SFT critic", "Critique-RL", "w/o Stage I", "w/o Stage II", "w/o discrimination"],
    results=results,
)

# %% tags=["results"]
figure("table3_ablation", results=results)

# %% [markdown]
# `Acc@Dis` is the share of right verdicts, `Acc@Refine` that of right refinements. `c→i` is the share of right
# responses with a wrong refinement, `i→c` the opposite.
#
# ## The paper's claims
#
# Each difference is taken seed by seed. A claim holds where the whole 95 % interval of its difference lies
# above the bound.

# %% tags=["results"]
claims("table3_ablation", results=results)

# %% [markdown]
# A claim may hold for judgment (Acc@Dis) and not show for refinement: the two differ.
#
# ## Along the way (Table 13)
#
# The same critics, after each fifth of each stage.

# %% tags=["results"]
table("table13_steps", ["acc_refine", "acc_dis"], results=results)

# %% tags=["results"]
figure("table13_steps", results=results)

# %% [markdown]
# ## Stages, joining of the rewards and KL apart
#
# `w/o discrimination` changes both r_dis and the KL. This control trains every combination.

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
# The trained critic finds an error that the SFT critic misses (Figure 8):

# %% tags=["results"]
examples("figure8_sft_vs_rl", results=results)

# %% [markdown]
# Both stages find the error; only the critique of Stage II leads to a right refinement (Figure 9):

# %% tags=["results"]
examples("figure9_stage1_vs_stage2", results=results)
