"""The embedded task whose replies are scored: a few facts among remarks that are none, to be summarised.

    It rains. Ana has 3 red cups. The shop is shut. Bo has 7 blue pens.

A good summary is the facts alone. The gold answer, the facts one a line, is what `scoring.KeywordScorer` takes as
`gold`; nothing is downloaded.
"""

from __future__ import annotations

import math
import random

from critique_rl.tasks.base import DataError, Task, split_problems
from critique_rl.tasks.published import make_problem
from critique_rl.types import Problem, child_seed, nearest

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


def load(
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
        kind="score",
    )


TASK = Task(
    name="made_up_facts",
    about="Short texts of made-up facts to be summarised, for `KeywordScorer`; generated.",
    kinds=("score",),
    load=load,
    hub=None,
    licence="Apache-2.0",
)
