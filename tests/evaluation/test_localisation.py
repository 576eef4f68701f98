"""Step judgments of critiques, and the first flagged step against the first wrong one."""

from __future__ import annotations

import dataclasses
import random

import pytest

from critique_rl.evaluation.episodes import Episode
from critique_rl.evaluation.localisation import first_flagged_step, localisation, step_judgments
from critique_rl.prompts import COMPACT, PAPER, STEP_LABEL, VERDICT_LABEL, PromptSet, parse_verdict
from critique_rl.tasks import TASKS, load_task
from critique_rl.tasks.modular_chain import first_error
from critique_rl.tasks.modular_chain_teacher import Annotator, Solver
from critique_rl.types import Problem, UserError

STEP = "Correctness of the step:"


def critique(*judgments: str, verdict: str = "Wrong", sentences: tuple[str, ...] = ()) -> str:
    """A critique with one block per judgment in the order of the paper's fields; "" leaves the field out."""
    blocks = [
        f"{STEP_LABEL} {sentences[i] if sentences else 'so 2'}\n"
        + (f"{STEP} {judged}\n" if judged else "")
        + "Explanation: because."
        for i, judged in enumerate(judgments)
    ]
    return "\n".join([*blocks, "", f"{VERDICT_LABEL} {verdict}", "Explanation: see above."])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (critique("Correct", "Wrong", "Wrong"), [True, False, False]),
        (critique("Correct", "", "Correct", verdict="Correct"), [True, None, True]),
        (critique("[Wrong]", "**Correct**", "_Wrong_"), [False, True, False]),
        # The fields of the embedded task: the explanation comes first.
        (f"{STEP_LABEL} 1+1=3\nExplanation: 2\n{STEP} Wrong\n{VERDICT_LABEL} Wrong", [False]),
        (f"**{STEP_LABEL}** 1+1=3\n- **{STEP}** Wrong", [False]),
        (f"1. {STEP_LABEL} a\n{STEP} Correct\n2. {STEP_LABEL} b\n{STEP} Wrong", [True, False]),
        # The format repeated, two judgments, a longer word and another spelling say nothing.
        (critique("[Correct/Wrong]"), [None]),
        (critique("Correct or Wrong"), [None]),
        (f"{STEP_LABEL} a\n{STEP} Wrong\n{STEP} Correct", [None]),
        (f"{STEP_LABEL} a\n{STEP} Wrong\n{STEP} Wrong", [False]),
        (critique("Wrongly put", "Correctly"), [None, None]),
        (critique("wrong"), [None]),
        # What is quoted is not the critic's judgment.
        (f'{STEP_LABEL} a\nYou wrote "{STEP} Wrong".\n{STEP} Correct', [True]),
        (f"{STEP_LABEL} a\n> {STEP} Wrong\n{STEP} Correct", [True]),
        (f"{STEP_LABEL} a\n```\n{STEP_LABEL} b\n{STEP} Wrong\n```\n{STEP} Correct", [True]),
        (f"{STEP_LABEL} a\n`{STEP} Wrong` is what I would say if\n{STEP} Correct", [True]),
        # A judgment before the first step, and the final verdict, belong to no step.
        (f"{STEP} Wrong\n{STEP_LABEL} a\n{STEP} Correct\n\n{VERDICT_LABEL} Wrong", [True]),
        (f"{VERDICT_LABEL} Wrong", []),
        ("", []),
    ],
)
def test_step_judgments(text: str, expected: list[bool | None]) -> None:
    assert step_judgments(text) == expected
    flags = [i for i, judged in enumerate(expected) if judged is False]
    assert first_flagged_step(text) == (flags[0] if flags else None)


GOLD = Problem(
    "p",
    "modular_chain",
    "1+1+1+1, left to right mod 10",
    "1+1=2\n2+1=3\n3+1=4\nThe answer is 4",
    "4",
    "number",
)
RIGHT = GOLD.solution
BAD_0 = "1+1=3\n3+1=4\n4+1=5\nThe answer is 5"
BAD_1 = "1+1=2\n2+1=4\n4+1=5\nThe answer is 5"
CANCELLED = (
    "1+1=3\n3+1=3\n3+1=4\nThe answer is 4"  # wrong in step 0 and again in step 1, but right in the end
)


def episode(response: str, text: str | None, correct: bool | None, number: int = 0) -> Episode:
    return Episode(
        id="p",
        dataset="modular_chain",
        question=GOLD.question,
        answer="4",
        kind="number",
        response=response,
        response_correct=correct,
        critique=text,
        verdict=None if text is None else parse_verdict(text).value,
        refinement=RIGHT,
        refinement_correct=True,
        tokens=1,
        sample=number,
    )


TABLE = [
    (BAD_0, critique("Wrong", "Correct"), False),  # found
    (BAD_1, critique("Correct", "Wrong", "Wrong"), False),  # found; what comes after it does not matter
    (BAD_1, critique("Wrong", "Wrong"), False),  # too early
    (BAD_1, critique("Correct", "Correct", "Wrong"), False),  # too late
    (BAD_0, critique("Correct", verdict="Correct"), False),  # not flagged
    (BAD_1, critique("Correct", ""), False),  # not flagged, and yet the verdict is Wrong: inconsistent
    (BAD_0, critique("Wrong", verdict="perhaps"), False),  # found, no verdict
    (RIGHT, critique("Correct", "Correct", verdict="Correct"), True),
    (RIGHT, critique("Correct", "Wrong", verdict="Correct"), True),  # false alarm, inconsistent
    (RIGHT, critique("Wrong"), True),  # false alarm
    (CANCELLED, critique("Wrong"), True),  # right in spite of a wrong step: no false alarm
    (RIGHT, critique("Correct", verdict="Correct"), False),  # graded wrong, though no step is
    (BAD_0, critique("Correct", verdict="Correct"), None),  # could not be graded
    (BAD_0, None, False),  # no critic
]


