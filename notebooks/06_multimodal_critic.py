# %% [markdown]
# # A pairwise critic that sees
#
# LLaVA-Critic-R1 trains a vision-language model to name the better of two responses. The critic thinks, then
# names one in a box. The same weights answer questions, so they can choose among their own answers.
#
# The package draws the pictures: a grid of shapes or a chart of bars, with questions that can be checked. The
# model is a Qwen2.5-VL of a third of a million weights, made on the spot. It learns the form of the texts for
# some seconds and then trains for one RL step: enough to show every part at work, too little to learn.

# %%
RUN = False  # True trains and measures the tables at the end with SEEDS; it takes hours on two cores
SEEDS = [0, 1, 2]

# %%
from critique_rl.studies.notebook import start

start()

import random
import tempfile
from dataclasses import replace
from pathlib import Path

from critique_rl import PairwiseCriticConfig, PairwiseCriticTrainer
from critique_rl.cold_start import tiny_vl
from critique_rl.cold_start.sft import base_examples, fine_tune
from critique_rl.cold_start.teachers import ScriptedTeacher
from critique_rl.critic_data import pairs_of_responses, swap, to_dataset
from critique_rl.grading import grade_batch
from critique_rl.pairwise_rewards import completion_text, pairwise_reward, parse_preference, r_format, r_pref
from critique_rl.prompts import prompt_set
from critique_rl.self_critique import Item, curve, judge_summary, tournament, tournaments
from critique_rl.studies.notebook import COMMITTED, cases, claims, figure, lines, run_scripts, sheet, table
from critique_rl.tasks import load_task
from critique_rl.tasks.drawings_teacher import Annotator, Judge, Looker
from critique_rl.vision.images import image_bytes

STEMS = ("table7_critic", "table3_policy", "table4_self_critique", "figure3_steps")
results = run_scripts(STEMS, preset="tiny-vl", seeds=SEEDS, into=Path("notebook-runs")) if RUN else COMMITTED
folder = tempfile.TemporaryDirectory()
work = Path(folder.name)

# %% [markdown]
# ## The task

# %%
problems = load_task("drawings", split="train", size=200)
sheet([(p.image, f"{p.question}\n{p.answer}") for p in problems[:6]])

# %% [markdown]
# The gold response first describes the picture. The question does not, so a model without the picture can only
# guess.

# %%
print(problems[0].question)
print(problems[0].solution)

# %% [markdown]
# ## Preference pairs
#
# A policy reads the picture, or sometimes just glances at it. Its responses are graded; a right and a wrong one to
# the same problem make a pair. A hash of the pair's identity gives the order, so the better one stands first in
# half of the pairs.

# %%
policy, rng = Looker(glance=0.5, misread=0.05), random.Random(0)
drawn = [(p, policy.solve(p, rng)) for p in problems[:80] for _ in range(3)]
grades = grade_batch([{"gold": p.answer, "reply": y, "kind": p.kind} for p, y in drawn])
pairs = pairs_of_responses(
    [
        {
            "id": p.id,
            "dataset": p.dataset,
            "question": p.question,
            "image": p.image,
            "response": y,
            "response_correct": o,
        }
        for (p, y), o in zip(drawn, grades, strict=True)
    ]
)
print(len(pairs), "pairs; the better one is first in", sum(p.label == 1 for p in pairs))

# %%
shown = pairs[0]
sheet([(shown.image, shown.question)])

# %%
cases(
    [
        {"order": name, "first": p.response_1, "second": p.response_2, "label": p.label}
        for name, p in (("as in the data", shown), ("swapped", swap(shown)))
    ]
)

# %% [markdown]
# The critic's prompt, from the prompt set of the paper's method. The picture stands before the text.

# %%
prompts = prompt_set("thinking")
print(prompts.pairwise_prompt(shown.question, shown.response_1, shown.response_2)[0]["content"])

# %% [markdown]
# ## Rewards
#
# 0.9 for the right preference, 0.1 for the format: one non-empty thought, then one box.

# %%
right, wrong = shown.label, 3 - shown.label
texts = [
    f"<think>I look.</think> \\boxed{{{right}}}",
    f"<think>I look.</think> \\boxed{{{wrong}}}",
    f"<think></think> \\boxed{{{right}}}",
    f"\\boxed{{{right}}}",
    f"<think>I look.</think> \\boxed{{{right}}} or \\boxed{{{wrong}}}",
]
cases(
    [
        {
            "critique": text,
            "read as": parse_preference(text),
            "r_pref": preferred,
            "r_format": kept,
            "reward": pairwise_reward(preferred, kept),
        }
        for text, preferred, kept in zip(
            texts, r_pref(texts, label=[right] * len(texts)), r_format(texts), strict=True
        )
    ]
)

# %% [markdown]
# ## One RL step
#
# First the form: a few texts of the scripted teacher, among them preferences. Then the trainer, a trl trainer.
# For a model of the hub, change the path and the prompt set and remove the settings for so small a model.

# %%
tiny_vl.save_untrained(work / "untrained", seed=0)
teacher = ScriptedTeacher(Looker(misread=0.3), Annotator(), Annotator(), Judge(glance=0.5, flip=0.3))
examples = base_examples(
    problems,
    teacher,
    teacher,
    prompt_set("compact"),
    reasoning=32,
    critiques=0,
    refinements=0,
    judgements=96,
    seed=0,
)
taught = {
    "learning_rate": 8e-3,
    "lr_scheduler_type": "constant_with_warmup",
    "warmup_steps": 5,
    "per_device_train_batch_size": 16,
    "num_train_epochs": 5,
    "max_length": None,
    "use_cpu": True,
    "gradient_checkpointing": False,
}
fine_tune(str(work / "untrained"), examples, work / "critic", seed=0, options=taught)

