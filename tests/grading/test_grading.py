from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from helpers import environment

from critique_rl.grading import explain, extract_answer, grade, grade_batch, paper_compat
from critique_rl.grading.prepare import prepare
from critique_rl.grading.workers import HEADER, SHARED, Pool

# kind, gold, reply, expected, why
NUMBERS = [
    ("18", "The answer is: 18", True, "trigger with colon"),
    ("18", "It is 12 first. The answer is 18.", True, "full stop is not a decimal point"),
    ("18", "the answer is $18$", True, "formula"),
    ("18", r"So $x = \boxed{18}$.", True, "box"),
    ("18", "9 * 2 = 18\n#### 18", True, "GSM8K"),
    ("18", "**Answer:** 18", True, "bold trigger"),
    ("18", "### Final Answer\n18 apples", True, "nothing after the heading but a number"),
    ("18", "The answer is:\n\\[\n\\boxed{18}\n\\]", True, "display formula"),
    ("18", "She makes 9 * 2 = 18 dollars a day", True, "no trigger: the last number"),
    ("18", "The answer is: 18 dollars!", True, "unit and exclamation mark"),
    ("7", "The answer is 7!", True, "the exclamation mark of a sentence"),
    ("7", "**The answer is $7$!**", True, "the exclamation mark of a sentence"),
    ("7", "The answer is $7!$.", False, "a factorial"),
    ("5040", "The answer is $7!$", True, "a factorial, needs a worker"),
    ("5040", r"**The answer is \(7!\).**", True, "a factorial, needs a worker"),
    ("18", "The answer is x = 18.", True, "variable"),
    ("18", "The answer is 20 apples - 2 apples = 18 apples.", True, "the end of a chain"),
    ("18", "The answer is 18 (since 20-2=18)", True, "an aside"),
    ("18", "The answer is 18, which is 2 less than 20", True, "an aside with other numbers"),
    ("18", "The answer is 2 * 9", True, "needs a worker"),
    ("18", r"The answer is $\sqrt{324}$", True, "needs a worker"),
    ("8", "The answer is 2**3", True, "needs a worker; not bold"),
    ("18", "The answer is 18. I checked that the answer is correct.", True, "a remark is no answer"),
    ("18", "The answer is: 18\nThe answer is", True, "an empty statement is no answer"),
    ("18", "\\boxed{18}, we may check our answer: 18 = 17 + 1.", True, "checking is no answer"),
    ("18", "The answer is: 19. Hence \\boxed{18}.", True, "the last statement, a box"),
    ("18", "\\boxed{18} so the answer is: 19", False, "the last statement, a trigger"),
    ("18", "The answer is 18. Wait. The answer is 19.", False, "the last statement"),
    ("18", "The answer is 18 or 3", False, "two answers"),
    ("18", "The answer is either 3 or 18.", False, "two answers"),
    ("18", "The answer is $18 or $3.", False, "two amounts, not a formula `18 or`"),
    ("18", "The answer is x = 3 or x = 18", False, "two answers, not a chain"),
    ("18", "The answer is 17, 18, 19", False, "a list"),
    ("18", "The answer is 17 18 19", False, "a list"),
    ("18", "The answer is between 17 and 18", False, "a range"),
    ("18", "The answer is 10-18", False, "a range"),
    ("18", r"The answer is \boxed{18}, \boxed{19}", False, "two boxes"),
    ("18", r"The answer is \boxed{18} or 19", False, "a box and more"),
    ("18", r"It is either 19 or \boxed{18}", False, "a box and more"),
    ("18", "The answer is not 18", False, "negated"),
    ("18", "16 - 3 = 18. The answer is unknown.", False, "a statement without a number"),
    ("18", "The answer is 11:18", False, "a time"),
    ("5", "The answer is 5x", False, "a variable is no unit"),
    ("5", "The answer is 5m", True, "a unit"),
    ("15", "The answer is $15/hour.", True, "a unit with a stroke"),
    ("15", "The answer is 15 / hr", True, "a unit with a stroke"),
    ("18", "The answer is 18 – the total number of apples.", True, "an aside after a dash"),
    ("10", "The answer is 10/x", False, "a stroke before a variable"),
    ("18", "The answer is 18 - x", False, "a dash before a variable"),
    ("2", "The answer is 2 - sqrt(2)", False, "a dash before a number"),
    ("2", "The answer is 2 - three", False, "a dash before a number"),
    ("2", "The answer is 2/sqrt3", False, "a stroke before a number"),
    ("1", "The answer is 1/two", False, "a stroke before a number"),
    ("1", "The answer is 1 - cos(1)", False, "a dash before a function"),
    ("12", "The answer is 12 / persons", True, "a unit with a stroke"),
    ("5", "The answer is -5", False, "sign"),
    ("-5", "The answer is −5", True, "typographic minus"),
    ("1234.5", "The answer is: $1,234.50", True, "money"),
    ("70000", r"The answer is $70{,}000$", True, "LaTeX digit groups"),
    ("70,000", r"The answer is 7 \times 10^4", True, "power of ten"),
    ("109200000", "The answer is 109200001", False, "integers are compared exactly"),
    ("0.3333333333", "1/3", True, "relative tolerance 1e-6"),
    ("0.33333", "1/3", False, "relative tolerance 1e-6"),
    ("0.75", "The answer is 3/4", True, "fraction"),
    ("1.5", "The answer is 1 1/2 cups", True, "mixed fraction"),
    ("1.5", r"The answer is $1\frac{1}{2}$", True, "mixed fraction"),
    ("50", "The answer is 50%", True, "per cent, both readings"),
    ("0.5", r"The answer is 50\%", True, "per cent, both readings"),
    ("50%", "The answer is 0.5%", False, "per cent on both sides is not read twice"),
    ("30", r"The answer is 30^\circ", True, "degrees"),
    ("2 + 2 = 4\n#### 4", "The answer is 4", True, "gold as a solution"),
    ("", "The answer is 4", None, "no gold"),
    ("unknown", "The answer is 4", None, "gold is no number"),
    ("4", "", False, "empty reply"),
    ("4", "I do not know.", False, "no answer"),
    ("18", "The answer is nearly 18.", True, "a word before the number"),
    ("18", "He pays a sum of 18", True, "a short reply"),
    ("18", "答案是18个", True, "no spaces around the number"),
    ("-18", "答案是-18", True, "a sign behind a letter that is none of a formula"),
    ("7", "<think>The answer is 5.</think> So 7 are left.", True, "behind the thought"),
    ("7", "So 5? </think> The answer is 7.", True, "a thought that the template opened"),
    ("5", "<think>The answer is 5. But", False, "a thought that never ends"),
    ("18", "#### 18\n\nQ: What is 2 + 1?\nA: 3\n#### 3", True, "a run-on ends the reply"),
    ("3", "Question: what is 1 + 2?\nAnswer: 3", True, "a repeated question before the answer is no run-on"),
    ("18", "9*2 = <<9*2=18>>18 apples", True, "GSM8K's calculations"),
    ("322", "46 * 7kg = 322kg", True, "a unit that begins with a variable's letter"),
    ("27", "The answer is a 27-liter mixture", True, "a unit with a hyphen"),
    ("7000", "The answer is 7 thousand.", True, "a scale word"),
    ("7", "The answer is 7 dozen.", None, "gold may count in dozens"),
    ("8", "The answer is 7 dozen.", False, "neither reading"),
    ("7.5", "The answer is 7 and a half.", True, "a part in words"),
    ("-7", "The answer is negative 7.", True, "a sign in words"),
    ("7", "The answer is 7 (since 5 is wrong)", True, "another number is wrong"),
    ("nan", "The answer is nan", None, "a missing value is no gold"),
]
SIGNS = [
    *("7²", "7⁰", "2⁷", "7½", "7⅐", "7⁄2", "7∕2", "7÷2", "7⋅2", "7×2", "7∗2", "7√2", "√7", "∛7"),
    *("‒7", "−7", "－7", "⁻7", "﹣7", "—7", "7—9", "±7", "7±2", "x<7", "x > 7", "≠ 7", r"\neq 7", r"\pm 7"),
    *(
        "7\u200b0",
        "1\u20607",
        "7\u00ad2",
        "\u202e7 1",
        "7\u0336",
        "7 7",
        "7...9",
        "7∶2",
        "7:2",
        "7π",
        "7e",
        "7万",
    ),
    *(
        "7 minus 2",
        "7 plus 2",
        "7 times 3",
        "7 divided by 2",
        "7 squared",
        "7 million",
        "7k",
        "7% of 50",
        "x-7",
    ),
    *("minus 7", "half of 7", "7 more than 2", "less than 7", "(7)^2", "(7)(2)", "{7}^2", r"\boxed{7}^2"),
    *(
        "7? No, 9",
        "7 (wrong)",
        "7 is wrong",
        "7, which is incorrect",
        "7 isn't right",
        "7, no, 9",
        "7, wait, 9",
    ),
]
"""None of these says 7."""
SAYS_SEVEN = [
    *(
        "７",
        "٧",
        "7️⃣",
        "→ 7",
        "~7",
        "≈7",
        "**7**",
        "<b>7</b>",
        "+7",
        "7€",
        "$7",
        "7 m²",
        "7 °C",
        "7 (as 9-2=7)",
    ),
    *("roughly 7", "a total of 7", "exactly 7 more", "7 years old", "7 times", "7, which is right", "7 km/h"),
]
CHOICES = [
    ("B", "The answer is B", True, "trigger"),
    ("B", "b", True, "the reply alone"),
    ("B", "(b)", True, "lower case, marked"),
    ("B", "B) 5 km", True, "option with its text"),
    ("B", r"\boxed{\text{(B)}}", True, "box"),
    ("B", "Thus the correct option is **(B) 5 km**.", True, "other trigger, bold"),
    ("C", "The answer is 5 km, which is option C.", True, "option named late"),
    ("A", "The answer is A because it works.", True, "no article before because"),
    ("B", "The correct answer is B, not C.", True, "the other one is excluded"),
    ("B", "A) 1\nB) 2\n\nThe answer is: B", True, "list, then the answer"),
    ("B", "The answer is (B) or (C)", False, "two answers"),
    ("A", "The answer is A, B, C", False, "all options"),
    ("E", "A) 1\nB) 2\nC) 3\nD) 4\nE) 5", False, "the list of options is no answer"),
    ("C", "The answer is not C", False, "negated"),
    ("A", "The answer is a prime number", False, "article"),
    ("A", "The answer is A prime number", False, "article, upper case"),
    ("A", "This is a reply with a number.", False, "article, no trigger"),
    ("I", "The answer is: I think it is open.", False, "pronoun"),
    ("5", "The answer is A", None, "gold is no letter"),
]
YES_NO = [
    ("True", "The answer is yes.", True, "yes is true"),
    ("no", "The answer is: False", True, "false is no"),
    ("True", "Yes", True, "the reply alone"),
    ("no", "The answer is not known", False, "not is not no"),
    ("no", "The answer is yes or no", False, "two answers"),
    ("True", "The answer is not true", False, "negated"),
    ("maybe", "yes", None, "gold is neither"),
]
MIXED = [
    ("True", "The answer is: Yes", True, "bool"),
    ("False", "Now we do not know.", False, "bool, prose"),
    ("(b)", "The answer is b.", True, "option"),
    ("(b)", "The answer is (c)", False, "option"),
    ("11760", "The answer is 11,760", True, "integer"),
    ("11760", "The answer is 11760.4", False, "integers are exact"),
    ("1.0", "The answer is 1", True, "float"),
    ("0.5", "The answer is 50%", True, "per cent, both readings"),
    ("0.33", "The answer is 1/3", True, "rounds to gold"),
    ("4e-05", r"The answer is $3.6 \times 10^{-5}$", False, "rounds to gold, but 10 % off"),
    ("1.5", "The answer is 1.6", False, "float"),
    ("0.0", "The answer is 0.04", False, "no relative tolerance at 0"),
    ("1.414", r"The answer is $\sqrt{2}$", True, "needs a worker"),
    ("0.4597", "The answer is 1 - cos(1)", True, "needs a worker"),
    ("2.7182818", "The answer is e", True, "needs a worker"),
    ("[1, 2, 3]", "The answer is (1,2,3)", True, "list"),
    ("[1, 2, 3]", r"The answer is $\begin{pmatrix}1\\2\\3\end{pmatrix}$", True, "list as a vector"),
    ("[1, 2, 3]", "The answer is x=1, y=2, z=3", True, "list as equations"),
    ("[1, 2, 3]", "The answer is [3,2,1]", False, "order"),
    ("[1, 2, 3]", "The answer is [1,2]", False, "length"),
    ("[0.333, 0.25]", r"The answer is $(\frac{1}{3}, \frac{\sqrt{4}}{8})$", True, "list, needs a worker"),
]
MATHS = [
    (r"\frac{14}{3}", "The answer is 14/3", True, "fraction"),
    (r"\frac{1}{2}", "The answer is 0.5", True, "decimal"),
    (r"\frac{1}{3}", "The answer is 0.33", False, "rounded"),
    (r"50\%", "The answer is 0.5", True, "per cent, both readings"),
    (r"\text{Evelyn}", "The answer is Evelyn.", True, "name"),
    (r"\text{even}", r"It is $\boxed{\text{Even}}$", True, "case of a word"),
    (r"\text{ellipse}", "The answer is an ellipse.", True, "article"),
    (r"\text{(C)}", r"\boxed{\textbf{(C)}}", True, "letter"),
    (r"\text{(C)}", "The answer is D", False, "letter"),
    (r"\left( 3, \frac{\pi}{2} \right)", r"The answer is $(3, \pi/2)$", True, "tuple"),
    (r"\left( 3, \frac{\pi}{2} \right)", r"The answer is $(\pi/2, 3)$", False, "tuples have an order"),
    ("x=5", "The answer is 5", True, "gold names the variable"),
    ("5", "The answer is $x = 5$ meters.", True, "reply names the variable"),
    (r"x \in [-2,7]", r"The answer is $-2 \le x \le 7$", True, "interval as inequality"),
    ("(3,4]", "The answer is $(3,4)$", False, "open end"),
    ("1,-2", "The answer is $x = 1$ or $x = -2$", True, "set"),
    ("1,-2", r"The answer is $\boxed{1}$ and $\boxed{-2}$", True, "set in two boxes"),
    ("1", "The answer is $1$ or $-2$", False, "two answers to a question with one"),
    ("2", "The answer is 1 or 2", False, "two answers, no formulas"),
    ("42", "The options are 41, 42, 43.", False, "containment"),
    ("2516_8", "The answer is $2516_{8}$", True, "base"),
    ("2516_8", "The answer is 2516_7", False, "another base"),
    (r"90^\circ", "The answer is 90 degrees", True, "degrees"),
    (r"\$18.90", "The answer is $18.90", True, "money"),
    (r"11,\! 111,\! 111,\! 100", "The answer is 11111111100", True, "digit groups"),
    (r"15\mbox{ cm}^2", "The answer is 15", True, "unit"),
    (r"1 \pm \sqrt{19}", r"The answer is $1+\sqrt{19}$ and $1-\sqrt{19}$", True, "plus and minus"),
    (
        r"\begin{pmatrix} 1/5 \\ 2 \end{pmatrix}",
        r"$\boxed{\begin{bmatrix} \frac15 \\ 2\end{bmatrix}}$",
        True,
        "matrix",
    ),
    ("y = 2x + 3", "The answer is $y=3+2x$", True, "equation"),
    ("(a+5)(b+2)", "The answer is $ab+2a+5b+10$", True, "algebra"),
    (r"2\sqrt{113}", "The answer is sqrt(452)", True, "plain spelling"),
    (r"8 \pi", "The answer is 8 pi", True, "plain spelling"),
    ("p - q", "The answer is $q-p$", False, "sign"),
    (r"137 \frac{1}{2}", "The answer is 137.5", True, "mixed fraction"),
    ("11:30", "The answer is 11:31", False, "time"),
    (".0000672", "The answer is 0.000067", False, "Math-Verify alone rounds at 1e-6"),
    (r"\frac{1}{2^{99}}", r"The answer is $\frac{1}{2^{98}}$", False, "Math-Verify alone says True"),
    ("1/2004!", "The answer is $1/2006!$", False, "Math-Verify alone says True"),
    ("5040", "The answer is $7!$", True, "a factorial"),
    ("7", "The answer is $7!$", False, "a factorial"),
    ("7", "The answer is $5=7$", False, "Math-Verify alone says True"),
    ("{", r"\boxed{ \{ }", False, "gold is no formula: compared as a string"),
    ("{", "{", True, "gold is no formula: compared as a string"),
    ("", "4", None, "no gold"),
    ("1.75", "The answer is 1 3/4", True, "mixed number"),
    (r"\frac{13}{4}", "The answer is 1 3/4", False, "the parts of a mixed number are not glued"),
    ("34", "The answer is $3 4$", False, "two numbers side by side"),
    ("12000", "The answer is 12 000", True, "digit groups with spaces"),
    ("x=3 or x=-4", "The answer is $x=-4$ or $x=3$", True, "solutions have no order"),
    ("a=1, b=2", "The answer is $b=2, a=1$", True, "named values have no order"),
    ("a=1, b=2", "The answer is $b=1, a=2$", False, "named values belong to their names"),
    ("2", "The answer is $a=1, b=2$", False, "two named values are not the last of them"),
    (r"2-5\mathrm{i}", "The answer is $2-5i$", True, "upright i"),
    ("e^{3}", r"The answer is $\mathrm{e}^3$", True, "upright e"),
    ("2x-y=3", "The answer is $4x-2y=6$", True, "an equation times 2"),
    ("2x-y=3", "The answer is $4x-2y=5$", False, "another line"),
    ("x=5", "The answer is $3x=15$", False, "not solved for the unknown"),
    ("12, 9", "The answer is 12 cats and 9 dogs.", True, "nouns behind values"),
    ("40", "Sum: 40", True, "a label before the number"),
    (r"\text{Evelyn}", "<think>Tom?</think>Evelyn", True, "behind the thought"),
]
TABLE = [
    pytest.param(kind, *row, id=f"{kind}-{i}-{row[3]}")
    for kind, rows in {
        "number": NUMBERS, "choice": CHOICES, "yes_no": YES_NO, "mixed": MIXED, "math": MATHS
    }.items()
    for i, row in enumerate(rows)
]  # fmt: skip


