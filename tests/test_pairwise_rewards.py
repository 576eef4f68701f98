"""Tests of `critique_rl.pairwise_rewards`: how a preference is read, and the truth tables of the released code."""

from __future__ import annotations

import importlib.util
import random
import re
import sys
import time
from typing import Any

import pytest

from critique_rl import rewards
from critique_rl.pairwise_rewards import (
    TIE,
    completion_text,
    legacy_clean,
    legacy_r_format,
    legacy_r_pref,
    pairwise_reward,
    parse_preference,
    r_format,
    r_pref,
)
from critique_rl.types import UserError

needs_mathruler = pytest.mark.skipif(
    any(importlib.util.find_spec(package) is None for package in ("mathruler", "pylatexenc")),
    reason="needs the extra 'legacy'",
)


def reply(box: str) -> str:
    return rf"<think>The dog is black.</think>The better one: \boxed{{{box}}}"


# --- reading a preference -----------------------------------------------------------------------------

NAMES = {
    1: [
        *("1", " 1 ", "1.", "(1)", "[1]", "((1))", "[[A]]", "A", "a", "(A)", "first", "First", "FIRST", "1st"),
        *("Answer 1", "answer 1", "ANSWER 1", "Answer1", "Answer: 1", "Answer (1)", "(Answer 1)", "Answer A"),
        *("Answer one", "Response 1", "response A", "Option 1", "the first", "The first response"),
        *("the first one", "Answer 1 is better", "Answer 1 is better.", "Response 1 is the better response"),
        *("**1**", "**Answer 1**", "*A*", "`1`", '"1"', "'1'", "Answer\n1"),
    ],
    2: [
        *("2", "2.", "(2)", "[2]", "B", "b", "(b)", "second", "Second", "2nd", "Answer 2", "response 2"),
        *("Response B", "the second response", "Answer two", "Answer 2 is better", "**2**"),
    ],
    None: [
        *("", " ", "3", "0", "C", "1.0", "2.5", "12", "11", "1,2", "1/1", "1 2", "1 or 2", "1 and 2", "-1", "1?"),
        *("not 1", "Answer 1 is not better", "Answer 1 is better than Answer 2", "Answer 1 is worse", "X"),
        *("Answer", "Answer 1 or Answer 2", "A>B", "[[A>B]]", "1=2", "a response", "one response", "the one"),
        *("two", "(1", "1)", "(1]", "1st place for 2", "tie", "both", "None", r"\frac{1}{1}", r"\{1\}", "1^2"),
        *("x_1", "١", "１", "Answer 1" + " 1" * 40),
    ],
}  # fmt: skip
LATEX = {
    1: [
        *(r"\text{1}", r"\text{Answer 1}", r"\text{ answer 1 }", r"\textbf{Answer 1}", r"\text{Answer } 1"),
        *(r"\mathbf{1}", r"\mathrm{A}", r"\mathbf{\text{Answer 1}}", r"\text{\textbf{1}}", r"\boldsymbol{1}"),
        *(r"{1}", r"{{1}}", r"$1$", r"\(1\)", r"\left(1\right)", r"\text{Answer}~1", r"\text{Answer}\ 1"),
        *(r"\text{Answer}\,1", r"{\bf 1}", r"\boxed{1}", r"\text{first}", r"\text{(}1\text{)}"),
    ],
    2: [r"\text{2}", r"\mathbf{2}", r"\text{Response 2}", r"\textbf{\textit{B}}", r"\boxed{\text{2}}"],
    None: [r"\mathbf{1}_{2}", r"\text{1}\text{2}", r"\textcolor{red}{1}", r"\sqrt{1}", r"\mathbf", r"\alpha"],
}  # fmt: skip


@pytest.mark.parametrize("names", [NAMES, LATEX])
def test_names_of_responses(names: dict[int | None, list[str]]) -> None:
    read = {box: parse_preference(reply(box)) for boxes in names.values() for box in boxes}
    assert read == {box: label for label, boxes in names.items() for box in boxes}


