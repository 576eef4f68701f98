"""Markdown that shows foreign text unchanged: tables, escaped text, code blocks."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence


def escape(text: object) -> str:
    r"""Escape text so that Markdown shows it unchanged, in a line or in a cell.

    >>> print(escape("a|b <b>[x](y)"))
    a\|b \<b\>\[x\](y)
    """
    return re.sub(r"([\\`*\[\]<>|&~])", r"\\\1", re.sub(r"[^\S\u00a0]+", " ", str(text)))


def fenced(text: str, kind: str = "text") -> str:
    """Put text into a code block, with a fence longer than any run of backticks inside."""
    fence = "`" * (max([2, *(len(run) for run in re.findall("`+", text))]) + 1)
    return f"{fence}{kind}\n{text}\n{fence}"


def table(
    head: Sequence[object],
    body: Iterable[Sequence[object]],
    *,
    numbers: int | None = None,
    raw: bool = False,
) -> str:
    """Write a Markdown table.

    Args:
        head: Headings.
        body: Rows of cells.
        numbers: Number of right-aligned columns, counted from the right; None sets no alignment.
        raw: Cells are Markdown already: only `|` and line ends are escaped.

    >>> print(table(["a", "b"], [["x", 1]], numbers=1))
    | a | b |
    | :--- | ---: |
    | x | 1 |
    """
    rule = ["---"] * len(head) if numbers is None else [":---"] * (len(head) - numbers) + ["---:"] * numbers
    cell = (lambda value: str(value).replace("|", "\\|").replace("\n", " ")) if raw else escape
    lines = [map(cell, head), rule, *(map(cell, row) for row in body)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
