"""Spelling-independent form of a LaTeX answer, for comparison without algebra."""

from __future__ import annotations

import re

from critique_rl.grading.read import unwrap

_UNIT = re.compile(
    r"(?<=[\d}])\s*\\(?:text|mbox|mathrm|textrm)\s*\{\s*[a-zA-Z. ]+\s*\}(?:\s*\^\s*\{?\d\}?)?\s*$"
    r"|(?<=\d)\s+(?!(?:or|and|pi|sqrt|sin|cos|tan|log|ln|mod|exp)\b)[a-zA-Z]{2,20}(?:\s[a-zA-Z]{1,20}){0,3}(?:\s?\^\s?\{?\d\}?)?\s*$"
)
_RULES = (
    (re.compile(r"\\(?:left|right|displaystyle|bigl|bigr|Bigl|Bigr|big|Big)(?![a-zA-Z])"), ""),
    (re.compile(r"\\[dtc]frac(?![a-zA-Z])"), r"\\frac"),
    (re.compile(r"\^\s*\{?\s*\\circ\s*\}?|\\degrees?(?![a-z])|°"), ""),
    (re.compile(r"\\?\$|\\[()]|(?<!\\)\\\[|(?<!\\)\\\]|\\?%|\*\*"), ""),
    (re.compile(r"\\(?:cdot|times)(?![a-zA-Z])"), "*"),
    (re.compile(r"\\(?:le|leq|leqslant)(?![a-zA-Z])|≤"), "<="),
    (re.compile(r"\\(?:ge|geq|geqslant)(?![a-zA-Z])|≥"), ">="),
    (re.compile(r"\\infin(?:ty)?(?![a-zA-Z])|∞"), r"\\infty"),
    (re.compile(r"\\pi(?![a-zA-Z])|π|(?<![a-zA-Z\\])pi(?![a-zA-Z])"), r"\\pi"),
    (re.compile(r"√"), r"\\sqrt"),
    (re.compile(r"\{,\}"), ","),
    (re.compile(r"\\sqrt\s*(\d)(?!\d)"), r"\\sqrt{\1}"),
    (re.compile(r"\\frac\s*(\d)\s*(\d)"), r"\\frac{\1}{\2}"),
    (re.compile(r"\\frac\s*(\d)\s*\{"), r"\\frac{\1}{"),
    (re.compile(r"(\\frac\s*\{[^{}]*\})\s*(\d)"), r"\1{\2}"),
    (re.compile(r"(?<!\\)\\[ ,!;:]|\s|~|\\quad|\\qquad"), ""),
    (re.compile(r"_\{(\d+)\}"), r"_\1"),
)
_GROUPED = re.compile(r"-?\d{1,3}(?:,\d{3})+(?:\.\d+)?")
_WORDS = re.compile(r"[a-z]{2,}[a-z'-]*|\([a-j]\)")


def strip_units(text: str) -> str:
    """Drop a trailing unit (`15\\mbox{ cm}^2`, `18 dollars`); some data sets write units, some do not."""
    stripped = _UNIT.sub("", text)
    return stripped if stripped.strip() else text


def normalise(answer: str) -> str:
    """Drop spaces, sizing commands, units, `$`, `%` and degrees; words (`\\text{Even}`) become lower case."""
    text = unwrap(strip_units(answer.replace("\\%", "%").strip().rstrip(".,;: ")))
    for pattern, replacement in _RULES:
        text = pattern.sub(replacement, text)
    text = text.rstrip(".,;:")
    if _GROUPED.fullmatch(text):
        text = text.replace(",", "")
    if re.fullmatch(r"[A-Za-z]=.+|[A-Za-z]\\in.+", text) and re.fullmatch(r"-?[\d./]+", text.split("=")[-1]):
        text = text.split("=")[-1]  # x=5 is 5; y=2x+3 stays an equation
    if text.startswith("."):
        text = "0" + text
    words = text.casefold()
    return words if is_words(words) else text


def is_words(normal: str) -> bool:
    """Say whether a normalised answer is a word or an option letter, which need no algebra."""
    return bool(_WORDS.fullmatch(normal))
