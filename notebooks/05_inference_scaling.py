# %% [markdown]
# # More samples and more rounds
#
# With a critic there are three ways to spend tokens at test time: a vote over more chains of response, critique
# and refinement; more critiques of one response; or more rounds. We compare them at equal tokens.
#
# The first part measures the SFT critic of the package on a few problems. The second shows full runs of trained
# critics.

# %%
RUN = False  # True trains and measures the figures at the end with SEEDS; it takes hours on two cores
SEEDS = [0, 1, 2]

# %%
from critique_rl.studies.notebook import start

start()

import tempfile
from dataclasses import replace
from importlib.resources import files
from pathlib import Path

from critique_rl.actors import TransformersActor
from critique_rl.evaluation.intervals import interval
from critique_rl.evaluation.protocol import Protocol, evaluate
from critique_rl.evaluation.scaling import (
    by_round,
    chains,
    majority_at,
    majority_by_problem,
    outcome,
    pass_at,
    pass_at_k,
    pass_by_problem,
    tokens_at,
)
from critique_rl.prompts import prompt_set
from critique_rl.studies.notebook import COMMITTED, cases, claims, figure, lines, measured, run_scripts, table
from critique_rl.tasks import load_task
from critique_rl.types import Sampling

STEMS = (
    "figure6_scaling",
    "figure7_refine_scaling",
    "figure4_iterated",
    "figure5_oracle",
    "table11_majority",
)
results = run_scripts(STEMS, seeds=SEEDS, into=Path("notebook-runs")) if RUN else COMMITTED
folder = tempfile.TemporaryDirectory()

# %% [markdown]
# ## Sampled chains
#
# Sixty test problems, with eight chains each with the critic and 24 responses without. A chain is three
# generations.

# %%
models = files("critique_rl") / "assets" / "tiny"
actor, critic = TransformersActor(str(models / "actor")), TransformersActor(str(models / "sft"))
problems = load_task("modular_chain", split="test", size=2000, limit=60)
protocol = Protocol(
    prompts=prompt_set("compact"),
    response=Sampling(24, temperature=0.7),
    critique=Sampling(48, temperature=0.7),
    refinement=Sampling(24, temperature=0.7),
    samples=8,
)
with_critic = evaluate(problems, actor, critic, protocol, records=Path(folder.name) / "with.jsonl")
plain = evaluate(
    problems, actor, None, replace(protocol, samples=24), records=Path(folder.name) / "plain.jsonl"
)
measured({"No critic": plain, "SFT critic": with_critic})

# %% [markdown]
# One problem whose eight chains disagree: each refinement's answer, and whether it is right.

# %%
by_problem = chains(with_critic).values()
mixed = next(cs for cs in by_problem if 0 < sum(outcome(c[-1])[1] is True for c in cs) < len(cs))
print(mixed[0][-1].question, "->", mixed[0][-1].answer)
cases(
    [{"chain": i, "last reply": outcome(c[-1])[0], "right": outcome(c[-1])[1]} for i, c in enumerate(mixed)]
)

# %% [markdown]
# ## Pass@K and votes
#
# Pass@K is the chance that at least one of K chains is right. Its unbiased estimate from n chains with c right
# ones is 1 minus the share of choices of K chains without a right one:

# %%
cases([{"n": 8, "right": c, **{f"K = {k}": pass_at_k(8, c, k) for k in (1, 2, 4, 8)}} for c in (0, 1, 4, 8)])

# %%
KS, PLAIN_KS = (1, 2, 4, 8), (1, 2, 3, 4, 6, 8, 12, 24)
cases(
    [
        {
            "": label,
            "K": k,
            "Pass@K": pass_at(of, [k])[k],
            "vote": majority_at(of, [k])[k],
            "tokens": tokens_at(of, [k])[k],
        }
        for label, of, ks in (("SFT critic", with_critic, KS), ("No critic", plain, PLAIN_KS))
        for k in ks
    ]
)

# %% [markdown]
# Prompts count as tokens too: a chain costs five times as much as a response here, not three times.
#
# Accuracy of the vote against its cost. Intervals are over problems, since chains of one problem are alike.

# %%
lines(
    {
        label: [
            (tokens_at(of, [k])[k], majority_at(of, [k])[k], *interval(majority_by_problem(of, [k])[k]))
            for k in ks
        ]
        for label, of, ks in (("SFT critic", with_critic, KS), ("No critic", plain, PLAIN_KS))
    },
    x_label="tokens for each problem",
    y_label="accuracy of the vote",
    logarithmic=True,
)

# %% [markdown]
# Both methods had the same problems, so overlapping intervals do not mean a difference of zero. The difference
# with its own interval:

# %%
ours, theirs = majority_by_problem(with_critic, [8])[8], majority_by_problem(plain, [24])[24]
gain = {identity: ours[identity] - theirs[identity] for identity in ours}
low, high = interval(gain)
print(f"8 chains minus 24 responses: {sum(gain.values()) / len(gain):.3f} ({low:.3f} to {high:.3f})")

# %%
passing = {
    label: [(k, pass_at(of, [k])[k], *interval(pass_by_problem(of, [k])[k])) for k in ks]
    for label, of, ks in (("SFT critic", with_critic, KS), ("No critic", plain, PLAIN_KS))
}
lines(passing, x_label="K", y_label="Pass@K", logarithmic=True)

# %% [markdown]
# ## More rounds
#
# Each round criticises and refines the last refinement. `spare_correct` is an oracle that lets right responses
# pass.

# %%
again = replace(protocol, samples=2, rounds=4)
courses = {"SFT critic": again, "SFT critic, oracle": replace(again, spare_correct=True)}
rounds = {
    label: evaluate(problems, actor, critic, course, records=Path(folder.name) / f"{label}.jsonl")
    for label, course in courses.items()
}
after = {label: by_round(range(1, 5))(of) for label, of in rounds.items()}
lines(
    {
        label: [
            (
                r,
                sum(values[f"refinement_at_{r}"].values()) / len(problems),
                *interval(values[f"refinement_at_{r}"]),
            )
            for r in range(1, 5)
        ]
        for label, values in after.items()
    },
    x_label="rounds",
    y_label="share of right refinements",
)

# %% [markdown]
# ## Full runs
#
# Votes over K chains with a critic, and over K, 2K and 3K responses without (Figures 1 and 6):

# %% tags=["results"]
figure("figure6_scaling", results=results)

# %% tags=["results"]
claims(
    "figure6_scaling",
    "table11_majority",
    "figure7_refine_scaling",
    "figure4_iterated",
    "figure5_oracle",
    results=results,
)

# %% [markdown]
# Several critiques and refinements of the same response (Figure 7):

# %% tags=["results"]
figure("figure7_refine_scaling", results=results)

# %% [markdown]
# Up to 32 rounds (Figure 4), and with an oracle that spares right responses (Figure 5):

# %% tags=["results"]
figure("figure4_iterated", results=results)

# %% tags=["results"]
table("figure5_oracle", results=results)

# %% [markdown]
# Against a vote over responses of an actor trained by RL (Table 11):

# %% tags=["results"]
table("table11_majority", [f"majority_at_{k}" for k in (1, 2, 3, 4, 6, 8, 12)], results=results)