@pytest.mark.parametrize(("kind", "gold", "reply", "expected", "why"), TABLE)
def test_grade(kind: str, gold: str, reply: str, expected: bool | None, why: str) -> None:
    assert grade(gold=gold, reply=reply, kind=kind) is expected, explain(gold=gold, reply=reply, kind=kind)


@pytest.mark.parametrize("kind", ["number", "mixed", "math"])
def test_signs_that_change_a_number_are_seen(kind: str) -> None:
    styles = ("The answer is {}.", "#### {}", "\\boxed{{{}}}", "{}")
    items = [
        {"gold": "7", "reply": style.format(text), "kind": kind}
        for text in SIGNS + SAYS_SEVEN
        for style in styles
    ]
    grades = grade_batch(items)
    said = len(styles) * len(SIGNS)
    assert [i["reply"] for i, is_right in zip(items[:said], grades[:said], strict=True) if is_right] == []
    missed = [i["reply"] for i, is_right in zip(items[said:], grades[said:], strict=True) if not is_right]
    assert [reply for reply in missed if not reply.startswith("\\boxed")] == []


def test_gold_as_reply_is_right_in_every_style() -> None:
    golds = [(row.values[0], row.values[1]) for row in TABLE if row.values[3] is not None]
    golds = [(kind, gold) for kind, gold in dict.fromkeys(golds) if gold != "{" and "####" not in gold]
    styles: list[Callable[[str], str]] = [
        lambda g: g,
        lambda g: f"We have 7 of 12.\n\nThe answer is: {g}",
        lambda g: f"So A + b = 7. The answer is ${g}$.",
        lambda g: f"Therefore $\\boxed{{{g}}}$ is right.",
        lambda g: f"**Final Answer:** {g}\nI hope this helps.",
    ]
    items = [{"gold": g, "reply": style(g), "kind": kind} for kind, g in golds for style in styles]
    wrong = [item for item, result in zip(items, grade_batch(items), strict=True) if result is not True]
    assert len(items) > 300
    assert wrong == []


