"""Spelling-independent form of a LaTeX answer, for comparison without algebra."""

from __future__ import annotations

import re

from critique_rl.grading.read import SCALES, unwrap

_SCALES = rf"(?:{'|'.join(SCALES)})s?"
# Words behind a number that are no unit: they change the number, or take it back.
_NO_UNIT = (
    rf"or|and|pi|sqrt|sin|cos|tan|log|ln|mod|exp|{_SCALES}|squared|cubed|factorial|plus|minus|times|divided"
    "|multiplied|over|choose|more|less|is|isn|was|not|no|wait|wrong|incorrect|false"
)
_UNIT = re.compile(
    r"(?<=[\d}])\s*\\(?:text|mbox|mathrm|textrm)\s*"
    rf"\{{(?!\s*(?:[a-zA-Z.]+\s)*(?:{_NO_UNIT}|[ei])\b)\s*[a-zA-Z. ]+\s*\}}"
    r"(?:\s*\^\s*\{?\d\}?)?(?=\s*(?:$|,))"
    rf"|(?<=\d)\s+(?!(?:[a-zA-Z]+\s){{0,3}}(?:{_NO_UNIT})\b)"
    r"(?:m(?=\s?\^)|[a-zA-Z]{2,20})(?:\s[a-zA-Z]{1,20}){0,3}"
    r"(?:\s?\^\s?\{?\d\}?)?(?=\s*(?:$|,))"
)
_CHANGING = re.compile(
    rf"[%\d]\W*(?:text|mbox|mathrm)?\W*(?:of\s*\}}?\s*\$?\d|{_SCALES}\b"
    r"|squared|cubed|plus|minus|times\s*\}?\s*\d|divided|multiplied|is\b|isn|was\b|wrong|incorrect|false)"
)
_LETTER = re.compile(
    r"\\(?:mathrm|text|textrm|operatorname|mathit|mathbf|rm)\s*\{\s*([A-Za-z])\s*\}|\{\\rm\s+([A-Za-z])\s*\}"
    r"|\\(?:mathrm|rm)\s+([A-Za-z])(?![A-Za-z])"
)
_MIXED = re.compile(r"(?<![\d.,/}])(\d+)\s+(\d+)\s?/\s?(\d+)(?![\d/.])")
_SPACED_FRACTION = re.compile(r"\\([dtc]?frac)\s*(\d)\s+(\d)(?!\d)")
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
    (re.compile(r"(?<!\\)\\[ ,!;:]|~|\\quad|\\qquad|\s+"), " "),
    (re.compile(r"(?<!\d) | (?!\d)"), ""),  # two numbers side by side are not one
    (re.compile(r"_\{(\d+)\}"), r"_\1"),
)
_GROUPED = re.compile(r"-?\d{1,3}(?:(?:,\d{3})+|(?: \d{3})+)(?:\.\d+)?")
_WORDS = re.compile(r"[a-z]{2,}[a-z'-]*|\([a-j]\)")


def changes_number(text: str) -> bool:
    """Say whether words behind a number change it or take it back, as in `7 thousand` and `7% of 50`."""
    return bool(_CHANGING.search(text))


def strip_units(text: str) -> str:
    """Drop a trailing unit (`15\\mbox{ cm}^2`, `18 dollars`); some data sets write units, some do not."""
    stripped = _UNIT.sub("", text)
    return stripped if stripped.strip() else text


def spell_out(text: str) -> str:
    """Write mixed numbers (`1 1/4`) and upright letters (`\\mathrm{e}`) as LaTeX that has one reading."""
    text = _LETTER.sub(lambda match: match[1] or match[2] or match[3], text)
    text = _SPACED_FRACTION.sub(r"\\\1{\2}{\3}", text)
    return _MIXED.sub(r"\1\\frac{\2}{\3}", text)


def normalise(answer: str) -> str:
    """Drop spaces, sizing commands, units, `$`, `%` and degrees; words (`\\text{Even}`) become lower case."""
    text = unwrap(spell_out(strip_units(answer.replace("\\%", "%").strip().rstrip(".,;: "))))
    for pattern, replacement in _RULES:
        text = pattern.sub(replacement, text)
    text = text.rstrip(".,;:")
    if _GROUPED.fullmatch(text):
        text = text.replace(",", "").replace(" ", "")
    if text.count("=") == 1 and re.fullmatch(r"[A-Za-z]=-?[\d./]+", text):
        text = text.split("=")[-1]  # x=5 is 5; y=2x+3 stays an equation
    if text.startswith("."):
        text = "0" + text
    words = text.casefold()
    return words if is_words(words) else text


def is_words(normal: str) -> bool:
    """Say whether a normalised answer is a word or an option letter, which need no algebra."""
    return bool(_WORDS.fullmatch(normal))