def test_every_name_of_one_response_names_the_other_when_its_number_is_exchanged() -> None:
    exchanged = {"1": "2", "a": "b", "A": "B", "first": "second", "First": "Second", "FIRST": "SECOND"}
    exchanged |= {"1st": "2nd", "one": "two"}
    for box in NAMES[1]:
        other = re.sub(r"1st|1|\b[Aa]\b|(?i:first)|(?<=Answer )one", lambda m: exchanged[m[0]], box)
        assert other != box and parse_preference(reply(other)) == 2, other


@pytest.mark.parametrize(
    ("text", "expected", "why"),
    [
        ("", None, "nothing was written"),
        ("<think>", None, "nothing was thought"),
        (r"\boxed{1}", None, "no thought"),
        ("I prefer answer 1.", None, "neither thought nor box"),
        ("<think>x</think> Answer 1 is better.", None, "no box"),
        (r"<think>x \boxed{1}", None, "a thought that is never closed"),
        (r"<think>x \boxed{1}</think> Answer 1", None, "the box is part of the thought"),
        (r"<think>x \boxed{1}</think> \boxed{2}", 2, "the box in the thought is a draft"),
        (r"<think>x</think> \boxed{2} </think> \boxed{1}", 1, "only what follows the last end of a thought"),
        (r"<think>x</think>\boxed{2}<think>y</think>\boxed{1}", 1, "the second thought took it back"),
        (r"<think>x</think>\boxed{2}<think>y</think>", None, "nothing follows the last thought"),
        (r"<think>x</think>\boxed{1}<think>Or \boxed{2}", None, "a second thought that is never closed"),
        (r"<think>x</think>\boxed{1}<think>Or", None, "the same without a second box"),
        (r"x</think>\boxed{1}", 1, "the thought was opened in the prompt"),
        (r"Sure. <think>x</think>\boxed{1}", 1, "a preamble is a matter of the format"),
        (r"<think></think>\boxed{1}", 1, "so is an empty thought"),
        (r"<think>x</think>\boxed{1}. It names the dog, answer 2 does not.", 1, "text after the box"),
        ("<think>x</think>\n\n$$\\boxed{1}$$\n", 1, "a display formula"),
        (r"<think>x</think>**\boxed{1}**", 1, "markdown around the box"),
        (r"<think>x</think>\boxed{1} so \boxed{1}", 1, "the same twice"),
        (r"<think>x</think>\boxed{1} so \boxed{Answer 1}", 1, "the same in other words"),
        (r"<think>x</think>\boxed{1} \boxed{2}", None, "a contradiction"),
        (r"<think>x</think>\boxed{2} or rather \boxed{1}", None, "a contradiction, whatever the order"),
        (r"<think>x</think>\boxed{1 or \boxed{2}}", None, "a contradiction, nested"),
        (r"<think>x</think>Score: \boxed{8}. \boxed{1}", None, "a box that names no response"),
        (r"<think>x</think>\boxed{} \boxed{1}", None, "an empty box"),
        (r"<think>x</think>\boxed{1", None, "cut inside the box"),
        (r"<think>x</think>\boxed{1} and \boxed{1", None, "cut inside the second box"),
        (r"<think>x</think>\boxed{\text{1}", None, "one brace too few"),
        (r"<think>x</think>\boxed{1}}", 1, "one brace too many"),
        (r"<think>x</think>\boxed{1\}}", None, "an escaped brace is part of the content"),
        (r"<think>x</think>boxed{1}", None, "not the command"),
        (r"<think>x< / think>\boxed{1}", None, "not the tag"),
    ],
)  # fmt: skip
def test_where_a_preference_stands(text: str, expected: int | None, why: str) -> None:
    assert parse_preference(text) == expected, why