def test_arguments_are_checked() -> None:
    with pytest.raises(ValueError, match="kind must be one of math, number"):
        grade(gold="1", reply="1", kind="maths")
    with pytest.raises(TypeError, match="reply must be a str, not NoneType"):
        grade(gold="1", reply=None, kind="number")  # type: ignore[arg-type]


def test_explain_gives_the_reason() -> None:
    assert explain(gold="18", reply="The answer is: $18.0", kind="number").reason == "equal"
    result = explain(gold="18", reply="I do not know", kind="number")
    assert (result.grade, result.answer, result.gold, result.reason) == (
        False,
        None,
        "18",
        "no answer in the reply",
    )
    assert explain(gold="?", reply="1", kind="number").reason == "gold does not parse"
    assert explain(gold="x", reply="The answer is: " + "(" * 10_000, kind="math").reason.startswith(
        "answer longer"
    )


@pytest.mark.parametrize(
    ("kind", "reply", "vote"),
    [
        ("number", "The answer is: $1,234.50", "1234.5"),
        ("number", "So it is 3/4", "0.75"),
        ("number", "The answer is 3 or 4", None),
        ("choice", "I choose (b).", "B"),
        ("choice", "a car", None),
        ("yes_no", "The answer is True.", "yes"),
        ("math", r"The answer is $\dfrac{1}{2}$", "0.5"),
        ("math", r"\boxed{2x  + 1}", "2x + 1"),
        ("math", r"\boxed{52_8}", "52_8"),
        ("mixed", "The answer is (b)", "B"),
        ("mixed", "The answer is [1, 2]", "[1, 2]"),
    ],
)
def test_extract_answer_gives_one_spelling(kind: str, reply: str, vote: str | None) -> None:
    assert extract_answer(reply, kind) == vote
    assert vote is None or grade(gold=vote, reply=reply, kind=kind) is True


