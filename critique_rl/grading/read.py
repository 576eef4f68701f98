"""Reading of numbers, option letters, yes/no and lists from short text, in linear time and without sympy."""

from __future__ import annotations

import enum
import re
from dataclasses import dataclass
from fractions import Fraction

from critique_rl.grading.signs import canonical

NUMBER_TOLERANCE = 1e-6
"""Largest relative difference between two numbers that are the same answer."""

_MAX_DIGITS = 400  # Python refuses integers of more than 4,300 digits; real answers are far shorter


class Unreadable(enum.Enum):
    """Reasons why a piece of text has no single value."""

    NOTHING = "no value in it"
    UNCLEAR = "more than one answer, or a negated one"
    EXPRESSION = "not a plain number"


@dataclass(frozen=True)
class Number:
    """A plain number.

    Attributes:
        value: The number as written; `50%` has the value 50.
        percent: Whether a percent sign follows.
        scale: Factor of a word behind it, 1000 for `7 thousand`; a data set may count in thousands.
    """

    value: Fraction
    percent: bool = False
    scale: int = 1

    @property
    def scaled(self) -> Number:
        """The number with its scale word worked in: `7 thousand` is 7000."""
        return Number(self.value * self.scale, self.percent)

    def __str__(self) -> str:
        """Return one spelling per value: `18`, `0.75`, `1/3`, `50%`."""
        decimal = f"{float(self.value):.15g}" if abs(self.value) < 10**300 else str(self.value)
        exact = "e" not in decimal and Fraction(decimal) == self.value
        words = {factor: f" {word}" for word, factor in SCALES.items()}
        return (decimal if exact else str(self.value)) + "%" * self.percent + words.get(self.scale, "")


SCALES = {
    "hundred": 10**2,
    "thousand": 10**3,
    "million": 10**6,
    "billion": 10**9,
    "trillion": 10**12,
    "dozen": 12,
}
"""Factors of the words that scale a number."""
_UNWRAP = re.compile(
    r"\\(?:text|mbox|textbf|textit|textrm|mathrm|mathbf|mathit|bf|rm|operatorname)\s*\{([^{}]*)\}"
)
_SMALL_SPACE = re.compile(r"(?<!\\)\\[,!;:> ]|\\quad|\\qquad|~|\\(?:big|Big|bigg|Bigg)(?![a-zA-Z])")
_PLAIN_WORDS = (
    (re.compile(r"\\[dt]frac"), r"\\frac"),
    (re.compile(r"\\(?:left|right|displaystyle)(?![a-zA-Z])\s*"), ""),
    (re.compile(r"\\(?:times|cdot)(?![a-zA-Z])"), "*"),
    (re.compile(r"\\?%|\\?\bper\s?cent(?:age)?\b", re.IGNORECASE), "%"),
    (re.compile(r"\\(?:approx|equiv)(?![a-zA-Z])|≈"), "="),
    (re.compile(r"\\[()\[\]]|\\\$|[$€£₹]"), " "),
    (re.compile(r"(?<![\w)])\*\*|\*\*(?![\w(])|__|`"), " "),  # bold, but not the power of 2**3
    (re.compile(r"(?<=\d)\{,\}(?=\d)|(?<=\d),\s+(?=\d{3}\s*,\s*\d{3})"), ","),
)


def unwrap(text: str) -> str:
    """Drop text wrappers such as `\\text{...}` (not their content), thin spaces and typographic signs."""
    text = re.sub(r"(?<=\d),\\!\s?(?=\d)", ",", canonical(text))
    text = re.sub(r"(?<=\d)\\[,!;](?=\d)", "", text)
    text = _SMALL_SPACE.sub(" ", text)
    return _UNWRAP.sub(r" \1 ", text)


def plain(text: str) -> str:
    """Turn light LaTeX and markdown into the plain spelling that the functions below read."""
    text = unwrap(_CALCULATION.sub("", text))
    for pattern, replacement in _PLAIN_WORDS:
        text = pattern.sub(replacement, text)
    return text.strip()