def test_a_critic_that_was_not_told_to_think() -> None:
    assert parse_preference(r"\boxed{1}", thinking=False) == 1
    assert parse_preference(r"<think>\boxed{1}</think>\boxed{2}", thinking=False) == 2
    assert parse_preference(r"<think>\boxed{1}", thinking=False) is None


@pytest.mark.parametrize(
    "box",
    [
        *("tie", "Tie", "a tie", "Tied", "draw", "equal", "equally good", "Both are equally good", "same"),
        *("the same", "Both answers are equally bad", "both", "neither", r"\text{tie}"),
    ],
)  # fmt: skip
def test_ties_are_a_third_label_behind_a_flag(box: str) -> None:
    assert parse_preference(reply(box), ties=True) == TIE
    assert parse_preference(reply(box)) is None
    assert r_pref([reply(box)] * 3, label=[1, TIE, None]) == [0.0, 1.0, None]


def test_the_flag_of_ties_changes_nothing_else() -> None:
    for label, boxes in NAMES.items():
        for box in boxes:
            expected = {"tie": TIE, "both": TIE}.get(box, label)
            assert parse_preference(reply(box), ties=True) == expected, box


# --- the rewards --------------------------------------------------------------------------------------


def test_r_pref() -> None:
    one, two, unparsed = reply("1"), reply("Answer 2"), r"\boxed{1}"
    assert r_pref([one, two, unparsed], label=[1, 1, 1]) == [1.0, 0.0, 0.0]
    assert r_pref([one, two, unparsed], label=[2, 2, 2]) == [0.0, 1.0, 0.0]
    assert r_pref([one, two, unparsed], label=[None] * 3) == [None] * 3  # nobody knows
    assert r_pref([one, reply("tie")], label=[TIE, TIE]) == [0.0, 1.0]
    assert r_pref([], label=[]) == []


def test_the_flag_of_the_data_overrules_the_label() -> None:
    replies = [reply("1"), reply("tie"), reply("tie"), reply("1"), reply("tie")]
    labels, flags = [1, 1, 1, 1, None], [True, True, False, None, True]
    assert r_pref(replies, label=labels, tie=flags) == [0.0, 1.0, 0.0, 1.0, 1.0]


@pytest.mark.parametrize("label", ["1", "Answer 1", 3, -1, True, 1.5, "tie"])
def test_a_label_that_is_none_is_refused(label: Any) -> None:
    with pytest.raises(
        UserError, match=r"label of completion 1: found .*, expected 1, 2, 0 for a tie, or None"
    ):
        r_pref([reply("1")] * 2, label=[1, label])


def test_columns_of_another_length_are_refused() -> None:
    with pytest.raises(ValueError, match="shorter"):
        r_pref([reply("1")] * 2, label=[1])
    with pytest.raises(ValueError, match="shorter"):
        r_pref([reply("1")] * 2, label=[1, 1], tie=[False])


