"""The embedded task of summaries, and its scripted teacher."""

from __future__ import annotations

import random
import re
from typing import Any

import pytest

from critique_rl.tasks.made_up_facts import TASK as FACTS
from critique_rl.tasks.made_up_facts_teacher import Annotator, Summariser
from critique_rl.types import Problem, UserError, problem_id


def test_the_reviewer_says_what_is_so() -> None:
    question = "It rains. Ana has 3 red cups. Bo has 7 blue pens."
    text = Problem(problem_id(question), "made_up_facts", question, "", "", "score")
    rng = random.Random(0)
    critique = Annotator().critique(text, "It rains. Ana has 3 red cups.", rng)
    assert critique == (
        "Comments: It rains. Surplus. Ana has 3 red cups. Stated. Bo has 7 blue pens. Missing.\n"
        "Quality score: 4\nSuggestions: Ana has 3 red cups. Bo has 7 blue pens."
    )
    assert Summariser(conviction=0.0).refine(text, critique, rng) == "Ana has 3 red cups. Bo has 7 blue pens."
    assert Summariser().solve(text, rng) == "Ana has 3 red cups. Bo has 7 blue pens."
    assert Summariser(overlooked=1.0, mistaken=1.0).solve(text, rng) == "It rains."
    silent = Annotator(stop=1.0).critique(text, "It rains.", rng)
    assert silent.endswith("Suggestions: ")
    assert Summariser(overlooked=1.0, mistaken=1.0).refine(text, silent, rng) == "It rains."


def test_embedded_texts_hold_their_facts() -> None:
    problems = FACTS.load(source=None, split="train", seed=0, facts=3, remarks=1, size=200)
    for problem in problems:
        # Found again in the text by their form alone.
        facts = re.findall(r"[A-Z][a-z]+ has [2-9] [a-z]+ [a-z]+\.", problem.question)
        assert problem.answer.split("\n") == facts
        assert problem.solution == " ".join(facts)
        assert len({fact.split()[0] for fact in facts}) == 3
        assert len(re.findall(r"\.", problem.question)) == 4
        assert problem.id == problem_id(problem.question)
        assert problem.kind == "score"


def test_embedded_splits_are_disjoint_whatever_the_seed() -> None:
    def ids(split: str, seed: int) -> set[str]:
        return {p.id for p in FACTS.load(source=None, split=split, seed=seed, facts=1, remarks=0, size=1500)}

    parts = [ids(split, 0) for split in ("train", "validation", "test")]
    assert len(set().union(*parts)) == sum(map(len, parts)) == 1500
    assert [len(part) / 1500 for part in parts] == pytest.approx([0.7, 0.1, 0.2], abs=0.05)
    assert ids("train", 0) == parts[0] != ids("train", 1)
    assert ids("train", 1) & parts[0]  # of 3,840 texts both seeds draw some
    assert not ids("train", 1) & parts[2]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"source": "x"}, "remove `source`"),
        ({"split": "tset"}, "no split 'tset'. Did you mean 'test'"),
        ({"facts": 0}, "facts=0, expected 1 to 10"),
        ({"remarks": 9}, "remarks=9, expected 0 to 8"),
        ({"facts": 1, "size": 2000}, "size=2000, expected 1 to 1920 with 1 facts"),
    ],
)
def test_embedded_task_errors(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=re.escape(message)):
        FACTS.load(**({"source": None, "split": "train", "seed": 0} | options))
