"""Grading as in the checker of the paper's released code, faults included, to compare with published numbers.

Written from a description of that checker. Two differences: TheoremQA replies do not go through sympy and `eval`,
which changes nothing for plain numbers, and a gold answer for `math` may stand alone.

Known faults, kept on purpose: the comparison is by string, so `0.5` is not `\\frac{1}{2}` and `2,1` is not
`1,2`; a TheoremQA answer with "no" anywhere ("not", "now") is False; the article "a" is A.
"""

from __future__ import annotations

import re
from fractions import Fraction
from typing import get_args

from critique_rl.types import GradedKind

_TRIGGERS = ("The answer is:", "The answer is", "the answer is")
_OPTIONS = tuple(f"({letter})" for letter in "abcdef")


def grade(*, gold: str, reply: str, kind: str) -> bool:
    """Say whether the released checker accepts `reply`; arguments as in `critique_rl.grading.grade`.

    Raises:
        ValueError: `kind` is unknown.

    >>> grade(gold="0.5", reply=r"The answer is: \\frac{1}{2}", kind="math")
    False
    """
    if kind not in get_args(GradedKind):
        raise ValueError(f"kind must be one of {', '.join(get_args(GradedKind))}, not {kind!r}")
    target, answer = (_compared(_extract(text, kind)) for text in (gold, reply))
    if not target or not answer:
        return False
    return target in answer if kind == "choice" else target == answer


def _compared(answer: str) -> str:
    return re.sub(r"\\text\s*\{([^{}]*)\}", r"\1", answer).strip().casefold()


def _extract(text: str, kind: str) -> str:
    """Return the answer in `text` by the rules of the data set behind `kind`."""
    trigger = next((t for t in _TRIGGERS if t in text), None)
    stated = trigger is not None
    answer = text.split(trigger)[-1] if trigger else text
    answer = answer.strip("\n").rstrip().rstrip("./").strip()
    if kind == "choice":
        return _pick(re.findall(r"\b[A-J]\b", answer.upper()), stated)
    if kind == "number":
        number = _pick(re.findall(r"-?\d+/?\.?\d*", answer.replace(",", "")), stated).rstrip("./")
        return _without_zeros(number)
    if kind == "math":
        return _math(answer, stated)
    return _theoremqa(answer, stated)


def _pick(matches: list[str], stated: bool) -> str:
    """Return the first match after a trigger, the last match without a trigger."""
    return "" if not matches else matches[0] if stated else matches[-1]


def _without_zeros(number: str) -> str:
    """Write `5.0` as `5`."""
    if "." not in number or "/" in number or len(number) > 300:
        return number
    value = Fraction(number)
    return str(value.numerator) if value.denominator == 1 else number


def _last_box(text: str) -> str | None:
    """Return the content of the last `boxed{...}`, its braces matched."""
    _, box, rest = text.rpartition("boxed{")
    if not box:
        return None
    depth = 1
    for i, character in enumerate(rest):
        depth += {"{": 1, "}": -1}.get(character, 0)
        if depth == 0:
            return rest[:i]
    return rest


def _math(answer: str, stated: bool) -> str:
    box = _last_box(answer)
    if box is not None:
        answer = box
    elif stated:
        answer = answer.split("=")[-1]
    elif "\n" in answer or re.search(r"(?<![A-Za-z])[A-Za-z]{3,} [A-Za-z]{2,}", answer):
        # prose, not a gold answer alone
        answer = _pick(re.findall(r"-?\d*\.?\d+", answer.replace(",", "")), stated=False)
    return _normalise(answer)


def _normalise(answer: str) -> str:
    """Bring LaTeX to the usual spelling of the MATH data set."""
    answer = re.sub(r"\\[!,;: ]|\\left|\\right|\\?\$|\\?%|\^\{?\\circ\}?", "", answer.strip().rstrip("."))
    answer = re.sub(r"\\[dt]frac", r"\\frac", answer)
    answer = re.sub(r"\\text\s*\{ [^{}]*\}$", "", answer)  # a unit: its text begins with a space
    left, _, right = answer.partition("=")
    if answer.count("=") == 1 and len(left.strip()) <= 2:
        answer = right
    answer = re.sub(r"\\frac\s*(\d)\s*(\d)", r"\\frac{\1}{\2}", answer)
    answer = re.sub(r"\\sqrt\s*(\d)", r"\\sqrt{\1}", answer)
    answer = re.sub(r"^(-?\d+)/(\d+)$", r"\\frac{\1}{\2}", answer.replace(" ", ""))
    return "0" + answer if answer.startswith(".") else answer


def _theoremqa(answer: str, stated: bool) -> str:
    low = answer.casefold()
    if "yes" in low or "true" in low:
        return "True"
    if "no" in low or "false" in low:
        return "False"
    if option := next((option for option in _OPTIONS if option in low), None):
        return option
    box = _last_box(answer)
    answer = (answer if box is None else box).split("=")[-1].split("\\approx")[-1]
    answer = re.sub(r"\\(?:text|mathrm)\s*\{[^{}]*\}|\\?[$%]|\^\{?\\circ\}?", "", answer).strip().rstrip(".")
    if not stated and box is None and "\n" in answer:
        answer = _pick(re.findall(r"-?\d+\.?\d*", answer), stated=False)
    number = re.match(r"(-?\d[\d,]*\.?\d*)(?:\s+[A-Za-z/^\d ]+)?$", answer)
    return number[1].replace(",", "") if number else answer.replace(" ", "")