@pytest.mark.parametrize(
    ("text", "expected", "released", "why"),
    [
        (r"<think>x</think>\boxed{1}", 1, 1, "the format"),
        ("<think>\nx\n</think>\n\nSo:\n\\boxed{1}\n", 1, 1, "over several lines"),
        ("\n <think>x</think> \\boxed{1}", 1, 1, "white space in front"),
        (r"<think>x</think> Answer \boxed{1} is better.", 1, 1, "text around the box"),
        (r"<think>x</think> \boxed{whatever}", 1, 1, "the content of the box is of no matter"),
        (r"<think>\boxed{2}?</think> \boxed{1}", 1, 1, "a box in the thought"),
        (r"<think>x</think>\boxed{\text{1}}", 1, 1, "nested braces"),
        (r"<think>x</think>\boxed{\{}", 1, 1, "an escaped brace opens nothing"),
        ("", 0, 0, "nothing"),
        (r"\boxed{1}", 0, 0, "no thought"),
        (r"Sure. <think>x</think>\boxed{1}", 0, 0, "a preamble"),
        ("<think>x</think> Answer 1", 0, 0, "no box"),
        (r"<think>x \boxed{1}", 0, 0, "an open thought"),
        (r"<think>x \boxed{1}</think> Answer 1", 0, 0, "the box is part of the thought alone"),
        (r"x</think>\boxed{1}", 0, 0, "a thought that does not begin"),
        (r"</think><think>x\boxed{1}", 0, 0, "the wrong way round"),
        (r"<think>x</think>\boxed{1", 0, 0, "cut inside the box"),
        (r"<think></think>\boxed{1}", 0, 1, "an empty thought"),
        ("<think> \n</think>\\boxed{1}", 0, 1, "a blank thought"),
        (r"<think>x</think><think>y</think>\boxed{1}", 0, 1, "two thoughts"),
        (r"<think>x<think>y</think>\boxed{1}", 0, 1, "a thought opened twice"),
        (r"<think>x</think>y</think>\boxed{1}", 0, 1, "a thought closed twice"),
        (r"<think>x</think>\boxed{1}<think>", 0, 1, "a thought after the box"),
        (r"<think>x</think>\boxed{1} \boxed{1}", 0, 1, "two boxes"),
        (r"<think>x</think>\boxed{}", 0, 1, "an empty box"),
        (r"<think>x</think>\boxed{ }", 0, 1, "a blank box"),
        (r"<think>x</think>\boxed{\text{1}", 0, 1, "one brace too few"),
        ("< think >x< / think >\\boxed{1}", 0, 1, "white space in the tags"),
    ],
)  # fmt: skip
def test_r_format_and_that_of_the_released_code(text: str, expected: int, released: int, why: str) -> None:
    assert r_format([text]) == [expected], why
    assert legacy_r_format([text]) == [released], why


@pytest.mark.parametrize(
    "columns",
    [
        {},
        {"prompts": ["?"], "completion_ids": [[1]], "id": ["x"], "trainer_state": None, "log_metric": print},
    ],
)
def test_the_signature_is_that_of_trl(columns: dict[str, Any]) -> None:
    text, role = reply("1"), {"role": "assistant"}
    for completion in (
        text,
        [{**role, "content": text}],
        [{**role, "content": [{"type": "text", "text": text[:9]}, {"type": "text", "text": text[9:]}]}],
        [{**role, "content": "A tool, please."}, {**role, "content": text}],
        [{**role, "reasoning_content": "The dog is black.", "content": r"\boxed{1}"}],
        [{**role, "thinking": "The dog is black.", "content": r"\boxed{1}"}],
    ):
        assert r_pref(completions=[completion], label=[1], **columns) == [1.0]
        assert r_format(completions=[completion], **columns) == [1.0]
        assert legacy_r_format(completions=[completion], **columns) == [1.0]


@pytest.mark.parametrize("empty", ["", [], [{"content": ""}], [{"content": None}], [{"content": []}]])
def test_an_empty_completion(empty: Any) -> None:
    assert completion_text(empty) == ""
    assert (r_pref([empty], label=[1]), r_format([empty])) == ([0.0], [0.0])


def test_the_names_are_public() -> None:
    assert (rewards.r_pref, rewards.r_format, rewards.pairwise_reward) == (r_pref, r_format, pairwise_reward)
    assert (r_pref.__name__, r_format.__name__) == ("r_pref", "r_format")  # trl logs them


@pytest.mark.parametrize(
    ("preference", "kept", "alpha", "expected"),
    [
        (1.0, 1.0, 0.9, 1.0),
        (1.0, 0.0, 0.9, 0.9),
        (0.0, 1.0, 0.9, 0.1),
        (0.0, 0.0, 0.9, 0.0),
        (None, 1.0, 0.9, None),
        (1.0, 0.0, 1.0, 1.0),
        (0.0, 1.0, 1.0, 0.0),
        (None, 1.0, 1.0, None),
        (1.0, 0.0, 0.0, 0.0),
        (None, 1.0, 0.0, 1.0),
        (1.0, 0.0, 0.5, 0.5),
        (0.0, 1.0, 0.7, 0.3),
    ],
)
def test_pairwise_reward(preference: float | None, kept: float, alpha: float, expected: float | None) -> None:
    assert pairwise_reward(preference, kept, alpha=alpha) == expected  # to the last bit
    if alpha == 0.9:
        assert pairwise_reward(preference, kept) == expected


