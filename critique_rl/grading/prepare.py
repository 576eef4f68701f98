"""Grade without algebra where that is certain, within a millisecond, and say what is left to decide."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from critique_rl.grading.extract import (
    LONGEST_ANSWER,
    clip,
    find_choice,
    find_math,
    find_number,
    find_yes_no,
    statements,
    tidy,
)
from critique_rl.grading.read import (
    Number,
    Unreadable,
    plain_number,
    read_choice,
    read_number,
    read_yes_no,
    same_float,
    same_number,
    split_list,
)
from critique_rl.grading.text import is_words, normalise

NO_ANSWER = "no answer in the reply"
BAD_GOLD = "gold does not parse"


@dataclass(frozen=True)
class GradeResult:
    """A grade and how it came about.

    Attributes:
        grade: True or False, `None` if it could not be decided.
        answer: The answer found in the reply, `None` if there is none.
        gold: Gold as it was compared, `None` if it does not parse.
        reason: Why, for instance `equal`, `no answer in the reply`, `gold does not parse`, `time limit 5 s`.
    """

    grade: bool | None
    answer: str | None
    gold: str | None
    reason: str


@dataclass(frozen=True)
class Question:
    """A comparison that needs sympy, for a worker.

    Attributes:
        task: `math` compares expressions; `number` and `floats` work out the reply and compare its value with
            plain numbers, up to `NUMBER_TOLERANCE` or as in `same_float`.
        gold: Gold, for `floats` a comma-separated list of one or more plain numbers.
        answer: The stated answer.
    """

    task: Literal["math", "number", "floats"]
    gold: str
    answer: str


def _verdict(equal: bool, answer: str, gold: str) -> GradeResult:
    return GradeResult(equal, answer, gold, "equal" if equal else "different")


def _missing(answer: Unreadable, gold: str) -> GradeResult:
    return GradeResult(False, None, gold, NO_ANSWER if answer is Unreadable.NOTHING else answer.value)


def _gold_text(gold: str) -> str:
    """Return the answer of `gold`, which may be a whole solution that ends in `#### 18` or a box."""
    text = clip(gold).strip()
    if (
        "####" in text
        or "boxed" in text
        or "\n" in text
        or re.search(r"answer\s*(?:is|:)", text, re.IGNORECASE)
    ):
        return next(map(tidy, statements(text)), tidy(text))
    return tidy(text)


def prepare(gold: str, reply: str, kind: str) -> GradeResult | Question:
    """Grade `reply`, or return the question that only algebra can answer."""
    gold, reply = _gold_text(gold), clip(reply)
    if not gold:
        return GradeResult(None, None, None, BAD_GOLD)
    return {"math": _math, "number": _number, "choice": _choice, "yes_no": _yes_no, "mixed": _mixed}[kind](
        gold, reply
    )


def _choice(gold: str, reply: str) -> GradeResult:
    letter, answer = read_choice(gold), find_choice(reply)
    if isinstance(letter, Unreadable):
        return GradeResult(None, None, None, BAD_GOLD)
    return (
        _missing(answer, letter)
        if isinstance(answer, Unreadable)
        else _verdict(letter == answer, answer, letter)
    )


def _yes_no(gold: str, reply: str) -> GradeResult:
    word, answer = read_yes_no(gold), find_yes_no(reply)
    if isinstance(word, Unreadable):
        return GradeResult(None, None, None, BAD_GOLD)
    return (
        _missing(answer, word) if isinstance(answer, Unreadable) else _verdict(word == answer, answer, word)
    )


def _number(gold: str, reply: str) -> GradeResult | Question:
    target, answer = read_number(gold), find_number(reply)
    if target is Unreadable.EXPRESSION:
        return _math(gold, reply)
    if isinstance(target, Unreadable):
        return GradeResult(None, None, None, BAD_GOLD)
    if isinstance(answer, Unreadable):
        return _missing(answer, str(target))
    if isinstance(answer, Number):
        return _verdict(same_number(target, answer), str(answer), str(target))
    return _ask(Question("number", str(target), answer))


def _ask(question: Question) -> GradeResult | Question:
    """Return the question unless its answer is too long to be one."""
    if len(question.answer) > LONGEST_ANSWER:
        reason = f"answer longer than {LONGEST_ANSWER} characters"
        return GradeResult(False, question.answer[:LONGEST_ANSWER], question.gold, reason)
    return question


_BASE = re.compile(r"([0-9A-Z]+)_\{?(\d+)\}?")
_ARTICLE = re.compile(r"^(?:an?|the)\s+", re.IGNORECASE)


def _math(gold: str, reply: str) -> GradeResult | Question:
    answer = find_math(reply)
    if answer is None:
        return GradeResult(False, None, gold, NO_ANSWER)
    wanted, given = normalise(gold), normalise(answer)
    if wanted and wanted == given:
        return _verdict(True, answer, gold)
    if is_words(wanted):  # `(C)` is `C`, `an ellipse` is `ellipse`; no algebra
        given = normalise(_ARTICLE.sub("", answer))
        return _verdict(wanted.strip("()") == given.casefold().strip("()"), answer, gold)
    in_base = _BASE.fullmatch(wanted) or _BASE.fullmatch(given)
    if (
        in_base
    ):  # the question names the base, so that a reply may leave it out; another base is another number
        same_digits = wanted.partition("_")[0] == given.partition("_")[0]
        return _verdict(same_digits and ("_" not in wanted or "_" not in given), answer, gold)
    numbers = plain_number(wanted), plain_number(given)
    if numbers[0] and numbers[1]:
        target = Number(numbers[0].value, "%" in gold)
        equal = same_number(target, Number(numbers[1].value, "%" in answer), 2e-6)  # 0.333333 is 1/3
        return _verdict(equal, answer, gold)
    return _ask(Question("math", gold, answer))


def _mixed(gold: str, reply: str) -> GradeResult | Question:
    """Grade an answer of TheoremQA, whose type shows in the spelling of gold."""
    if gold.casefold() in ("true", "false", "yes", "no"):
        return _yes_no(gold, reply)
    if re.fullmatch(r"\([a-jA-J]\)|[A-J]", gold):
        return _choice(gold, reply)
    parts = [p.strip() for p in gold.strip("[] ").split(",")]
    if not all(plain_number(p) for p in parts):
        return _math(gold, reply)
    if len(parts) == 1:
        number = find_number(reply)
        if isinstance(number, Unreadable):
            return _missing(number, gold)
        if isinstance(number, Number):
            return _verdict(same_float(parts[0], number), str(number), gold)
        return _ask(Question("floats", parts[0], number))
    answer = find_math(reply)
    if answer is None:
        return GradeResult(False, None, gold, NO_ANSWER)
    given = [read_number(p) for p in split_list(answer)]
    if len(given) != len(parts) or any(n in (Unreadable.NOTHING, Unreadable.UNCLEAR) for n in given):
        return _verdict(False, answer, gold)
    numbers = [n for n in given if isinstance(n, Number)]
    if len(numbers) == len(given):
        return _verdict(all(map(same_float, parts, numbers)), answer, gold)
    return _ask(Question("floats", ",".join(parts), answer))


def extract_answer(reply: str, kind: str) -> str | None:
    """See `critique_rl.grading.extract_answer`."""
    reply = clip(reply)
    found: Number | Unreadable | str | None
    if kind == "choice":
        found = find_choice(reply)
    elif kind == "yes_no":
        found = find_yes_no(reply)
    elif kind == "number":
        found = find_number(reply)
    else:
        found = find_math(reply)
        if found is not None and kind == "mixed":
            word, letter = read_yes_no(found), re.fullmatch(r"\(([a-j])\)", found)
            found = letter[1].upper() if letter else word if isinstance(word, str) else found
        number = None if found is None else plain_number(normalise(found))
        found = number if number and "_" not in str(found) and "%" not in str(found) else found
    if found is None or isinstance(found, Unreadable):
        return None
    return " ".join(str(found).split())[:LONGEST_ANSWER]