_INT = r"(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)"
_DECIMAL = rf"(?:{_INT}(?:\.\d+)?|\.\d+)"
_BRACED = r"(?:\{\s?-?\d+(?:\.\d+)?\s?\}|\s?\d)"
# Chinese and the like may stand right before a number, as in 是7; a letter of a formula may not.
_FORMULA_LETTER = r"A-Za-z0-9\u00c0-\u03ff"
_NUMBER = re.compile(
    rf"(?P<sign>(?:(?<![{_FORMULA_LETTER}_.)}}])[-+]|\b(?:minus|negative)\b))?\s?(?:"
    rf"(?:(?P<whole>\d{{1,9}})\s?)?\\frac\s?(?P<top>{_BRACED})\s?(?P<bottom>{_BRACED})"
    r"|(?P<mixed>\d{1,9})\s(?P<over>\d{1,9})/(?P<under>\d{1,9})(?![\d.])"
    rf"|(?P<number>{_DECIMAL})(?:\s?/\s?(?P<divisor>{_DECIMAL})"
    r"|(?:[eE]|\s?\*\s?10\s?\^\s?\{?\s?)(?P<exponent>[-+]?\s?\d{1,4})(?:\s?\})?)?"
    r")(?P<percent>\s?%)?"
)
_NEGATED = re.compile(r"\b(?:not|isn't|neither|never|cannot)\b", re.IGNORECASE)
_ASIDE = re.compile(r"\b(?:since|because|as|which|where|when|if|for|with|by)\b|,\s(?!\d{3})(?![A-Za-z]\s?=)")
# The text after a number is another answer (3, 4), the rest of a formula (2\sqrt{3}), or a unit.
_VARIABLE = r"(?:[A-Za-z]\w{0,3}\s?=\s?)?"
_CONNECTED = re.compile(
    rf"\s*(?:,|;|\.{{2,}}|\bor\b|\band\b|\bto\b)?\s*(?:or\b|and\b)?\s*{_VARIABLE}(?=[-+]?\.?\d)(?<![\d.])"
)
_ALTERNATIVE = re.compile(rf"[^\d.,;]{{0,30}}\b(?:or|and)\s+{_VARIABLE}[-+]?\.?\d|[,;]\s*{_VARIABLE}[-+]?\d")
_CONTINUED = re.compile(
    r"\s*(?:[*^_{\\!]|[-+/]\s*[\w\\(]|:\s?\d|x\s*\d)|\(|[xyznkij](?:[xyz]\b|(?![a-z]))|\s?(?:sqrt|pi)\b"
)
_CALCULATION = re.compile(r"<<[^<>\n]*>>")  # of GSM8K, as in 2*9=<<2*9=18>>18
# A unit (15/hour) and an aside (18 - the total) continue no formula.
_NO_PER = (
    "sqrt|sin|cos|tan|log|exp|one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|hundred|thousand"
)
_PER = rf"sec|min|hr|wk|mo|yr|mi|km|cm|ft|kg|lb|oz|(?!(?:{_NO_PER})(?![a-z]))[a-z]{{3,}}"
_ASIDES = (
    "the|that|this|these|those|which|who|so|as|because|since|it|he|she|they|we|you|his|her|their|its|our|your|all"
    "|in|for|with|not|after|before|from|if|when|where|here|there|and|but"
)
_UNIT = re.compile(
    rf"\s?/\s?(?:{_PER})s?\b|-(?!(?:{_NO_PER})(?![a-z]))[a-z]{{3,}}\b|\s-\s(?:{_ASIDES})\b", re.IGNORECASE
)
_INSIDE = re.compile(
    rf"[{_FORMULA_LETTER}_\\{{^/*.)\]]$|[*/^]\s$|(?:^|[^A-Za-z])[A-Za-z]\s?[-+]\s?$|[\d)\]}}]\s?[-+]\s?$"
    r"|\\[a-zA-Z]|\b(?:sqrt|pi)\b|[√∛∜∑∏∫∂]\s?$"
    r"|\b(?:log|ln|exp|sin|cos|tan|abs|floor|ceil|root of|half(?: of)?|twice|double|triple|third of|quarter of"
    r"|percent of|%\s?of|plus|minus|times|divided by|than)\b\s*[($]?\s?$",
    re.IGNORECASE,
)
_RELATION = re.compile(
    r"(?:[≠≤≥≮≯≰≱±∓∉]|!=|[<>]=|[\w)\]}]\s?[<>]|\\(?:neq?|leq?|geq?|lt|gt|pm|mp|not)(?![a-zA-Z])\s?=?)\s?[($]?\s?$"
)
_TAG = re.compile(r"</?\w+>\s?$")
# A symbol, a numeral of another script or a word that goes on with the number: 7√2, 7万, 7% of 50, 7 minus 2.
_COMPUTED = re.compile(
    r"\s?[√∛∜∑∏∫∂∞π>≠≤≥±∓]|\s?<(?!/?\w+>)|e(?![a-zA-Z])|\d|\)\s?(?:[\^(*!\d])|\s?[十百千万亿億兆萬]"
    r"|[^\W\da-z_]*[\u0300-\u036f\u20d0-\u20ff]"
    r"|\s+(?:plus|minus|multiplied by|divided by|mod|modulo|choose|squared|cubed|factorial"
    r"|to the (?:power|\w+ power))\b"
    r"|\.{2,}\s?\d|\s+(?:times|over|(?:more|less|fewer|greater|larger|smaller) than)\s+[-$(\\]?\s?\d"
)
_LETTER_SCALES = {"k": "thousand", "K": "thousand", "M": "million", "B": "billion"}
_SCALE = re.compile(rf"([kKMB])\b|[-\s]{{0,2}}((?i:{'|'.join(SCALES)}))s?\b")
_AND_PART = re.compile(r"\s+and\s+(?:a|one)[-\s](half|third|quarter|fourth|fifth)\b", re.IGNORECASE)
_PARTS = {"half": 2, "third": 3, "quarter": 4, "fourth": 4, "fifth": 5}
_TAKEN_BACK = re.compile(
    r"\s(?:isn't|wasn't)\s(?:right|correct|true)\b"
    r"|[^.;\d]{0,30}?(?:[(,]|\b(?:which|that|it|is|was)\b)\s?"
    r"(?:(?:it|is|was|clearly|obviously|surely|certainly|probably|the)\s)*"
    r"(?:wrong|incorrect|false|mistaken|not\s(?:right|correct|true|the\sanswer))\b"
    r"|[^\d\n]{0,12}\b(?:no|wait|actually|rather|sorry|correction|scratch that|i mean)\b[^\d\n]{0,25}\d",
    re.IGNORECASE,
)
# An exclamation mark inside a formula at the end; that of a sentence follows the formula.
_FACTORIAL = re.compile(r"!\s?(?:\$|\\[)\]])[\s.*_]*\Z")
_CONSTANT = re.compile(r"-?\s?(?:e|pi|π)")
_DEGREES = re.compile(r"^\s?(?:\^\s?\{?\s?\\circ\s?\}?|°)")