def test_localisation_by_hand() -> None:
    episodes = [episode(*row, number=i) for i, row in enumerate(TABLE)]
    assert localisation(episodes, {"p": GOLD}, first_error, COMPACT) == pytest.approx(
        {
            "first_error_acc": 3 / 7,
            "flagged_early": 1 / 7,
            "flagged_late": 1 / 7,
            "not_flagged": 2 / 7,
            "right_unflagged": 1 / 3,
            "consistent_rate": 10 / 12,
            "step_parse_rate": 21 / 22,
            "n_wrong": 7,
            "n_right": 3,
            "n_parsed": 12,
            "n_steps": 22,  # 2 + 3 + 2 + 3 + 1 + 2 + 1, 2 + 2 + 1, 1 + 1 + 1
            "n_ungraded": 1,
            "n_wrong_without_error": 1,
            "n_right_with_error": 1,
        }
    )


def test_without_critiques_each_share_is_none() -> None:
    measured = localisation([episode(BAD_0, None, False)], {}, first_error, COMPACT)
    assert {name for name, value in measured.items() if value is None} == {
        name for name in measured if not name.startswith("n_")
    }
    assert not any(value for value in measured.values())


def test_the_last_round_alone_is_read() -> None:
    early = episode(BAD_0, critique("Wrong"), False)
    late = dataclasses.replace(episode(BAD_1, critique("Wrong"), False), round=1)
    measured = localisation([early, late], {"p": GOLD}, first_error, COMPACT)
    assert (measured["n_wrong"], measured["first_error_acc"], measured["flagged_early"]) == (1, 0.0, 1.0)


@pytest.mark.parametrize("prefill", [PAPER.reasoning_prefill, PAPER.refinement_prefill])
def test_the_prefill_of_a_response_is_no_step(prefill: str) -> None:
    written = episode(prefill + BAD_1, critique("Correct", "Wrong"), False)
    assert localisation([written], {"p": GOLD}, first_error, PAPER)["first_error_acc"] == 1.0
    assert localisation([written], {"p": GOLD}, first_error, COMPACT)["first_error_acc"] == 0.0


def test_a_missing_problem_is_named() -> None:
    with pytest.raises(UserError, match="records of problem p, which is not among the 0 problems given"):
        localisation([episode(BAD_0, critique("Wrong"), False)], {}, first_error, COMPACT)


# --- the teacher of the embedded task -----------------------------------------------------------------


@pytest.fixture(scope="module")
def chains() -> list[Problem]:
    return load_task("modular_chain", split="train", size=600)


def measure(problems: list[Problem], annotator: Annotator, prompts: PromptSet = COMPACT) -> dict:
    rng = random.Random(0)
    episodes = []
    for problem in problems:
        response = Solver(slip=0.3).solve(problem, rng)
        text = annotator.critique(problem, response, rng)
        correct = response.endswith(f" {problem.answer}")
        made = dataclasses.replace(episode(response, text, correct), id=problem.id)
        episodes.append(made)
    find = TASKS["modular_chain"].first_error
    assert find is not None
    return localisation(episodes, {p.id: p for p in problems}, find, prompts)


def test_a_perfect_annotator_finds_each_first_error(chains: list[Problem]) -> None:
    measured = measure(chains, Annotator())
    assert measured["n_wrong"] > 200 and measured["n_right"] > 100
    assert [measured[m] for m in ("first_error_acc", "right_unflagged", "step_parse_rate")] == [1.0] * 3
    assert measured["consistent_rate"] == 1.0


def test_the_faults_of_an_annotator_show_where_they_should(chains: list[Problem]) -> None:
    blind = measure(chains, Annotator(miss=1.0))
    assert (blind["not_flagged"], blind["right_unflagged"]) == (1.0, 1.0)
    nervous = measure(chains, Annotator(false_alarm=1.0))
    assert nervous["right_unflagged"] == 0.0 and nervous["flagged_late"] == nervous["not_flagged"] == 0.0
    # It flags step 0 in any case, which is right where the first error is there.
    assert nervous["first_error_acc"] == pytest.approx(1 - nervous["flagged_early"])
    lazy = measure(chains, Annotator(stop_at_match=1.0))
    # It reads one step alone: it finds errors there, and calls all other responses right.
    assert lazy["first_error_acc"] == pytest.approx(nervous["first_error_acc"], abs=0.1)
    assert lazy["not_flagged"] == pytest.approx(1 - lazy["first_error_acc"])
    half = measure(chains, Annotator(miss=0.5))
    # The first error is missed by half; a later step that differs may be flagged instead.
    assert half["first_error_acc"] == pytest.approx(0.5, abs=0.1) and half["flagged_late"] > 0.05
    assert half["flagged_early"] == 0.0