def test_any_text_of_any_length_takes_milliseconds_without_a_worker() -> None:
    pieces = [
        "a",
        "1",
        " ",
        "1,",
        "(",
        "\\boxed{",
        "{",
        "$",
        "**",
        "\x00",
        "answer of ",
        "#### ",
        "\\frac{1",
        "= 1 or ",
    ]
    for piece in pieces:
        text = "The answer is: " + piece * (1_000_000 // len(piece))
        for kind in ("math", "number", "choice", "yes_no", "mixed"):
            start = time.process_time()
            prepare("18", text, kind)
            paper_compat.grade(gold="18", reply=text[-20_000:], kind=kind)
            assert time.process_time() - start < 1, (piece, kind)


@pytest.fixture
def pool() -> Iterator[Pool]:
    pool = Pool(size=1, limit_s=0.6)
    yield pool
    pool.close()


POISON = [
    r"9^{9^{9^{9}}}",
    r"\frac{1}{10^{-10^{10}}}",
    r"((((9!)!)!)!)!",
    "(" * 900,
]


@pytest.mark.processes
def test_poison_ends_at_the_limit_and_the_next_item_is_graded(pool: Pool) -> None:
    assert pool.ask("math", "1/2", "0.5") == (True, "equal")
    for poison in POISON:
        start = time.monotonic()
        equal, reason = pool.ask("math", "x+1", poison)
        assert time.monotonic() - start < 1.6, poison
        assert (equal, reason) == (None, "time limit 0.6 s"), poison
        assert pool.ask("math", "1/2", "0.5") == (True, "equal"), poison


@pytest.mark.processes
def test_memory_is_limited() -> None:
    pool = Pool(size=1, limit_s=30, memory_bytes=2**25)
    assert pool.ask("math", "x+1", "(a+b+c+d+e+f+g+h)^{40}") == (None, "memory limit")
    pool.close()


@pytest.mark.processes
def test_threads_share_the_workers_and_poison_stays_alone() -> None:
    pool = Pool(size=2, limit_s=1)
    jobs = [(f"x+{i}", f"{i}+x") for i in range(40)]
    jobs[7] = jobs[23] = ("x+1", POISON[0])
    jobs[11] = ("x+1", "x+2")
    with ThreadPoolExecutor(8) as threads:
        results = list(threads.map(lambda job: pool.ask("math", *job), jobs))
    pool.close()
    expected: list[tuple[bool | None, str]] = [(True, "equal")] * 40
    expected[7] = expected[23] = (None, "time limit 1 s")
    expected[11] = (False, "different")
    assert results == expected


@pytest.mark.processes
def test_a_worker_killed_while_idle_is_replaced(pool: Pool) -> None:
    assert pool.ask("math", "1/2", "0.5")[0] is True
    os.kill(pool._idle[0]._process.pid, signal.SIGKILL)
    assert pool.ask("math", "x+x", "2x") == (True, "equal")


def test_grade_batch_keeps_order_and_takes_duplicates_once() -> None:
    item = {"gold": "(y+1)^2", "reply": "The answer is $y^2+2y+1$", "kind": "math"}
    other = {"gold": "7", "reply": "The answer is 8", "kind": "number"}
    assert grade_batch([item, other, item, {**other, "gold": "?"}, item]) == [True, False, True, None, True]
    assert grade_batch([]) == []


def test_answers_of_workers_are_cached_across_replies() -> None:
    assert grade(gold="(z+1)^3", reply="The answer is $z^3+3z^2+3z+1$", kind="math") is True
    SHARED.pool.close()
    assert grade(gold="(z+1)^3", reply=r"In short: \boxed{z^3+3z^2+3z+1}", kind="math") is True
    assert SHARED.pool._idle == []  # no worker was needed


@pytest.mark.processes
def test_grade_works_in_threads_and_in_forked_children() -> None:
    assert grade(gold="(w+1)^2", reply="The answer is $w^2+2w+1$", kind="math") is True
    parents = {w._process.pid for w in SHARED.pool._idle}
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        signal.alarm(60)
        result = grade(gold="(v+1)^2", reply="The answer is $v^2+2v+1$", kind="math")
        workers = {w._process.pid for w in SHARED.pool._idle}
        os.write(write, json.dumps([result, not workers & parents, len(workers)]).encode())
        SHARED.pool.close()
        os._exit(0)
    os.close(write)
    with os.fdopen(read) as pipe:
        assert json.load(pipe) == [True, True, 1]
    os.waitpid(child, 0)
    results: list[bool | None] = []
    thread = threading.Thread(
        target=lambda: results.append(grade(gold="u+u", reply="The answer is $2u$", kind="math"))
    )
    thread.start()
    thread.join()
    assert results == [True]
    assert {w._process.pid for w in SHARED.pool._idle} == parents  # none was lost to the child


@pytest.mark.processes
def test_import_is_light_and_workers_end_with_a_killed_parent() -> None:
    code = (
        "import sys, os, signal, critique_rl.grading as g\n"
        "assert not {'sympy', 'math_verify', 'torch'} & set(sys.modules)\n"
        "assert g.grade(gold='2x', reply='The answer is $x+x$', kind='math')\n"
        "print(g.SHARED.pool._idle[0]._process.pid, flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    out = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd="/", env=environment()
    )
    worker = int(out.stdout)
    for _ in range(50):
        try:
            os.kill(worker, 0)
        except ProcessLookupError:
            return
        with open(f"/proc/{worker}/stat") as stat:
            if stat.read().rsplit(")", 1)[1].split()[0] == "Z":
                return  # dead; nobody in this container reaps orphans
        time.sleep(0.1)
    pytest.fail("the worker outlived its parent")


@pytest.mark.processes
def test_a_worker_stops_by_itself_if_nobody_does() -> None:
    command = [sys.executable, "-m", "critique_rl.grading.worker", "1", str(2**31)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert b"ready" in process.stdout.read(HEADER.unpack(process.stdout.read(HEADER.size))[0])
        body = json.dumps({"task": "math", "gold": "x+1", "answer": POISON[0]}).encode()
        process.stdin.write(HEADER.pack(len(body)) + body)
        process.stdin.flush()
        try:
            assert process.wait(timeout=10) == -signal.SIGALRM
        finally:
            process.kill()


@pytest.mark.parametrize(
    ("kind", "gold", "reply", "expected", "why"),
    [
        ("number", "#### 18", "The answer is: 18.0", True, "5.0 is written 5"),
        ("number", "1,000", "It is 7 + 3 and 1000", True, "commas dropped, last number without trigger"),
        ("number", "18", "The answer is 18 or 3", True, "first number after the trigger"),
        ("number", "0.75", "The answer is 3/4", False, "strings"),
        ("math", r"\frac{1}{2}", "The answer is 0.5", False, "strings"),
        ("math", r"\frac{1}{2}", r"\boxed{\dfrac12}", True, "spelling"),
        ("math", "1,2", r"\boxed{2,1}", False, "strings"),
        ("math", "4", "The answer is $x = 4$", True, "after the last ="),
        ("math", r"\text{Even}", r"\boxed{even}", True, "text and case dropped"),
        ("choice", "A", "This is a guess", True, "the article is option A without trigger"),
        ("choice", "B", "a or B", True, "the last letter without trigger"),
        ("choice", "A", "The answer is a number, (C)", True, "the first letter after the trigger"),
        ("mixed", "False", "We now have 5", True, "now contains no"),
        ("mixed", "True", "The answer is True", True, "bool"),
        ("mixed", "5", "The answer is 5, not 6", False, "not contains no"),
        ("mixed", "(b)", "The answer is (b) as shown", True, "option"),
        ("mixed", "1.0", "The answer is 1", False, "strings"),
        ("yes_no", "yes", "The answer is yes", True, "as for TheoremQA"),
    ],
)
def test_paper_compat_keeps_the_faults(kind: str, gold: str, reply: str, expected: bool, why: str) -> None:
    assert paper_compat.grade(gold=gold, reply=reply, kind=kind) is expected
