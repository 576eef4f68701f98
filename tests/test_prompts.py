"""Tests of `critique_rl.prompts`: the verdict's truth table, and what each prompt holds."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from critique_rl.prompts import (
    COMPACT,
    PAPER,
    PROMPT_SETS,
    SUMMARY,
    PromptSet,
    Verdict,
    cut_critique,
    paper_compat_judgment_is_right,
    parse_rating,
    parse_verdict,
    prompt_set,
)
from critique_rl.tasks import load_task
from critique_rl.types import UserError

LABEL = "Correctness of the final answer:"
RIGHT, WRONG = f"{LABEL} Correct", f"{LABEL} Wrong"
FENCE = "```"

VERDICTS = [
    # input, expected, why
    *(
        (f"{LABEL} {said}", "unparsed", "both verdicts")
        for said in (
            "Correct and Wrong",
            "Correct; Wrong",
            "Wrong & Correct",
            "Correct, and Wrong",
            "Correct - Wrong",
            "**Correct** and **Wrong**",
            "Wrong/Correct",
            "Correct, Wrong",
            "Correct — Wrong",
        )
    ),
    (f"{LABEL} Wrong - Correct is 5.", "wrong", "what would be correct"),
    (f"<think>\n{RIGHT}\nNo.\n</think>\n{WRONG}", "wrong", "a verdict in the thought is none"),
    (f"Hm. {RIGHT}\n</think>\n{WRONG}", "wrong", "a thought that the template opened"),
    (f"<think>\n{WRONG}\nbut", "unparsed", "a thought that never ends"),
    (RIGHT, "correct", "the marker of the released code"),
    (WRONG, "wrong", "the marker of the released code"),
    (f"{WRONG}\nExplanation: [the sum is 7]", "wrong", "the paper's format goes on with an explanation"),
    (f"{WRONG}\r\nExplanation: no", "wrong", "a line may end in CR LF"),
    (f"{LABEL}Wrong", "wrong", "no blank behind the colon"),
    (f"  \t{WRONG}.", "wrong", "indented, and a full stop"),
    (f"**{RIGHT}**", "correct", "the line is bold"),
    (f"**{LABEL}** Correct", "correct", "the label is bold"),
    (f"{LABEL} **Wrong**", "wrong", "the value is bold"),
    (f"{LABEL} _Wrong_", "wrong", "the value is in italics"),
    (f"**{LABEL[:-1]}**: Wrong", "wrong", "the label is bold, its colon is not"),
    (f"2) **{LABEL[:-1]}:** Wrong", "wrong", "an item with a number, bold"),
    (f"{LABEL} Wrong, Correct answer is 5.", "wrong", "one value, and a word like the other"),
    (f"{LABEL} Wrong, Correct.", "unparsed", "two values and a full stop"),
    (f"{LABEL} [Correct, Wrong]\r\n", "unparsed", "two values, CR LF"),
    (f"{LABEL} [Correct, Wrong] (choose one)", "unparsed", "two values and a remark"),
    (f"{LABEL} Correct, Wrong or Unsure", "unparsed", "three values"),
    (f"### {RIGHT}", "correct", "a heading"),
    (f"{LABEL} [Wrong]", "wrong", "brackets of the format kept around one value"),
    (f"{WRONG}\n{WRONG}", "wrong", "the same verdict twice"),
    (f"In short, {WRONG}\n{WRONG}", "wrong", "said within a line and on a line of its own"),
    ("", "unparsed", "empty"),
    ("Correct. Wrong.", "unparsed", "no label"),
    (f"{LABEL}", "unparsed", "a label without value, cut at the token limit"),
    (f"{LABEL} Incorrect", "unparsed", "not a value of the format, and not a Correct"),
    (f"{LABEL} Correctly solved? No.", "unparsed", "Correct must be a word"),
    (f"{LABEL} Wrongly judged before", "unparsed", "Wrong must be a word"),
    (f"{LABEL} Not Wrong", "unparsed", "the value must follow the label"),
    (f"{LABEL}\nWrong", "unparsed", "a value of the next line belongs to that line"),
    (LABEL.lower() + " wrong", "unparsed", "the label is matched letter by letter"),
    ("Correctness of the step: Wrong\nExplanation: no", "unparsed", "labels of steps alone"),
    (f"Correctness of the step: Wrong\n{RIGHT}", "correct", "labels of steps do not count"),
    (f"{RIGHT}\n{WRONG}", "unparsed", "both: the released code always rewards this"),
    (f"{WRONG}\n\nOn second thought:\n{RIGHT}", "unparsed", "both, far apart"),
    (f"{RIGHT}\nAs said, {WRONG}.", "unparsed", "both, one of them within a line"),
    (f"{LABEL} [Correct/Wrong]", "unparsed", "the format echoed"),
    (f"{LABEL} [Correct/Wrong]\n\n{WRONG}", "unparsed", "the format echoed holds both"),
    (f"{LABEL} Correct or Wrong", "unparsed", "two values"),
    (f"{LABEL} Correct, Wrong", "unparsed", "two values"),
    (f"{LABEL} Wrong | Correct", "unparsed", "two values"),
    (f"I would say {WRONG}", "unparsed", "within a line only"),
    (f"The solution says: {RIGHT}", "unparsed", "within a line only"),
    (f"> {RIGHT}", "unparsed", "a block quote"),
    (f"> {RIGHT}\n\n{WRONG}", "wrong", "a block quote does not contradict"),
    (f"{FENCE}\n{RIGHT}\n{FENCE}", "unparsed", "a code fence"),
    (f"{FENCE}text\n{RIGHT}\n{FENCE}\n{WRONG}", "wrong", "a code fence does not contradict"),
    (f"{FENCE}python\nprint(1)\n{RIGHT}", "unparsed", "a fence that is never closed reaches to the end"),
    (f"`{FENCE}\n{FENCE}\n{RIGHT}\n{FENCE}\n`{FENCE}\n{WRONG}", "wrong", "a fence in a longer fence"),
    (f"{FENCE}\r\n{RIGHT}\r\n{FENCE}\r\n{WRONG}\r\n", "wrong", "a fence with CR LF"),
    (f"{FENCE}x = 1{FENCE}\n{WRONG}", "wrong", "back-ticks on one line are no fence"),
    (f"`{RIGHT}`", "unparsed", "back-ticks"),
    (f"`{RIGHT}` is what the format asks for.\n{WRONG}", "wrong", "back-ticks do not contradict"),
    (f'"{RIGHT}"', "unparsed", "quotation marks"),
    (f'The solution claims "\n{RIGHT}\n"', "unparsed", "quotation marks around a line"),
    (f'The author wrote "{RIGHT}".\n\n{WRONG}', "wrong", "a quotation does not contradict"),
    (f"“{RIGHT}”", "unparsed", "typographic quotation marks"),
    (f"'{RIGHT}'", "unparsed", "single quotation marks"),
    (f"Don't add.\n{WRONG}", "wrong", "an apostrophe opens no quotation"),
    (f'Step sentence: a 5" pipe\nExplanation: fine\n\n{WRONG}', "wrong", "inches in another paragraph"),
    (f'Step sentence: a 5" pipe\n \t\n{WRONG}', "wrong", "the empty line holds blanks"),
    (f'Step sentence: a 5" pipe\nExplanation: fine\n{WRONG}', "wrong", "inches in the same paragraph"),
    (f'Step sentence: the "answer is 5"\n{WRONG}', "wrong", "a quotation that ends in a digit"),
    (f'It says "5 apples and\n{WRONG}"', "unparsed", "a quotation that starts with a digit"),
    (f'"3+4=7" is right, but "{RIGHT}" was copied.\n{WRONG}', "wrong", "a quotation behind one of digits"),
    (
        f'It says "x = 5" and claims "\n{RIGHT}\n"',
        "unparsed",
        "a quotation around a line, behind one of digits",
    ),
    (f'A 5" pipe "\n{RIGHT}\n"', "unparsed", "a quotation around a line, behind inches"),
    (f"A stray “ mark.\n\n{WRONG}", "wrong", "a quotation mark of another paragraph"),
    (f"{WRONG}\n```", "wrong", "a fence behind the verdict"),
    ("Correctness of the final " * 2000 + f"\n{WRONG}", "wrong", "beginnings of a label, many times"),
]


@pytest.mark.parametrize(("critique", "expected", "why"), VERDICTS, ids=[why for _, _, why in VERDICTS])
def test_parse_verdict(critique: str, expected: str, why: str) -> None:
    assert parse_verdict(critique) == Verdict(expected), why


@pytest.mark.parametrize(
    ("critique", "if_correct", "if_wrong", "why"),
    [
        (RIGHT, True, False, "one marker"),
        (WRONG, False, True, "one marker"),
        ("no verdict", False, False, "neither marker is a wrong judgment"),
        (f"{RIGHT}\n{WRONG}", True, True, "the hack: both markers are right whatever is true"),
        (f"> {RIGHT}\n{WRONG}", True, True, "a quotation counts there"),
        (f"{LABEL} **Wrong**", False, False, "substring, letter by letter"),
        (f"{LABEL} Correctly", True, False, "substring, no word boundary"),
    ],
)
def test_paper_compat_judgment(critique: str, if_correct: bool, if_wrong: bool, why: str) -> None:
    assert paper_compat_judgment_is_right(critique, response_correct=True) is if_correct, why
    assert paper_compat_judgment_is_right(critique, response_correct=False) is if_wrong, why


@pytest.mark.parametrize("prompts", PROMPT_SETS.values(), ids=lambda p: p.name)
def test_critique_prompt_never_holds_the_gold_answer(prompts: PromptSet) -> None:
    for problem in load_task("modular_chain", split="train", steps=1, size=50):
        # The digits of question and template are not the answer's: mark question and response, then look.
        question = problem.question.translate(str.maketrans("0123456789", "abcdefghij"))
        prompt = prompts.critique_prompt(question, "The answer is k")
        text = "".join(message["content"] for message in prompt)
        assert text.count(problem.answer) == prompts.critique.count(problem.answer)
        assert problem.solution not in text
        assert [message["role"] for message in prompt] == ["user"]
        assert question in text and "The answer is k" in text


@pytest.mark.parametrize("prefill", [PAPER.reasoning_prefill, PAPER.refinement_prefill])
def test_critique_prompt_drops_the_actors_prefill(prefill: str) -> None:
    content = PAPER.critique_prompt("1 + 1?", prefill + "It is 2.")[0]["content"]
    assert content.endswith("Solution:\nIt is 2.")
    assert "break it down" not in content
    later = PAPER.critique_prompt("1 + 1?", "It is 2. " + prefill)[0]["content"]
    assert prefill.strip() in later, "only a prefix is the prefill"


def test_reasoning_prompt_ends_in_its_prefill() -> None:
    user, assistant = PAPER.reasoning_prompt("1 + 1?")
    assert user["role"] == "user" and user["content"].startswith("1 + 1?\n")
    assert assistant == {"role": "assistant", "content": "Let's break it down step by step:\n\n"}
    assert COMPACT.reasoning_prompt("1 + 1?") == [{"role": "user", "content": "1 + 1?"}]


def test_refinement_prompt_holds_the_response_then_the_cut_critique() -> None:
    critique = f"Sure, I will judge.\n\nStep sentence: 1 + 1 = 3\nCorrectness of the step: Wrong\n{WRONG}"
    turns = PAPER.refinement_prompt("1 + 1?", "It is 3.", critique)
    assert [turn["role"] for turn in turns] == ["user", "assistant", "user", "assistant"]
    assert turns[0] == PAPER.reasoning_prompt("1 + 1?")[0]
    assert turns[1]["content"] == "It is 3."
    assert turns[2]["content"].endswith("\n\n" + critique[critique.index("Step sentence:") :])
    assert "Sure" not in turns[2]["content"]
    assert turns[3]["content"] == "Let's break it down step by step, strictly following the critique:\n\n"


@pytest.mark.parametrize(
    ("critique", "expected", "why"),
    [
        (
            "Hm. Step sentence: a\nStep sentence: b",
            "Step sentence: a\nStep sentence: b",
            "from the first step",
        ),
        ("Step sentence: a", "Step sentence: a", "nothing before it"),
        ("All is well.", "All is well.", "no step: whole"),
        ("", "", "empty"),
    ],
)
def test_cut_critique(critique: str, expected: str, why: str) -> None:
    assert cut_critique(critique) == expected, why


def test_no_template_field_is_left_open() -> None:
    for prompts in PROMPT_SETS.values():
        turns = prompts.refinement_prompt("Q", "R", "C") + prompts.critique_prompt("Q", "R")
        turns += prompts.pairwise_prompt("Q", "R", "S", ties=True)
        fields = re.compile(r"\{(question|response|critique|first|second)\}")
        assert not any(fields.search(turn["content"]) for turn in turns), prompts.name


def test_unknown_prompt_set_suggests_the_nearest() -> None:
    assert prompt_set("paper") is PAPER
    with pytest.raises(UserError, match=r"set 'papr'\. Did you mean 'paper'\? There are: paper, compact"):
        prompt_set("papr")
    with pytest.raises(UserError, match=r"no prompt set 'xyz'\. There are"):
        prompt_set("xyz")


# -- the score that a critique states -----------------------------------------------------------------------

RATING = "Quality score:"
SCORES = [
    # input, expected, why
    (f"{RATING} 7", 7.0, "the marker"),
    (f"Comments: fine\n{RATING} 7\nSuggestions: none", 7.0, "between the other fields"),
    (f"{RATING} 1", 1.0, "the lowest"),
    (f"{RATING} 10", 10.0, "the highest"),
    (f"{RATING} 7.5", 7.5, "a fraction"),
    (f"{RATING} 7.", 7.0, "a full stop"),
    (f"{RATING} 7 out of 10, for it is short", 7.0, "out of the highest, with a reason"),
    (f"**{RATING}** **7**/10", 7.0, "bold"),
    (f"- {RATING} [7]", 7.0, "a list item, brackets kept"),
    (f"{RATING} 7 - it omits 2 dates", 7.0, "a dash and a reason"),
    (f"{RATING} 7\r\nSuggestions: 9", 7.0, "a line may end in CR LF"),
    (f"{RATING} 7\n{RATING} 7", 7.0, "the same score twice"),
    ("", None, "empty"),
    ("7", None, "no label"),
    (f"{RATING}", None, "a label without value, cut at the token limit"),
    (f"{RATING}\n7", None, "a value of the next line belongs to that line"),
    (f"{RATING} seven", None, "no number"),
    (f"{RATING.lower()} 7", None, "the label is matched letter by letter"),
    (f"I would say {RATING} 7", None, "within a line only"),
    (f"{RATING} 0", None, "below the scale"),
    (f"{RATING} 11", None, "above the scale"),
    (f"{RATING} 70", None, "above the scale, and no 7"),
    (f"{RATING} -7", None, "below the scale, and no 7"),
    (f"{RATING} .7", None, "below the scale, and no 7"),
    (f"{RATING} 7%", None, "another scale"),
    (f"{RATING} 7/100", None, "another scale"),
    (f"{RATING} 4 out of 5", None, "another scale"),
    (f"{RATING} 7e1", None, "no plain number"),
    (f"{RATING} 7,5", None, "a decimal comma, or two scores"),
    (f"{RATING} 7.5.1", None, "no number"),
    (f"{RATING} 7-8", None, "a range"),
    (f"{RATING} 7 to 8", None, "a range"),
    (f"{RATING} 7 or 8", None, "two scores"),
    (f"{RATING} [1-10]", None, "the format echoed"),
    (f"{RATING} 7\n{RATING} 8", None, "two scores"),
    (f"{RATING} 7\nAs said, {RATING} 8.", None, "two scores, one of them within a line"),
    (f"{RATING} 7\n{RATING} 11", None, "two scores, one of them off the scale"),
    (f"{RATING} 7\n{RATING} 3-4", None, "a score and a range"),
    (f"{RATING} 7\nAs said, {RATING} 3-4.", None, "a score, and a range within a line"),
    (f"> {RATING} 7", None, "a block quote"),
    (f"> {RATING} 7\n\n{RATING} 3", 3.0, "a block quote does not contradict"),
    (f"{FENCE}\n{RATING} 7\n{FENCE}\n{RATING} 3", 3.0, "a code fence does not contradict"),
    (f"`{RATING} 7`", None, "back-ticks"),
    (f'The summary says "{RATING} 10".\n\n{RATING} 3', 3.0, "a quotation does not contradict"),
    (f"“\n{RATING} 10”", None, "typographic quotation marks"),
]


@pytest.mark.parametrize(("critique", "expected", "why"), SCORES, ids=[why for _, _, why in SCORES])
def test_parse_rating(critique: str, expected: float | None, why: str) -> None:
    assert parse_rating(critique) == expected, why


def test_prompts_of_the_task_do_not_state_a_score() -> None:
    problem = replace(load_task("made_up_facts", split="train", size=10)[0], answer="not to be seen")
    prompt = SUMMARY.critique_prompt(problem.question, "Ana has 3 red cups.")
    assert problem.question in prompt[0]["content"]
    assert "Ana has 3 red cups." in prompt[0]["content"]
    assert problem.answer not in prompt[0]["content"]
    assert RATING in prompt[0]["content"]
    # A critic that begins by repeating its instructions has not said two things.
    assert parse_rating(f"{prompt[0]['content']}\n\n{RATING} 4") == 4.0
