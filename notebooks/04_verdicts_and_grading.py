# %% [markdown]
# # How verdicts are read and replies are graded, and where that fails
#
# Every reward and every metric rests on two decisions: which verdict does a critique state, and is a reply right?
# Rules make both. This notebook shows the rules on telling cases, beside those of the paper's released code.

# %%
from critique_rl.studies.notebook import start

start()

from importlib.resources import files

from critique_rl.evaluation.localisation import first_flagged_step, step_judgments
from critique_rl.grading import explain, extract_answer, paper_compat
from critique_rl.pairwise_rewards import legacy_r_format, parse_preference, r_format
from critique_rl.prompts import (
    VERDICT_LABEL,
    Verdict,
    paper_compat_judgment_is_right,
    parse_rating,
    parse_verdict,
    prompt_set,
)
from critique_rl.rewards import r_dis
from critique_rl.studies.notebook import cases

# %% [markdown]
# ## The verdict of a critique
#
# The verdict is the line that starts with `Correctness of the final answer:` and goes on with `Correct` or
# `Wrong`. Emphasis and list marks do not matter. Quoted text does not count. Two verdicts are none.

# %%
texts = [
    f"{VERDICT_LABEL} Wrong",
    f"**{VERDICT_LABEL}** Correct.",
    f"{VERDICT_LABEL} Incorrect",
    f"{VERDICT_LABEL} [Correct/Wrong]",
    f"{VERDICT_LABEL} Correct\n{VERDICT_LABEL} Wrong",
    f"> {VERDICT_LABEL} Correct\n\n{VERDICT_LABEL} Wrong",
    f"I would say {VERDICT_LABEL} Wrong",
    "So the final answer is wrong.",
]
cases([{"critique": text, "verdict": parse_verdict(text).value} for text in texts])

# %% [markdown]
# ## Why not a plain search for the words
#
# The released code searches the critique for the line of the true verdict. A critique with both lines always
# wins, and RL finds that out. Under our rule it is unparsed and earns nothing.

# %%
texts = [
    f"{VERDICT_LABEL} Wrong",
    f"{VERDICT_LABEL} Correct\n{VERDICT_LABEL} Wrong",
    f"{VERDICT_LABEL} Correctly solved? No.\n{VERDICT_LABEL} Wrong",
]
cases(
    [
        {
            "critique": text,
            "the response is": "right" if o else "wrong",
            "released code: right?": paper_compat_judgment_is_right(text, response_correct=o),
            "r_dis": r_dis(parse_verdict(text), o),
        }
        for text in texts
        for o in (True, False)
    ]
)

# %% [markdown]
# `Correctly` is not `Correct`, so the last critique says Wrong; the released code finds both lines in it.
#
# The rule fails where a critic does not write the line: prose, as at the end of the first table, is lost. The
# parse rate shows it. An unparsed critique counts as wrong in `acc_dis` and is left out of `acc_dis_parsed`;
# both are reported.

# %% [markdown]
# ## Texts of a real critic
#
# The SFT critic of the package: greedy, at temperature 1, and at a temperature that is far too high.

# %%
from critique_rl.actors import TransformersActor
from critique_rl.tasks import load_task
from critique_rl.types import Sampling

models = files("critique_rl") / "assets" / "tiny"
critic, prompts = TransformersActor(str(models / "sft")), prompt_set("compact")
problems = load_task("modular_chain", split="test", size=400, limit=64)
asked = [prompts.critique_prompt(p.question, p.solution) for p in problems]  # each solution is right
written = {
    temperature: [g.text for g in critic.generate(asked, Sampling(48, temperature, seed=0))]
    for temperature in (0.0, 1.0, 2.0)
}
cases(
    [
        {
            "temperature": temperature,
            **{v.value: sum(parse_verdict(text) is v for text in texts) for v in Verdict},
        }
        for temperature, texts in written.items()
    ]
)

# %%
unread = [text for text in written[2.0] if parse_verdict(text) is Verdict.UNPARSED]
cases([{"critique": text, "verdict": parse_verdict(text).value} for text in [written[0.0][0], *unread[:3]]])

# %% [markdown]
# ## Judgments of steps
#
# They are neither rewarded nor part of the paper's metrics. We read them because a verdict can be right for a
# wrong reason. Every response above is right, so each flagged step is a false alarm.