@pytest.mark.parametrize("alpha", [-0.1, 1.1, 90.0, float("nan")])
def test_alpha_is_checked(alpha: float) -> None:
    with pytest.raises(UserError, match="alpha must be between 0 and 1"):
        pairwise_reward(1.0, 1.0, alpha=alpha)


def test_long_degenerate_replies_take_no_time() -> None:
    parts = (
        "<think>",
        "</think>",
        r"\boxed{",
        r"\boxed{1}",
        "{",
        "}",
        "\\",
        " ",
        "\n",
        "(",
        "[",
        "</think>\\boxed{",
    )
    parts += ("<think>x</think>\\boxed{1",)
    texts = [part * 20_000 for part in parts]
    texts += [reply(text) for text in texts] + ["<think>x" + text for text in texts]
    texts.append(reply("(" * 20_000 + "1" + ")" * 20_000))
    began = time.perf_counter()
    r_pref(texts, label=[1] * len(texts))
    r_format(texts)
    legacy_r_format(texts)
    assert time.perf_counter() - began < 20  # it takes 1 s


# --- the released code --------------------------------------------------------------------------------


def test_white_space_around_tags_and_slashes_is_dropped() -> None:
    assert legacy_clean("< think >\n1 / 2 <\t3 < / think >\n Yes or no") == "<think>1/2<3</think>Yes or no"


def test_the_legacy_format_is_the_published_pattern() -> None:
    # The pattern and the clean-up as they are published, against the linear ones, on all kinds of scraps.
    pattern = re.compile(r"<think>.*</think>.*\\boxed\{.*\}.*", re.DOTALL)
    scraps = ["<think>", "</think>", "\\boxed{", "}", *"{ \n<>/x1", "think", "\u00a0"]
    draw = random.Random(0)
    kept = 0
    for _ in range(20_000):
        text = "".join(draw.choices(scraps, weights=[4, 4, 4, 3, *[1] * 10], k=draw.randrange(12)))
        if draw.random() < 0.5:
            text = "<think>" + text
        cleaned = re.sub(r"\s*([<>/])\s*", r"\1", text)
        assert legacy_clean(text) == cleaned
        expected = float(pattern.fullmatch(cleaned) is not None)
        assert legacy_r_format([text]) == [expected], text
        kept += expected == 1.0
    assert kept > 500


# Boxed text, and whether it earns the reward with the labels "1", "Answer 1" and "Response 1".
RELEASED = [
    ("1", True, False, False),
    ("1.", True, False, False),
    ("1.0", True, False, False),
    ("(1)", True, False, False),
    ("[1]", True, False, False),
    (r"\text{1}", True, False, False),
    ("Answer 1", False, True, False),
    ("answer 1", False, True, False),
    (r"\text{Answer 1}", False, True, False),
    ("Response 1", False, False, True),
    ("Answer 1 is better", False, False, False),
    ("**1**", False, False, False),
    ("1/1", False, False, False),
    ("1,2", False, False, False),
    ("first", False, False, False),
    ("A", False, False, False),
]


@needs_mathruler
@pytest.mark.parametrize(("box", "one", "answer", "response"), RELEASED)
def test_truth_table_of_the_released_grader(box: str, one: bool, answer: bool, response: bool) -> None:
    labels = ["1", "Answer 1", "Response 1"]
    assert legacy_r_pref([reply(box)] * 3, label=labels) == [float(x) for x in (one, answer, response)]
    assert legacy_r_pref([reply(box)], label=[1]) == [float(one)]  # a number is its text
    other = box.replace("1", "2") if box != "1,2" else "2,1"
    if other != box:
        labels = ["2", "Answer 2", "Response 2"]
        assert legacy_r_pref([reply(other)] * 3, label=labels) == [float(x) for x in (one, answer, response)]
        assert legacy_r_pref([reply(other)] * 3, label=["1", "Answer 1", "Response 1"]) == [0.0] * 3


