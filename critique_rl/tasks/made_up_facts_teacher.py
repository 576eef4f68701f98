"""Scripted summariser and annotator of the task `made_up_facts`.

Their faults are parameters, as in `modular_chain_teacher`, so that RL has something to improve. The summariser
omits some kinds of facts, mistakes some remarks for facts, and follows the suggestions of a critique. The
annotator rates leniently whatever the summary holds, and often suggests too little.
"""

from __future__ import annotations

import itertools
import random
import re
from dataclasses import dataclass

from critique_rl.prompts import HIGHEST, LOWEST, RATING_LABEL
from critique_rl.tasks.made_up_facts import REMARKS
from critique_rl.types import Problem, child_seed

COMMENTS_LABEL = "Comments: "
SUGGESTIONS_LABEL = "Suggestions: "
STATED, MISSING, SURPLUS = " Stated.", " Missing.", " Surplus."


def sentences(text: str) -> list[str]:
    """Split a text of the task into sentences."""
    return re.findall(r"[^.]+\.", text.replace(". ", "."))


@dataclass(frozen=True)
class Summariser:
    """Scripted solver.

    Attributes:
        overlooked: Share of the kinds of facts (who has what) that the summariser tends to leave out.
        mistaken: Share of the remarks that the summariser tends to mistake for facts.
        conviction: Probability of following such a tendency.
    """

    overlooked: float = 0.0
    mistaken: float = 0.0
    conviction: float = 1.0

    def solve(self, problem: Problem, rng: random.Random) -> str:
        """Write a summary."""
        return " ".join(s for s in sentences(problem.question) if self._takes(s, rng))

    def refine(self, problem: Problem, critique: str, rng: random.Random) -> str:
        """Write a refinement: the sentences that the critique suggests, or a new summary if there are none."""
        suggested = critique.partition(SUGGESTIONS_LABEL)[2].strip()
        return suggested or self.solve(problem, rng)

    def _takes(self, sentence: str, rng: random.Random) -> bool:
        remark = sentence in REMARKS
        kind = sentence if remark else (sentence.split()[0], sentence.split()[-1])
        share = self.mistaken if remark else self.overlooked
        tends_to_err = child_seed(0, "summariser", str(kind)) / 2**31 < share
        return remark == (tends_to_err and rng.random() < self.conviction)


@dataclass(frozen=True)
class Annotator:
    """Scripted writer of critiques.

    Attributes:
        lenient: Probability of a random rating from the upper half of the scale.
        stop: Probability of ending the suggestions, drawn before each suggested sentence.
    """

    lenient: float = 0.0
    stop: float = 0.0

    def critique(self, problem: Problem, response: str, rng: random.Random) -> str:
        """Write a critique: a comment on each stated, missing or surplus sentence, a rating, and suggestions."""
        stated = sentences(response)
        comments, rating = [], HIGHEST
        for sentence in sentences(problem.question):
            remark = sentence in REMARKS
            if sentence in stated:
                comments.append(sentence + (SURPLUS if remark else STATED))
                rating -= 2.0 if remark else 0.0
            elif not remark:
                comments.append(sentence + MISSING)
                rating -= 4.0
        if rng.random() < self.lenient:
            rating = float(rng.randint(6, 10))
        facts = (s for s in sentences(problem.question) if s not in REMARKS)
        suggested = itertools.takewhile(lambda _: rng.random() >= self.stop, facts)
        return (
            f"{COMMENTS_LABEL}{' '.join(comments)}\n{RATING_LABEL} {max(rating, LOWEST):.0f}\n"
            f"{SUGGESTIONS_LABEL}{' '.join(suggested)}"
        )
