"""Generated task with scored replies: summarise a text that mixes a few facts with remarks.

    It rains. Ana has 3 red cups. The shop is shut. Bo has 7 blue pens.

A good summary holds only the facts. The gold answer lists the facts, one per line, as `scoring.KeywordScorer`
expects in `gold`. Nothing is downloaded.
"""

from __future__ import annotations

import math
import random

from critique_rl.tasks.base import FRACTIONS, DataError, Task, check_generated, split_problems
from critique_rl.tasks.published import make_problem
from critique_rl.types import Problem, child_seed

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


def load(
    *, source: str | None, split: str, seed: int, facts: int = 2, remarks: int = 2, size: int = 2000
) -> list[Problem]:
    """Draw `size` distinct texts and keep those of one split; the split of a text is a hash of the text.

    Args:
        source: Must be None: the task is generated.
        split: `train`, `validation` or `test`, 70 / 10 / 20 %.
        seed: Seed of the draw; no seed moves a text to another split.
        facts: Key facts in a text, each about a different person.
        remarks: Sentences in a text that do not belong in its summary.
        size: Distinct texts over all splits together.

    Raises:
        DataError: An argument is wrong or out of range, or there are too few texts for `size`.
    """
    check_generated("made_up_facts", source, split, FRACTIONS)
    for name, value, least, most in (("facts", facts, 1, len(NAMES)), ("remarks", remarks, 0, len(REMARKS))):
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            raise DataError(f"task made_up_facts: {name}={value!r}, expected {least} to {most}.")
    # A lower bound on the number of texts, without their order and the remarks; numbers are 2 to 9.
    most = math.comb(len(NAMES), facts) * (8 * len(COLOURS) * len(THINGS)) ** facts // 2
    if not 1 <= size <= most:
        raise DataError(f"task made_up_facts: size={size!r}, expected 1 to {most} with {facts} facts.")
    rng = random.Random(child_seed(seed, "made_up_facts", facts, remarks))
    drawn: dict[str, Problem] = {}
    while len(drawn) < size:
        stated = [
            f"{name} has {rng.randint(2, 9)} {rng.choice(COLOURS)} {rng.choice(THINGS)}."
            for name in rng.sample(NAMES, facts)
        ]
        sentences = stated + rng.sample(REMARKS, remarks)
        rng.shuffle(sentences)
        key_facts = [sentence for sentence in sentences if sentence in stated]  # in the order of the text
        problem = make_problem(
            dataset="made_up_facts",
            question=" ".join(sentences),
            solution=" ".join(key_facts),
            answer="\n".join(key_facts),
            kind="score",
        )
        drawn[problem.id] = problem
    return split_problems(list(drawn.values()), fractions=FRACTIONS, salt="made_up_facts")[split]


TASK = Task(
    name="made_up_facts",
    about="Short texts of made-up facts to summarise, for `KeywordScorer`; generated.",
    kinds=("score",),
    load=load,
    licence="Apache-2.0",
)