# %%
trainer = PairwiseCriticTrainer(
    work / "critic",
    PairwiseCriticConfig(
        output_dir=str(work / "trained"),
        rl_steps=1,
        prompts="compact",  # `thinking` for models that follow instructions
        num_generations=4,
        generation_batch_size=32,  # 8 pairs with 4 critiques each
        per_device_train_batch_size=16,
        max_completion_length=48,
        learning_rate=2e-4,
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        report_to="none",
        disable_tqdm=False,  # a bar in place of printed logs
    ),
    train_dataset=to_dataset([replace(pair, image=image_bytes(pair.image)) for pair in pairs]),
)
trainer.train()
logged = trainer.state.log_history[0]
names = ("reward/r_pref", "reward/r_format", "critic/parse_rate", "critic/said_first", "kl", "grad_norm")
cases([{name: logged[name] for name in names}])

# %% [markdown]
# The first critiques of one pair in that step:

# %%
from datasets import load_dataset

written = next((work / "trained" / "completions").glob("*.parquet"))
rollout = load_dataset("parquet", data_files=str(written), split="train", cache_dir=str(work / "cache"))
names = ("label", "preference", "r_pref", "r_format", "advantage")
cases(
    [
        {"critique": completion_text(row["completion"]), **{name: row[name] for name in names}}
        for row in rollout.select(range(4))
    ]
)

# %% [markdown]
# ## Choosing among one's own answers
#
# A judge of pairs can pick the best of n answers by knock-out. These judges have a known strength: they look at
# the picture, or with a known chance only glance at it and decide at random.
#
# First one knock-out, of eight candidates for one problem:

# %%
policy, held_out = Looker(glance=0.6, misread=0.1), load_task("drawings", split="test", size=400, limit=60)


def judge(strength: Judge, seed: int = 0):
    """A judge as the knock-out asks it: a label for each comparison."""
    by_id, luck = {p.id: p for p in held_out}, random.Random(seed)
    return lambda asked: [
        parse_preference(strength.judge(by_id[c.item], c.first, c.second, luck)) for c in asked
    ]


def candidates(problem, n: int = 16) -> Item:
    """A problem with n answers of the policy, graded."""
    luck = random.Random(problem.id)
    replies = tuple(policy.solve(problem, luck) for _ in range(n))
    graded = grade_batch([{"gold": problem.answer, "reply": y, "kind": problem.kind} for y in replies])
    return Item(problem.id, problem.question, replies, tuple(graded), problem.kind, problem.image)


items = [candidates(p) for p in held_out]
one = items[0]
bracket = tournament(
    one.candidates[:8], judge(Judge(glance=0.2)), seed=0, both_orders=True, question=one.question, item=one.id
)
cases(
    [
        {
            "round": m.round + 1,
            "left": f"{m.left} ({one.answers[m.left]})",
            "right": f"{m.right} ({one.answers[m.right]})",
            "goes on": m.winner,
            "because": m.how.value,
        }
        for m in bracket.matches
    ]
)

# %%
print(one.question, "->", held_out[0].answer)
print("winner", bracket.winner, "right:", one.correct[bracket.winner], "after", bracket.calls, "judgements")

# %% [markdown]
# All problems and judges, beside a single answer, a majority vote and the oracle on the same candidates.

# %%
judges = {"sees": Judge(), "glances at 30 %": Judge(glance=0.3), "glances at 80 %": Judge(glance=0.8)}
brackets = {name: tournaments(items, judge(of), seed=0, both_orders=True) for name, of in judges.items()}
points = curve(items, brackets, seed=0)
called = {"single": "single answer", "majority": "majority vote", "pass": "oracle"}
lines(
    {
        called.get(method, f"judge {method}"): [
            (p.n, p.accuracy.mean, p.accuracy.low, p.accuracy.high) for p in points if p.method == method
        ]
        for method in ("single", "majority", *judges, "pass")
    },
    x_label="candidates",
    y_label="share of right choices",
    logarithmic=True,
)

# %%
found = {name: judge_summary(items, of) for name, of in brackets.items()}
cases(
    [
        {
            "judge": name,
            "right about a right and a wrong one": summary["accuracy"].mean,
            "both orders agree": summary["agreement"].mean,
            "judgements": summary["calls"],
        }
        for name, summary in found.items()
    ]
)

# %% [markdown]
# The oracle averages over all choices of n candidates, a judge over the blocks that it met: so a judge can lie
# above the oracle by chance. Where both candidates are right, or both wrong, even a judge that sees must pick
# one at random, and its two orders need not agree.

# %% [markdown]
# ## Full runs
#
# The paper claims a better critic (Table 7) and a better policy (Table 3) by critic RL, and better answers by
# self-critique (Table 4). Our outcomes are of preset `tiny-vl`; the paper's numbers are of models with billions of
# weights.

# %% tags=["results"]
claims("table7_critic", "table3_policy", "table4_self_critique", preset="tiny-vl", results=results)

# %% tags=["results"]
table("table7_critic", ["critic_acc_mean", "critic_acc_both", "acc"], preset="tiny-vl", results=results)

# %% tags=["results"]
figure("table7_critic", preset="tiny-vl", results=results)

# %% tags=["results"]
figure("table4_self_critique", preset="tiny-vl", results=results)

# %% tags=["results"]
figure("figure3_steps", preset="tiny-vl", results=results)