def _value(match: re.Match[str]) -> Fraction | None:
    """Return the value of one `_NUMBER` match, `None` for absurd lengths and for a division by zero."""
    part = {k: v.strip("{ }").replace(",", "").replace(" ", "") for k, v in match.groupdict().items() if v}
    if sum(map(len, part.values())) > _MAX_DIGITS or abs(int(part.get("exponent", "0"))) > _MAX_DIGITS:
        return None
    try:
        if "top" in part:
            value = Fraction(part.get("whole", "0")) + Fraction(part["top"]) / Fraction(part["bottom"])
        elif "mixed" in part:
            value = Fraction(part["mixed"]) + Fraction(int(part["over"]), int(part["under"]))
        else:
            value = Fraction(part["number"]) / Fraction(part.get("divisor", "1"))
            value *= Fraction(10) ** int(part.get("exponent", "0"))
    except ZeroDivisionError:
        return None
    return -value if part.get("sign", "+") != "+" else value


def read_number(text: str) -> Number | Unreadable:
    """Read the one number of a short statement (one line): `18 dollars`, `$1,234.50$`, `x = \\frac{3}{4}`.

    Returns:
        The number; `UNCLEAR` for `3 or 4` and `not 3`, `EXPRESSION` for `2\\sqrt{3}`, `NOTHING` for `none`.
    """
    text = plain(text).rstrip(". " if _FACTORIAL.search(text) else "!. ")
    first = _NUMBER.search(text)
    if first is None:
        return Unreadable.EXPRESSION if "\\" in text or _CONSTANT.fullmatch(text) else Unreadable.NOTHING
    if _NEGATED.search(text, 0, first.start()):
        return Unreadable.UNCLEAR
    cut = text.rfind("=")
    between = text[first.start() : max(cut, first.start())]
    if cut >= first.end() and not _ASIDE.search(between) and between.count("(") == between.count(")"):
        # 20 - 2 = 18 is a chain; x = 3 or x = 4 states two answers
        return Unreadable.UNCLEAR if _ALTERNATIVE.search(between + "=0") else read_number(text[cut + 1 :])
    return _number_at(text, first)