@needs_mathruler
@pytest.mark.parametrize(
    ("text", "label", "pref", "kept", "strict", "why"),
    [
        (r"<think>So \boxed{2}</think> Answer 1", 2, 1, 0, 0, "a box in the thought counts"),
        (r"Sure. <think>x</think> \boxed{1}", 1, 1, 0, 1, "a preamble costs the format alone"),
        (r"\boxed{1}", 1, 1, 0, 0, "no thought costs the format alone"),
        (r"<think></think>\boxed{1}", 1, 1, 1, 1, "an empty thought costs nothing"),
        (r"<think>x</think><think>y</think>\boxed{1}", 1, 1, 1, 1, "several thoughts cost nothing"),
        (r"<think>x</think>\boxed{1} Answer 1 is better.", 1, 1, 1, 1, "text after the box"),
        (r"<think>x</think>\boxed{nonsense}", 1, 0, 1, 0, "the box may hold anything"),
        (r"<think>x</think>\boxed{1} no: \boxed{2}", 2, 1, 1, 0, "the last box alone counts"),
        (r"<think>x</think>\boxed{\text{Answer 1}}", "Answer 1", 1, 1, None, "braces are matched"),
        (r"<think>x</think>\boxed{ 1 }", 1, 1, 1, 1, "white space in the box"),
        (r"<think>x</think>\boxed{\mathbf{1}}", 1, 1, 1, 1, "LaTeX around the label"),
        (r"<think>x</think>Answer 1", "None", 1, 0, None, "without a box the answer is None"),
        (r"<think>x</think>\boxed{1", "None", 1, 0, None, "a box that is never closed is no box"),
        (r"<think>x</think>\boxed{1} \boxed{2", 1, 0, 1, 0, "nor is the one before it read then"),
        ("<think>x</think>\\boxed{yes\t/ no}", "yes/no", 1, 1, None, "white space around a slash"),
        ("", 1, 0, 0, 0, "nothing"),
        (r"<think>x</think>\boxed{1}", None, None, 1, None, "nobody knows"),
    ],
)  # fmt: skip
def test_rewards_of_the_released_code(
    text: str, label: Any, pref: float | None, kept: float, strict: float | None, why: str
) -> None:
    assert legacy_r_pref([text], label=[label], id=["x"]) == [pref], why
    assert legacy_r_pref([[{"role": "assistant", "content": text}]], label=[label]) == [pref], why
    assert legacy_r_format([text], id=["x"]) == [kept], why
    if not isinstance(label, str):
        assert r_pref([text], label=[label]) == [strict], why
    if pref is not None:
        assert pairwise_reward(pref, kept) == (1 - 0.1) * pref + 0.1 * kept  # as the released code adds them


@needs_mathruler
def test_with_numbers_as_labels_no_reply_keeps_the_released_grader_busy() -> None:
    ones, zeros = "1" * 9_000, "0" * 9_000
    bombs = [
        "9**9**9**9",
        "(9**9**9**9)",
        ones,
        f"({ones})",
        "(1e300)",
        "1e999",
        f"(1.{zeros}1)",
        f"({zeros}1)",
    ]
    began = time.perf_counter()
    assert legacy_r_pref([reply(bomb) for bomb in bombs], label=[1] * len(bombs)) == [0.0] * len(bombs)
    assert time.perf_counter() - began < 20


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mathruler.grader", None)  # makes the import fail
    with pytest.raises(UserError, match=r"needs an extra: pip install 'critique_rl\[legacy\]'"):
        legacy_r_pref([reply("1")], label=["1"])
    assert legacy_r_format([reply("1")]) == [1.0]
