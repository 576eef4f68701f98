"""Comparison with Math-Verify and sympy; only workers run this module, as any call here may never return."""

from __future__ import annotations

import re
from fractions import Fraction

from latex2sympy2_extended import NormalizationConfig
from math_verify import LatexExtractionConfig, parse, verify
from sympy import Basic, Eq, Expr, MatrixBase, Set, cancel

from critique_rl.grading.read import Number, plain, plain_number, same_float, same_number, split_list
from critique_rl.grading.text import spell_out, strip_units

GUARD_TOLERANCE = 1e-5
"""Relative tolerance for two numbers that Math-Verify calls equal. Math-Verify rounds at an absolute 1e-6, so all
tiny numbers are equal to it (`1/2^{99}` and `1/2^{98}`)."""

_LATEX = [LatexExtractionConfig(normalization_config=NormalizationConfig(
    basic_latex=True, units=True, malformed_operators=True, nits=True, boxed="all", equations=False
))]  # fmt: skip

_SPELLINGS = (
    (re.compile(r"\*\*\s*(?:\((-?\w+)\)|(-?\w+))"), r"^{\1\2}"),
    (re.compile(r"(?<![a-zA-Z\\])sqrt\s*\(([^()]*)\)|√\s*\(([^()]*)\)|√\s*(\d+|[a-z])"), r"\\sqrt{\1\2\3}"),
    (re.compile(r"(?<![a-zA-Z\\])(pi|sin|cos|tan|log|ln)(?![a-zA-Z])"), r"\\\1 "),
    (re.compile(r"π"), r"\\pi "),
    (re.compile(r"≤|<="), r"\\le "),
    (re.compile(r"≥|>="), r"\\ge "),
    (re.compile(r"(?<![a-zA-Z\\])inf(?:inity)?(?![a-zA-Z])|∞"), r"\\infty "),
    (re.compile(r"\\?\$"), ""),
    (re.compile(r"(?<!\\)%"), r"\\%"),  # a bare one would begin a comment
)  # plain spellings of models, which the LaTeX parser would read as products of letters


def _parse(text: str) -> list[Basic | MatrixBase]:
    """Parse all of `text` as one formula; return `[]` on failure.

    Math-Verify alone would go on with a part of the text, and find a right answer in a list of wrong ones.
    """
    for pattern, replacement in _SPELLINGS:
        text = pattern.sub(replacement, text)
    # Time limits of Math-Verify need signals and cannot stop C code; the pool's clock is the limit here.
    return parse(
        f"${spell_out(strip_units(text))}$", _LATEX, fallback_mode="no_fallback", parsing_timeout=None
    )


def _constant(expression: Basic | MatrixBase) -> Expr | None:
    """Return the numerical value of a constant, `None` for any other expression."""
    if isinstance(expression, Eq):
        expression = expression.rhs
    if not isinstance(expression, Expr) or not expression.is_number:
        return None
    value = expression.doit().evalf(15)
    return value if value.is_number and value.is_finite else None


def _far_apart(gold: Basic | MatrixBase, answer: Basic | MatrixBase) -> bool:
    """Say whether both are numbers that differ by more than `GUARD_TOLERANCE`."""
    a, b = _constant(gold), _constant(answer)
    return a is not None and b is not None and bool(abs(a - b) > GUARD_TOLERANCE * max(abs(a), abs(b)))


def _unwrap(expressions: list[Basic | MatrixBase]) -> list[Basic | MatrixBase]:
    """Replace `x \\in [-2, 7]`, which Math-Verify parses as an equation, by the set."""
    return [e.rhs if isinstance(e, Eq) and isinstance(e.rhs, Set) else e for e in expressions]


def _same_curve(gold: Basic | MatrixBase, answer: Basic | MatrixBase) -> bool:
    """Say whether two equations in several unknowns differ by a constant factor, as `x+2y=4` and `2x+4y=8`.

    With one unknown the solution is asked for: `3x=15` is no answer where `x=5` is.
    """
    if not (isinstance(gold, Eq) and isinstance(answer, Eq)) or len(gold.free_symbols) < 2:
        return False
    if gold.free_symbols != answer.free_symbols:
        return False
    factor = cancel((gold.lhs - gold.rhs) / (answer.lhs - answer.rhs))
    return bool(factor.is_number and factor.is_finite and factor != 0)


def same_math(gold: str, answer: str) -> bool:
    """Say whether two LaTeX answers are equal; not symmetric, as Math-Verify follows the form of gold."""
    target, stated = _unwrap(_parse(gold)), _unwrap(_parse(answer))
    if not target or not stated:
        return False  # all that is known: the strings differ
    if isinstance(stated[0], Eq) and _far_apart(stated[0].lhs, stated[0].rhs):
        return False  # `5 = 7` is no answer, though Math-Verify reads 7
    if len(target) == len(stated) == 1 and _same_curve(target[0], stated[0]):
        return True
    if not verify(target, stated, allow_set_relation_comp=True, timeout_seconds=None):
        return False
    return "%" in gold + answer or not _far_apart(target[0], stated[0])


def same_values(gold: list[str], answer: str, floats: bool) -> bool:
    """Say whether the values in `answer` are the plain numbers `gold`, in order."""
    parts = split_list(answer) if len(gold) > 1 else [answer]
    if len(parts) != len(gold):
        return False
    for gold_part, part in zip(gold, parts, strict=True):
        formulas = _parse(re.sub(r"(?<!\*)\*(?!\*)", r"\\cdot ", plain(part)))
        value = _constant(formulas[0]) if formulas else None
        if value is None or not value.is_real:
            return False
        # 12 digits: evalf gives 3.0000000000000004 for an exact 3, and that is no integer
        number = Number(Fraction(f"{float(value):.12g}"))
        target = plain_number(gold_part)
        if target is None or not (same_float(gold_part, number) if floats else same_number(target, number)):
            return False
    return True


def judge(task: str, gold: str, answer: str) -> bool:
    """Answer one `prepare.Question`."""
    if task == "named":
        return all(same_math(*pair) for pair in zip(gold.split("\n"), answer.split("\n"), strict=True))
    if task == "math":
        return same_math(gold, answer)
    return same_values(gold.split(",") if task == "floats" else [gold], answer, floats=task == "floats")
