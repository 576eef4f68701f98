"""Grading without algebra, within a millisecond; the rest becomes a `Question` for a worker."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

from critique_rl.grading.extract import (
    LONGEST_ANSWER,
    answering_part,
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
from critique_rl.grading.text import changes_number, is_words, normalise

NO_ANSWER = "no answer in the reply"
MISSING = ("nan", "null", "<na>", "nat")
"""Spellings of a missing value in data frames and JSON, in lower case; they are no gold answer."""


@dataclass(frozen=True)
class GradeResult:
    """A grade with its reason.

    Attributes:
        grade: True or False; `None` if undecided.
        answer: The answer in the reply, `None` without one.
        gold: Gold in the compared form, `None` if it does not parse.
        reason: For instance `equal`, `no answer in the reply`, `gold does not parse`, `time limit 5 s`.
    """

    grade: bool | None
    answer: str | None
    gold: str | None
    reason: str


_BAD_GOLD = GradeResult(None, None, None, "gold does not parse")


@dataclass(frozen=True)
class Question:
    """A comparison that needs sympy, for a worker.

    Attributes:
        task: `math` compares expressions. `number` and `floats` compute the value of the reply and compare it
            with plain numbers: `number` up to `NUMBER_TOLERANCE`, `floats` as in `same_float`. `named` compares
            values line by line as `math` does.
        gold: Gold; for `floats` a comma-separated list of one or more plain numbers, for `named` a value a line.
        answer: The stated answer, for `named` a value a line.
    """

    task: Literal["math", "number", "floats", "named"]
    gold: str
    answer: str


def _verdict(equal: bool, answer: str, gold: str) -> GradeResult:
    return GradeResult(equal, answer, gold, "equal" if equal else "different")


def _compare(same: Callable[[Number], bool], answer: Number, gold: str, shown: str) -> GradeResult:
    """Compare a number with gold; `7 thousand` for gold 7 is undecided, as gold may count in thousands."""
    if same(answer.scaled):
        return _verdict(True, shown, gold)
    if answer.scale != 1 and same(replace(answer, scale=1)):
        return GradeResult(None, shown, gold, "gold may count in the word behind the number")
    return _verdict(False, shown, gold)


def _missing(answer: Unreadable, gold: str) -> GradeResult:
    return GradeResult(False, None, gold, NO_ANSWER if answer is Unreadable.NOTHING else answer.value)


def _gold_text(gold: str) -> str:
    """Return the answer in `gold`; a whole solution may end in `#### 18` or a box."""
    text = clip(gold).strip()
    if text.casefold() in MISSING:
        return ""
    if re.search(r"####|boxed|\n|(?i:answer\s*(?:is|:))", text):
        return next(map(tidy, statements(text)), tidy(text))
    return tidy(text)


def prepare(gold: str, reply: str, kind: str) -> GradeResult | Question:
    """Grade `reply`, or return the question that only algebra can answer."""
    gold, reply = _gold_text(gold), answering_part(reply)
    if not gold:
        return _BAD_GOLD
    if kind == "choice":
        return _one_word(read_choice(gold), find_choice(reply))
    if kind == "yes_no":
        return _one_word(read_yes_no(gold), find_yes_no(reply))
    return {"math": _math, "number": _number, "mixed": _mixed}[kind](gold, reply)


def _one_word(gold: str | Unreadable, answer: str | Unreadable) -> GradeResult:
    """Compare option letters, or `yes` and `no`."""
    if isinstance(gold, Unreadable):
        return _BAD_GOLD
    if isinstance(answer, Unreadable):
        return _missing(answer, gold)
    return _verdict(gold == answer, answer, gold)


def _number(gold: str, reply: str) -> GradeResult | Question:
    target, answer = read_number(gold), find_number(reply)
    if target is Unreadable.EXPRESSION:
        return _math(gold, reply)
    if isinstance(target, Unreadable):
        return _BAD_GOLD
    if isinstance(answer, Unreadable):
        return _missing(answer, str(target))
    if isinstance(answer, Number):
        return _compare(partial(same_number, target.scaled), answer, str(target), str(answer))
    return _ask(Question("number", str(target), answer))


def _ask(question: Question) -> GradeResult | Question:
    """Return the question; a grade of False if its answer is too long to be one."""
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
    target, stated = normalise(gold), normalise(answer)
    if target and target == stated:
        return _verdict(True, answer, gold)
    if is_words(target):  # `(C)` is `C`, `an ellipse` is `ellipse`; words need no algebra
        stated = normalise(_ARTICLE.sub("", answer))
        return _verdict(target.strip("()") == stated.casefold().strip("()"), answer, gold)
    if _BASE.fullmatch(target) or _BASE.fullmatch(stated):
        # The problem names the base, so the reply may leave it out; another base makes another number.
        same_digits = target.partition("_")[0] == stated.partition("_")[0]
        return _verdict(same_digits and ("_" not in target or "_" not in stated), answer, gold)
    gold_number, number = plain_number(target), plain_number(stated)
    if gold_number:
        same = partial(same_number, Number(gold_number.value, "%" in gold), tolerance=2e-6)  # 0.333333 is 1/3
        if number:
            return _verdict(same(Number(number.value, "%" in answer)), answer, gold)
        reading = read_number(answer) if _PROSE.search(answer) else Unreadable.EXPRESSION
        if isinstance(reading, Number):
            return _compare(same, reading, gold, answer)
        if reading is not Unreadable.EXPRESSION:
            return GradeResult(False, answer, gold, reading.value)
        if changes_number(answer):
            return _verdict(False, answer, gold)
    if " " in stated and "\\begin" not in stated:  # the form keeps a space between two numbers only
        return GradeResult(False, answer, gold, Unreadable.UNCLEAR.value)
    if (named := _named(gold, answer)) is not None:
        return named
    return _ask(Question("math", gold, answer))


_PROSE = re.compile(r"(?<![\\A-Za-z])[A-Za-z]{2,}\b(?!\s*\()|[^\x00-\x7f]|[<>?]")
_ASSIGNED = re.compile(r"\s*([A-Za-z](?:_\{?\w+\}?)?|\\[a-z]+)\s*=([^=<>]+)")


def _assigned(answer: str) -> list[tuple[str, str]] | None:
    """Names and values of an answer such as `x=1 , y=2`, in its order; `None` for any other form."""
    text = answer.replace("\\(", "").replace("\\)", "").replace("$", "")
    pairs = [_ASSIGNED.fullmatch(part) for part in re.split(r"[,;]|\\\\", text)]
    return [(m[1], m[2].strip()) for m in pairs if m] if len(pairs) > 1 and all(pairs) else None


def _named(gold: str, answer: str) -> GradeResult | Question | None:
    """Compare named values whatever their order; several values of one name are a set."""
    target, stated = _assigned(gold), _assigned(answer)
    if target is None or stated is None:
        return None
    names = list(dict.fromkeys(name for name, _ in target))
    if sorted(name for name, _ in target) != sorted(name for name, _ in stated):
        return GradeResult(False, answer, gold, "different names, or not as many values")
    lines = [
        "\n".join(" , ".join(v for n, v in pairs if n == name) for name in names)
        for pairs in (target, stated)
    ]
    return _ask(Question("named", *lines))


def _mixed(gold: str, reply: str) -> GradeResult | Question:
    """Grade an answer of TheoremQA; the spelling of gold shows the answer's type."""
    if gold.casefold() in ("true", "false", "yes", "no"):
        return _one_word(read_yes_no(gold), find_yes_no(reply))
    if re.fullmatch(r"\([a-jA-J]\)|[A-J]", gold):
        return _one_word(read_choice(gold), find_choice(reply))
    parts = [p.strip() for p in gold.strip("[] ").split(",")]
    if not all(plain_number(p) for p in parts):
        return _math(gold, reply)
    if len(parts) == 1:
        number = find_number(reply)
        if isinstance(number, Unreadable):
            return _missing(number, gold)
        if isinstance(number, Number):
            return _compare(partial(same_float, parts[0]), number, gold, str(number))
        return _ask(Question("floats", parts[0], number))
    answer = find_math(reply)
    if answer is None:
        return GradeResult(False, None, gold, NO_ANSWER)
    stated = [read_number(p) for p in split_list(answer)]
    if len(stated) != len(parts) or any(n in (Unreadable.NOTHING, Unreadable.UNCLEAR) for n in stated):
        return _verdict(False, answer, gold)
    numbers = [n for n in stated if isinstance(n, Number)]
    if len(numbers) == len(stated):
        return _verdict(
            all(same_float(part, n.scaled) for part, n in zip(parts, numbers, strict=True)), answer, gold
        )
    return _ask(Question("floats", ",".join(parts), answer))


_FINDERS: dict[str, Callable[[str], Number | Unreadable | str | None]]
_FINDERS = {"choice": find_choice, "yes_no": find_yes_no, "number": find_number}


def stated_answer(reply: str, kind: str) -> str | None:
    """Do the work of `critique_rl.grading.extract_answer`."""
    answer = _FINDERS.get(kind, find_math)(answering_part(reply))
    if kind not in _FINDERS and isinstance(answer, str):
        if kind == "mixed":
            word, letter = read_yes_no(answer), re.fullmatch(r"\(([a-j])\)", answer)
            answer = letter[1].upper() if letter else word if isinstance(word, str) else answer
        number = plain_number(normalise(answer))
        answer = number if number and "_" not in answer and "%" not in answer else answer
    if answer is None or isinstance(answer, Unreadable):
        return None
    return " ".join(str(answer).split())[:LONGEST_ANSWER]