def _number_at(text: str, match: re.Match[str]) -> Number | Unreadable:
    """Read a number with what stands around it, which may make it another number or part of a formula."""
    before, after = text[: match.start()], text[match.end() :]
    if match["sign"] is None:
        before += match[0][: len(match[0]) - len(match[0].lstrip())]
    else:  # of `x - 7` and `20 - 7`, unlike `-7`
        before += match["sign"] if re.search(r"(?:(?:^|[^A-Za-z])[A-Za-z]|[\d)\]}])\s?$", before) else ""
    if _RELATION.search(before) and not _TAG.search(before):
        return Unreadable.UNCLEAR
    value = _value(match)
    if value is None or _INSIDE.search(before.removesuffix("(")):
        return Unreadable.EXPRESSION
    if part := _AND_PART.match(after):
        value, after = value + Fraction(1, _PARTS[part[1].lower()]), after[part.end() :]
    scale = 1
    if word := _SCALE.match(after):
        scale = SCALES[_LETTER_SCALES.get(word[1]) or word[2].lower()]
        after = after[word.end() :]
    if _CONNECTED.match(after) or _ALTERNATIVE.match(after) or _TAKEN_BACK.match(after):
        return Unreadable.UNCLEAR
    rest = _DEGREES.sub("", after, count=1)
    if match["percent"] and re.match(r"\s*of\s+\$?\d", rest):
        return Unreadable.EXPRESSION
    if _COMPUTED.match(rest) or (_CONTINUED.match(rest) and not _UNIT.match(rest)):
        return Unreadable.EXPRESSION
    return Number(value, bool(match["percent"]), scale)


def last_number(text: str) -> Number | None:
    """Return the last number anywhere in `text`, the last resort for a reply without a stated answer.

    A number that is a part of a formula, such as that of `7√2`, ends the search: `None`.
    """
    text = plain(text)
    for match in reversed(list(_NUMBER.finditer(text))):
        end = text.find("\n", match.end())
        if re.search(r"[_^]\{?\s?$", text[max(0, match.start() - 4) : match.start()]):
            continue  # of `980 cm^{3}` the exponent is not the number
        start = text.rfind("\n", 0, match.start() + len(match[0]) - len(match[0].lstrip())) + 1
        line = text[start : end if end >= 0 else None]
        inner = _NUMBER.match(line, max(0, match.start() - start))
        number = Unreadable.EXPRESSION if inner is None else _number_at(line, inner)
        if isinstance(number, Number):
            return number
        if _value(match) is not None:
            return None
    return None


def same_number(gold: Number, reply: Number, tolerance: float = NUMBER_TOLERANCE) -> bool:
    """Compare values up to a relative `tolerance`, two integers exactly.

    A percent sign on one side only is read both ways: data sets write the answer to "what per cent" as `50` and
    as `0.5`, and the problem text, which would decide, is unknown here.
    """
    if gold.percent == reply.percent and gold.value.denominator == reply.value.denominator == 1:
        return gold.value == reply.value
    values = {reply.value}
    if reply.percent != gold.percent:
        values.add(reply.value / 100 if reply.percent else reply.value * 100)
    return any(abs(v - gold.value) <= Fraction(tolerance) * abs(gold.value) for v in values)


_LETTER_FIRST = re.compile(
    r"(?:(?:option|choice|answer)\s*:?\s*)?(?:\(\s*([A-Ja-j])\s*\)|\[\s*([A-J])\s*\]|([A-J])\b(?!['^_])"
    r"|([b-hj])(?=\s*[).:]|$)|(a|i)(?=\s*\)|$))"
)
_LETTER_MARKED = re.compile(
    r"\(\s*([A-Ja-j])\s*\)|\b(?:option|choice)\s+\(?([A-Ja-j])\b(?!')|\b([A-J])\)|\b([B-HJ])\b(?!['^_=])"
)
_LETTER_NEXT = re.compile(
    r"[)\].:\s]*(?:,|/|&|\bor\b|\band\b)\s*(?:\bor\b|\band\b)?\s*(?:option\s+)?\(?([A-J])\b(?!')"
    r"|[)\]]\s*\(([A-J])\)"
)
_ARTICLE = re.compile(r"\s+(?!(?:because|since|as|and|or|with|which|is|for|from|by|due)\b)[a-z]")
_PRONOUN = re.compile(r"\s+[a-z]|'")
_FILLER = re.compile(
    r"(?:\s|[:*_$\"']|\b(?:therefore|thus|hence|simply|equal to|approximately|about|indeed|clearly|that|is"
    r"|the|option|choice|letter|correct|answer|likely|definitely|probably)\b)+",
    re.IGNORECASE,
)


