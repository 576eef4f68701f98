"""TODO docstring."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from critique_rl.reports.columns import CHOSEN, COLUMNS, PAIRWISE_COLUMNS, SCORED_COLUMNS


def markdown_table(rows: Sequence[Mapping[str, Any]], *, intervals: bool = False) -> str:
    """The table, shares in percent; with several seeds, mean ± half of the 95 % interval.

    Args:
        rows: Rows of a result file.
        intervals: With one seed, the ends of the 95 % interval over its problems as well.
    """
    datasets = len({row["dataset"] for row in rows}) > 1
    scored = _scored(rows)
    columns = _columns(rows)
    head = ["Method", *(["Data set"] if datasets else []), *columns.values()]
    lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    for row in rows:
        cells = [_escaped(row["method"]), *([_escaped(row["dataset"])] if datasets else [])]
        cells += [
            format_metric(
                row["metrics"].get(name), percent=not scored or name == "parse_rate", interval=intervals
            )
            for name in columns
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _escaped(text: str) -> str:
    """A name of the user's in a cell of Markdown."""
    from critique_rl.reports.markdown import escape

    return escape(text)


def _columns(rows: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Metrics that a table shows, with their headings."""
    if _scored(rows):
        return SCORED_COLUMNS
    names = {name for row in rows for name in row["metrics"]}
    if "critic_acc_mean" not in names:
        return COLUMNS
    ns = sorted(int(name.rpartition("_")[2]) for name in names if name.startswith("self_critique_at_"))
    shown = [n for n in ns if n in (4, 16, 64, ns[-1])]  # of one candidate there is nothing to choose
    chosen = {f"{name}_at_{n}": f"{label}@{n}" for n in shown for name, label in CHOSEN.items()}
    return PAIRWISE_COLUMNS | chosen


def _scored(rows: Sequence[Mapping[str, Any]]) -> bool:
    return any("score" in row["metrics"] for row in rows)


def format_metric(metric: Mapping[str, Any] | None, *, percent: bool = True, interval: bool = False) -> str:
    """One cell: percent or as it is, with ± over several seeds, and a dash for what is not measured.

    Args:
        metric: As `summarise` gives it.
        percent: Whether it is a share.
        interval: Whether the ends of the interval are shown where there is one seed.
    """
    if metric is None:
        return "–"
    scale, digits = (100, 1) if percent else (1, 2)
    text = f"{scale * metric['mean']:.{digits}f}"
    if len(metric["values"]) == 1:
        if not interval:
            return text
        return f"{text} ({scale * metric['low']:.{digits}f} to {scale * metric['high']:.{digits}f})"
    return f"{text} ± {scale * (metric['high'] - metric['low']) / 2:.{digits}f}"


def caption(content: Mapping[str, Any], *, intervals: bool = False) -> str:
    """What must be said below the table: what ± means, commit and device, where the records are.

    Args:
        content: A result file.
        intervals: Whether the table shows the intervals of one seed.
    """
    seeds = content["seeds"]
    interval = (
        "one seed; in brackets the 95 % bootstrap interval over its problems"
        if len(seeds) == 1 and intervals
        else "one seed; intervals over items are in report.json"
        if len(seeds) == 1
        else f"mean ± half of the 95 % t-interval over {len(seeds)} seeds"
    )
    unit = "Scores and ratings as they are" if _scored(content["rows"]) else "Percent"
    return (
        f"{unit}; {interval}. Commit {content['commit']}, {content['versions']['device']}. One record per "
        "problem and row: `seed*/evaluate/*/*/records.jsonl`."
    )


def escape(text: object) -> str:
    r"""Text as Markdown shows it unchanged, in a line or in a cell.

    >>> print(escape("a|b <b>[x](y)"))
    a\|b \<b\>\[x\](y)
    """
    return re.sub(r"([\\`*\[\]<>|&~])", r"\\\1", re.sub(r"[^\S\u00a0]+", " ", str(text)))


def fenced(text: str, kind: str = "text") -> str:
    """Text as a block of Markdown, in a fence longer than any that it holds."""
    fence = "`" * (max([2, *(len(run) for run in re.findall("`+", text))]) + 1)
    return f"{fence}{kind}\n{text}\n{fence}"


def table(head: Sequence[str], body: Iterable[Sequence[object]], *, numbers: int = 0) -> str:
    """A Markdown table of escaped cells.

    Args:
        head: Headings.
        body: Rows.
        numbers: How many columns at the right hold numbers.
    """
    rule = [":---"] * (len(head) - numbers) + ["---:"] * numbers
    lines = [map(escape, head), rule, *(map(escape, row) for row in body)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