# %%
critique = next(text for text in written[1.0] if first_flagged_step(text) is not None)
print(critique)
print(step_judgments(critique), "first step that is flagged:", first_flagged_step(critique))

# %% [markdown]
# ## Is a reply right?
#
# `grade` returns True, False, or None where it cannot tell. `explain` adds the compared answers and the reason.
# `released` is the checker of the paper's code, which compares strings.

# %%
replies = [
    ("number", "18", "16 - 3 - 4 = 9, times 2. The answer is: $18.00."),
    ("number", "18", "The answer is 18 or 3"),
    ("number", "0.5", r"The answer is 50\%"),
    ("number", "70000", r"The answer is $7 \times 10^4$"),
    ("number", "18", "The answer is 18. Wait. The answer is 19."),
    ("choice", "A", "The answer is a prime number"),
    ("choice", "B", "The correct answer is B, not C."),
    ("yes_no", "no", "The answer is not known"),
    ("math", r"\frac{1}{2}", "The answer is 0.5"),
    ("math", "1,-2", "The answer is $x = -2$ or $x = 1$"),
    ("math", "(3,4]", "The answer is $(3,4)$"),
    ("math", "1/2004!", "The answer is $1/2006!$"),
    ("mixed", "False", "Now we do not know."),
    ("number", "unknown", "The answer is 4"),
]
graded = [
    (
        kind,
        gold,
        reply,
        explain(gold=gold, reply=reply, kind=kind),
        paper_compat.grade(gold=gold, reply=reply, kind=kind),
    )
    for kind, gold, reply in replies
]
cases(
    [
        {
            "kind": kind,
            "gold": gold,
            "reply": reply,
            "grade": ours.grade,
            "answer read": ours.answer,
            "reason": ours.reason,
            "released": theirs,
        }
        for kind, gold, reply, ours, theirs in graded
    ]
)

# %% [markdown]
# None is not False: a reward with an unknown input is None, and its critique is left out of the baseline of its
# group.
#
# ## Where it fails
#
# Cases that a person would decide differently, or that only a person could decide:

# %%
hard = [
    ("number", "5", "The answer is five."),
    ("number", "18", "The answer is 18. No, I take that back."),
    ("math", "6", r"The answer is $9^{9^{9^9}} - 9^{9^{9^9}} + 6$"),
    ("math", r"\text{even}", "The answer is: it is an even number"),
    ("choice", "B", "The answer is 5 km."),
]
cases(
    [
        {"kind": kind, "gold": gold, "reply": reply, "grade": result.grade, "reason": result.reason}
        for kind, gold, reply in hard
        for result in [explain(gold=gold, reply=reply, kind=kind)]
    ]
)

# %% [markdown]
# Worker processes do the algebra, for example whether `ab+2a+5b+10` is `(a+5)(b+2)`. They are killed at a limit of
# time or memory, so no reply can hang a run. On a very busy machine an honest reply can meet that limit too.
#
# A gold answer that no reply can earn teaches nothing: `critique-rl check-data` finds these problems before
# training.
#
# ## One spelling for a vote
#
# A majority vote counts answers, so equal answers need one spelling. No algebra is done.

# %%
said = [
    ("number", "$1,234.50"),
    ("number", "The answer is 1234.5"),
    ("choice", "(b)"),
    ("math", "2x + 2"),
    ("math", "2(x + 1)"),
]
cases([{"kind": kind, "reply": reply, "vote": extract_answer(reply, kind)} for kind, reply in said])

# %% [markdown]
# ## Ratings and preferences
#
# Scored replies get a rating from 1 to 10, read by the same rule. The pairwise critic thinks, then names the
# better response in a box.

# %%
texts = [
    "Quality score: 7",
    "Quality score: 7/10",
    "Quality score: 7-8",
    "Quality score: 12",
    "I give it a 7.",
]
cases([{"critique": text, "rating": parse_rating(text)} for text in texts])

# %%
texts = [
    r"<think>The dog is black.</think> \boxed{2}",
    r"<think>Or \boxed{1}?</think> \boxed{\text{Answer 2}}",
    r"<think>The dog is black.</think> \boxed{1} or \boxed{2}",
    r"The dog is black. \boxed{2}",
    r"<think></think> \boxed{2}",
]
cases(
    [
        {
            "critique": text,
            "preference": parse_preference(text),
            "r_format": r_format([text])[0],
            "r_format, released": legacy_r_format([text])[0],
        }
        for text in texts
    ]
)