def read_choice(text: str) -> str | Unreadable:
    """Read the one option letter, `A` to `J`, of a statement such as `(b)`, `B) 5 km` or `option B`.

    A lower-case letter counts only with the marks of an option or alone. `A` and `I` do not count where they may
    be the article or the pronoun (`A prime number`, `I think so`).
    """
    text = re.sub(r"\s+", " ", plain(text)).strip(" .*")
    if _NEGATED.match(text):
        return Unreadable.UNCLEAR
    filler = _FILLER.match(text)
    text = text[filler.end() :] if filler and filler.end() < len(text) else text
    first = _LETTER_FIRST.match(text)
    if first:
        letter = next(g for g in first.groups() if g)
        rest = text[first.end() :]
        prose = {"A": _ARTICLE, "I": _PRONOUN}.get(first[3])  # for a letter without the marks of an option
        if prose is None or not prose.match(rest):
            other = _LETTER_NEXT.match(rest)
            return Unreadable.UNCLEAR if other and letter.upper() not in other.groups() else letter.upper()
    if _NEGATED.search(text):
        return Unreadable.UNCLEAR
    letters = {next(g for g in m.groups() if g).upper() for m in _LETTER_MARKED.finditer(text)}
    if len(letters) == 1:
        return letters.pop()
    return Unreadable.UNCLEAR if letters else Unreadable.NOTHING


_YES_NO = re.compile(r"\b(yes|true|no|false)\b", re.IGNORECASE)


def read_yes_no(text: str) -> str | Unreadable:
    """Read `yes` or `no`; `true` is yes, `false` is no, and both in one statement are `UNCLEAR`."""
    text = plain(text)
    words = {"yes" if m[1].lower() in ("yes", "true") else "no" for m in _YES_NO.finditer(text)}
    if len(words) == 1 and not (_NEGATED.search(text) and not _YES_NO.match(text.lstrip(" \"'*:("))):
        return words.pop()
    return Unreadable.UNCLEAR if words else Unreadable.NOTHING


def split_list(text: str) -> list[str]:
    """Split `[1, 2]`, `(1, 2)`, `1 and 2`, `x=1, y=2`, `[[1], [2]]` or a LaTeX matrix into elements, flat."""
    text = re.sub(r"\\(?:begin|end)\s*\{[^{}]*\}(?:\{[^{}]*\})?", " ", text)
    text = re.sub(r"\\\\(?:\[[^\]]*\])?|&|;|\band\b", ",", text)
    text = re.sub(r"\\\{|\\\}|[\[\]]", " ", re.sub(r"\\left|\\right", " ", text))
    text = re.sub(r"^\s*\(|\)\s*$|\)\s*,\s*\(", lambda m: "," if "," in m[0] else " ", text)
    text = re.sub(r"\\?\$", " ", text)
    return [p.split("=")[-1].strip() for p in text.split(",") if p.split("=")[-1].strip(" .")]


def same_float(gold: str, reply: Number) -> bool:
    """Compare an answer of TheoremQA: an integer exactly, a float up to the rounding of gold.

    A float is right within 1 % of gold. It is also right if it rounds to gold's printed digits and lies within
    4 %, the limit of TheoremQA's own evaluation: gold `0.33` accepts `1/3`, gold `4e-05` refuses `3.6e-5`.
    """
    exact = plain_number(gold.strip())
    if exact is None:
        raise ValueError(f"gold {gold!r} is not a plain number; grade it with kind `math`")
    target = exact.value
    if re.fullmatch(r"\s*[-+]?\d+\s*", gold):
        return same_number(exact, reply)
    mantissa, _, exponent = gold.strip().lower().partition("e")
    unit = Fraction(10) ** (int(exponent or "0") - len(mantissa.partition(".")[2]))
    errors = [abs(value - target) for value in (reply.value, reply.value / 100)[: 1 + reply.percent]]
    return any(
        error <= abs(target) / 100
        or (error <= unit / 2 and error <= abs(target) / 25)
        or error < Fraction(1, 10**9) > abs(target)
        for error in errors
    )


def plain_number(text: str) -> Number | None:
    """Read `text` if it is a plain number without other text, else return `None`."""
    match = _NUMBER.fullmatch(text)
    value = _value(match) if match else None
    return None if value is None or match is None else Number(value, bool(match["percent"]))
