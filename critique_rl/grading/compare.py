"""Compare answers with Math-Verify and sympy; only for workers, because any line here may never return."""

from __future__ import annotations

import re
from fractions import Fraction

from latex2sympy2_extended import NormalizationConfig
from math_verify import LatexExtractionConfig, parse, verify
from sympy import Basic, Eq, Expr, MatrixBase, Set

from critique_rl.grading.read import Number, plain, plain_number, same_float, same_number, split_list
from critique_rl.grading.text import strip_units

GUARD_TOLERANCE = 1e-5
"""Math-Verify rounds at an absolute 1e-6, for which all tiny numbers are equal (`1/2^{99}` and `1/2^{98}`):
two numbers that it calls equal must also agree to this relative tolerance."""

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
)  # plain spellings that models write and the LaTeX parser takes for products of letters


def _parse(text: str) -> list[Basic | MatrixBase]:
    """Parse the whole of `text` as one formula; `[]` if that fails.

    Math-Verify by itself would go on to parse a part of it, and find a right answer in a list of wrong ones.
    """
    for pattern, replacement in _SPELLINGS:
        text = pattern.sub(replacement, text)
    # Its own time limits need signals and cannot stop C code; the clock of the pool is the limit here.
    return parse(f"${strip_units(text)}$", _LATEX, fallback_mode="no_fallback", parsing_timeout=None)


def _constant(expression: Basic | MatrixBase) -> Expr | None:
    """Return the numerical value of a constant, `None` for everything else."""
    if isinstance(expression, Eq):
        expression = expression.rhs
    if not isinstance(expression, Expr) or not expression.is_number:
        return None
    value = expression.doit().evalf(15)
    return value if value.is_number and value.is_finite else None


def _far_apart(gold: Basic | MatrixBase, answer: Basic | MatrixBase) -> bool:
    """Whether both are numbers that differ by more than `GUARD_TOLERANCE`."""
    a, b = _constant(gold), _constant(answer)
    return a is not None and b is not None and bool(abs(a - b) > GUARD_TOLERANCE * max(abs(a), abs(b)))


def _unwrap(expressions: list[Basic | MatrixBase]) -> list[Basic | MatrixBase]:
    """Read `x \\in [-2, 7]`, which is parsed as an equation, as the set."""
    return [e.rhs if isinstance(e, Eq) and isinstance(e.rhs, Set) else e for e in expressions]


def same_math(gold: str, answer: str) -> bool:
    """Whether two LaTeX answers are equal; not symmetric, Math-Verify follows the form of gold."""
    wanted, given = _unwrap(_parse(gold)), _unwrap(_parse(answer))
    if not wanted or not given:
        return False  # different strings, which is all that is known of them
    if isinstance(given[0], Eq) and _far_apart(given[0].lhs, given[0].rhs):
        return False  # `5 = 7` is not an answer, though Math-Verify reads it as 7
    if not verify(wanted, given, allow_set_relation_comp=True, timeout_seconds=None):
        return False
    return "%" in gold + answer or not _far_apart(wanted[0], given[0])


def same_values(gold: list[str], answer: str, floats: bool) -> bool:
    """Whether `answer` works out to the plain numbers `gold`, in order."""
    parts = split_list(answer) if len(gold) > 1 else [answer]
    if len(parts) != len(gold):
        return False
    for wanted, part in zip(gold, parts, strict=True):
        given = _parse(re.sub(r"(?<!\*)\*(?!\*)", r"\\cdot ", plain(part)))
        value = _constant(given[0]) if given else None
        if value is None or not value.is_real:
            return False
        # 12 digits: evalf gives 3.0000000000000004 for an exact 3, which is not an integer any more
        number = Number(Fraction(f"{float(value):.12g}"))
        target = plain_number(wanted)
        if target is None or not (same_float(wanted, number) if floats else same_number(target, number)):
            return False
    return True


def judge(task: str, gold: str, answer: str) -> bool:
    """Answer one `prepare.Question`."""
    if task == "math":
        return same_math(gold, answer)
    return same_values(gold.split(",") if task == "floats" else [gold], answer, floats=task == "floats")
