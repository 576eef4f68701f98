"""Summarisation: replies with a score instead of a right answer; news of the hub, and an embedded stand-in.

Source of the news: https://huggingface.co/datasets/abisee/cnn_dailymail (config 3.0.0), licence Apache-2.0;
287,113 train, 13,368 validation, 11,490 test, of which the paper takes 5,000 train and 1,000 test (`limit`):

    {"article": "The bridge closed on Monday. ...", "highlights": "Bridge closed .\\nIt ...", "id": "0a1b"}

`made_up_facts` needs no network: a few facts among remarks that are none, of which a good summary is the facts,

    It rains. Ana has 3 red cups. The shop is shut. Bo has 7 blue pens.

The gold answer is what `critique_rl.scoring` takes as `gold`: the highlights, or the facts, one a line.
"""

from __future__ import annotations

import math
import random
from functools import partial

from critique_rl.prompts import PromptSet
from critique_rl.scoring import SCORE, SCORE_LABEL
from critique_rl.tasks.base import DataError, Task, split_problems
from critique_rl.tasks.published import load_published, make_problem
from critique_rl.tasks.rows import HubSplit, Row
from critique_rl.types import Problem, child_seed, nearest

HUB = {
    split: HubSplit("abisee/cnn_dailymail", ("3.0.0",), split) for split in ("train", "validation", "test")
}

NAMES = ("Ana", "Bo", "Cy", "Dee", "Eli", "Flo", "Gus", "Hana", "Ida", "Jo")
COLOURS = ("red", "blue", "green", "black", "white", "pink")
THINGS = ("cups", "pens", "hats", "bags", "keys", "maps", "toys", "jars")
REMARKS = (
    "It rains.",
    "The shop is shut.",
    "A dog barks.",
    "The bus is late.",
    "Lunch was good.",
    "The sun is out.",
    "A phone rings.",
    "The door is open.",
)
FRACTIONS = {"train": 0.7, "validation": 0.1, "test": 0.2}

SUMMARY = PromptSet(
    name="summary",
    version=1,
    reasoning=(
        "{question}\n\nSummarise the text above in a few sentences. Give its main points, nothing that it "
        "does not say, and write the summary alone."
    ),
    reasoning_prefill="",
    critique=(
        "Instruction:\nBelow are a text and a summary of it. Comment in turn on whether the summary has the "
        "main points, whether the text bears out each of its statements, whether it is short, and whether it "
        "reads well. Then rate it from 1 (useless) to 10 (could not be better) and say how to improve it.\n"
        "Your answer format should be:\n"
        f"Comments: [...]\n{SCORE_LABEL} [a whole number]\nSuggestions: [...]\n\n"
        "Text:\n{question}\n\nSummary:\n{response}"
    ),
    next_critique=(
        "The summary was rewritten after your critique. Judge the new one in the same way and in the same answer "
        "format.\n\nSummary:\n{response}"
    ),
    refinement=(
        "Here is a critique of your summary. Follow its comments and suggestions and write a new summary of "
        "the text; write the summary alone.\n\n{critique}"
    ),
    refinement_prefill="",
)
"""Prompts of the task for models that read instructions; the paper's were not released."""


def parse(row: Row) -> Problem:
    """Turn a row of CNN/DailyMail into a problem; the article is the question."""
    row.layout(("article", "highlights"))
    highlights = row.text("highlights")
    return make_problem(
        dataset="cnn_dailymail",
        question=row.text("article"),
        solution=highlights,
        answer=highlights,
        kind=SCORE,
    )


def load_facts(
    *, source: str | None, split: str, seed: int, facts: int = 2, remarks: int = 2, size: int = 2000
) -> list[Problem]:
    """Draw `size` distinct texts and keep those of one split, which is a hash of the text.

    Args:
        source: Must be None: the task is generated.
        split: `train`, `validation` or `test`, 70 / 10 / 20 %.
        seed: Seed of the draw; it never moves a text from one split to another.
        facts: Key facts in a text, each of another person.
        remarks: Sentences in a text that do not belong into its summary.
        size: Distinct texts over all splits together.

    Raises:
        DataError: An option is out of range, or there are too few texts for `size`.
    """
    if source is not None:
        raise DataError("task made_up_facts is generated: remove `source`.")
    if split not in FRACTIONS:
        raise DataError(f"task made_up_facts: no split {split!r}. {nearest(split, FRACTIONS)}")
    for name, value, least, most in (("facts", facts, 1, len(NAMES)), ("remarks", remarks, 0, len(REMARKS))):
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            raise DataError(f"task made_up_facts: {name}={value!r}, expected {least} to {most}.")
    # At least so many: their order and the remarks only add to it.
    there_are = math.comb(len(NAMES), facts) * (8 * len(COLOURS) * len(THINGS)) ** facts
    if not 1 <= size <= there_are // 2:
        raise DataError(
            f"task made_up_facts: size={size!r}, expected 1 to {there_are // 2} with {facts} facts."
        )
    rng = random.Random(child_seed(seed, "made_up_facts", facts, remarks))
    drawn: dict[str, Problem] = {}
    while len(drawn) < size:
        problem = _draw(rng, facts, remarks)
        drawn[problem.id] = problem
    return split_problems(list(drawn.values()), fractions=FRACTIONS, salt="made_up_facts")[split]


def _draw(rng: random.Random, facts: int, remarks: int) -> Problem:
    stated = [
        f"{name} has {rng.randint(2, 9)} {rng.choice(COLOURS)} {rng.choice(THINGS)}."
        for name in rng.sample(NAMES, facts)
    ]
    sentences = stated + rng.sample(REMARKS, remarks)
    rng.shuffle(sentences)
    key_facts = [sentence for sentence in sentences if sentence in stated]  # in the order of the text
    return make_problem(
        dataset="made_up_facts",
        question=" ".join(sentences),
        solution=" ".join(key_facts),
        answer="\n".join(key_facts),
        kind=SCORE,
    )


TASK = Task(
    name="cnn_dailymail",
    about="News articles to be summarised, with the editors' highlights; replies are scored.",
    kinds=(SCORE,),
    load=partial(load_published, parse, HUB),
    hub="abisee/cnn_dailymail",
    licence="Apache-2.0",
)

FACTS = Task(
    name="made_up_facts",
    about="Short texts of made-up facts to be summarised, for `KeywordScorer`; generated.",
    kinds=(SCORE,),
    load=load_facts,
    hub=None,
    licence="Apache-2.0",
)
