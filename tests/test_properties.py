"""Properties that hold for any input, tried on drawn ones."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from critique_rl.evaluation.episodes import Episode
from critique_rl.evaluation.metrics import metrics
from critique_rl.grading import extract_answer, grade
from critique_rl.grading.signs import canonical
from critique_rl.pairwise_rewards import parse_preference, r_format
from critique_rl.prompts import (
    RATING_LABEL,
    STEP_LABEL,
    VERDICT_LABEL,
    after_thought,
    parse_rating,
    parse_verdict,
)
from critique_rl.tasks.base import split_of
from critique_rl.training.objectives import grpo_advantages, rloo_advantages

# The same examples in each run, without a clock: machines differ.
settings.register_profile("fixed", derandomize=True, deadline=None, max_examples=100, database=None)
settings.load_profile("fixed")

PROSE = st.text(st.characters(categories=["Lu", "Ll", "Nd"], include_characters=" .,+=-\n"), max_size=200)
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=200)
JUDGED = st.tuples(st.booleans(), st.sampled_from(["correct", "wrong", "unparsed"]), st.booleans())
REWARDS = st.lists(st.lists(st.floats(-4, 4, width=32), min_size=4, max_size=4), min_size=1, max_size=5).map(
    lambda rows: torch.tensor(rows, dtype=torch.float64)
)


# -- parsers -------------------------------------------------------------------------------------------------


@given(PROSE, st.sampled_from(["Correct", "Wrong"]), st.sampled_from(["", "**", "- ", "3. "]))
def test_a_critique_that_ends_in_a_verdict_has_it(prose: str, word: str, lead: str) -> None:
    critique = f"{STEP_LABEL} {prose}\n{lead}{VERDICT_LABEL} {word}"
    assert parse_verdict(critique) == word.lower()
    assert parse_verdict(f"<think>{VERDICT_LABEL} Wrong</think>{critique}") == word.lower()
    other = {"Correct": "Wrong", "Wrong": "Correct"}[word]
    assert parse_verdict(f"{critique}\n{VERDICT_LABEL} {other}") == "unparsed"


@given(PROSE, st.integers(1, 10))
def test_a_critique_that_ends_in_a_rating_has_it(prose: str, rating: int) -> None:
    assert parse_rating(f"{prose}\n{RATING_LABEL} {rating}/10") == rating


@given(PROSE, st.sampled_from([1, 2]), st.sampled_from(["{}", "({})", "Answer {}", "\\text{{Response {}}}"]))
def test_a_boxed_name_behind_a_thought_is_the_preference(prose: str, label: int, name: str) -> None:
    reply = f"<think>{prose}</think> \\boxed{{{name.format(label)}}}"
    assert parse_preference(reply) == label
    assert r_format([reply]) == [1.0 if prose.strip() else r_format([reply])[0]]


@given(TEXT)
def test_no_text_breaks_a_parser(text: str) -> None:
    parse_verdict(text)
    parse_rating(text)
    parse_preference(text)
    assert r_format([text]) in ([0.0], [1.0])
    assert after_thought(f"<think>{text.replace('<', '')}</think>7") == "7"


# -- grading -------------------------------------------------------------------------------------------------


@given(TEXT)
def test_signs_are_written_in_one_way_at_once(text: str) -> None:
    assert canonical(canonical(text)) == canonical(text)


@given(st.integers(-(10**9), 10**9), st.integers(-(10**9), 10**9))
def test_equal_integers_and_no_others_are_right(number: int, other: int) -> None:
    wide = str.maketrans("0123456789-", "０１２３４５６７８９－")
    for said in (f"{number}", f"{number:,}", f"{number}.0", f"${number}$", str(number).translate(wide)):
        for kind in ("number", "math", "mixed"):
            reply = f"The answer is {said}."
            assert grade(gold=str(number), reply=reply, kind=kind) is True, said
            assert grade(gold=str(other), reply=reply, kind=kind) is (number == other), said
            assert extract_answer(reply, kind) == str(number), said


@given(st.fractions(max_denominator=50).filter(lambda f: f.denominator > 1 and abs(f) < 1000))
def test_a_fraction_is_right_in_each_spelling(value: object) -> None:
    top, bottom = value.numerator, value.denominator  # type: ignore[attr-defined]
    sign, whole, rest = "-" if top < 0 else "", abs(top) // bottom, abs(top) % bottom
    spellings = [
        f"{top}/{bottom}",
        f"\\frac{{{top}}}{{{bottom}}}",
        f"{sign}\\dfrac{{{abs(top)}}}{{{bottom}}}",
    ]
    spellings += (
        [f"{sign}{whole} {rest}/{bottom}", f"{sign}{whole}\\frac{{{rest}}}{{{bottom}}}"] if whole else []
    )
    for said in spellings:
        for kind in ("number", "math"):
            assert grade(gold=f"{top}/{bottom}", reply=f"The answer is {said}", kind=kind) is True, said
            wrong = grade(gold=f"{top + 1}/{bottom}", reply=f"The answer is {said}", kind=kind)
            assert wrong is False, said


# -- metrics, advantages, splits --------------------------------------------------------------------------------


@given(st.lists(JUDGED, min_size=1, max_size=40), st.randoms(use_true_random=False))
def test_the_metrics_of_refinements_add_up(judged: list[tuple[bool, str, bool]], random: object) -> None:
    episodes = [
        Episode(str(i), "toy", "q", "1", "number", "y", right, "c", verdict, "z", refined, 5)
        for i, (right, verdict, refined) in enumerate(judged)
    ]
    values = {name: math.nan if value is None else value for name, value in metrics(episodes).items()}
    assert values["delta"] == pytest.approx(values["acc_refine"] - values["acc"])
    assert values["delta"] == pytest.approx(values["delta_ic"] - values["delta_ci"])
    assert 0 <= values["acc_dis"] <= values["parse_rate"] <= 1
    if values["parse_rate"]:
        assert values["acc_dis"] == pytest.approx(values["acc_dis_parsed"] * values["parse_rate"])
    random.shuffle(episodes)  # type: ignore[attr-defined]
    shuffled = {name: math.nan if value is None else value for name, value in metrics(episodes).items()}
    assert shuffled == pytest.approx(values, nan_ok=True)


@given(REWARDS, st.floats(-3, 3), st.permutations(range(4)))
def test_advantages_know_neither_level_nor_order(
    rewards: torch.Tensor, shift: float, order: list[int]
) -> None:
    for advantages in (rloo_advantages, grpo_advantages):
        plain = advantages(rewards)
        torch.testing.assert_close(advantages(rewards + shift), plain, atol=1e-5, rtol=1e-3)
        torch.testing.assert_close(advantages(rewards[:, order]), plain[:, order], atol=1e-9, rtol=1e-7)
        torch.testing.assert_close(
            plain.sum(1), torch.zeros(len(rewards), dtype=plain.dtype), atol=1e-6, rtol=0
        )
    torch.testing.assert_close(rloo_advantages(2 * rewards), 2 * rloo_advantages(rewards))


@given(st.lists(TEXT, min_size=1, max_size=30, unique=True), st.integers(1, 9), TEXT)
def test_each_problem_is_in_one_split_whatever_stands_beside_it(ids: list[str], part: int, salt: str) -> None:
    fractions = {"train": part / 10, "test": 1 - part / 10}
    turned = dict(reversed(fractions.items()))
    for name in ids:
        assert split_of(name, fractions, salt) == split_of(name, turned, salt)
        assert split_of(name, {"all": 1.0}, salt) == "all"
