"""Result tables in Markdown, with their cells and the caption below them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from critique_rl.markdown import table
from critique_rl.reports.columns import columns_of, is_scored, is_share

ROUNDING = 1e-9
"""Largest difference of values that only the rounding of floats made."""
ALIKE = "without ±: the same for all seeds, and in brackets, where known, the 95 % interval over problems"
"""Part of a caption on values that do not differ between seeds; they are not exact for that."""


def markdown_table(rows: Sequence[Mapping[str, Any]], *, intervals: bool = False) -> str:
    """Write a table of a result file's rows: shares in percent, seeds as mean ± half of the 95 % interval.

    With `intervals`, one seed gets the ends of the 95 % interval over its problems.
    """
    several = len({row["dataset"] for row in rows}) > 1
    unit = "score" if is_scored(rows) else "percent"
    columns = columns_of(rows)
    head = ["Method", *(["Data set"] if several else []), *columns.values()]
    body = [
        [row["method"], *([row["dataset"]] if several else [])]
        + [
            format_metric(row["metrics"].get(name), percent=is_share(name, unit), interval=intervals)
            for name in columns
        ]
        for row in rows
    ]
    return table(head, body)


def format_metric(metric: Mapping[str, Any] | None, *, percent: bool = True, interval: bool = False) -> str:
    """Format one cell: percent or the plain value, ± over seeds that differ, a dash where nothing was measured.

    Seeds that do not differ get the ends of the interval over problems, if the result file has it.

    Args:
        metric: `mean`, `low`, `high` and `values`, as `summarise` returns them.
        percent: Whether the metric is a share.
        interval: Whether to add the ends of the interval where there is one seed.
    """
    if metric is None:
        return "–"
    scale, digits = (100, 1) if percent else (1, 2)
    text = f"{scale * metric['mean']:.{digits}f}"
    values = metric["values"]
    if max(values) - min(values) > ROUNDING:
        return f"{text} ± {scale * (metric['high'] - metric['low']) / 2:.{digits}f}"
    if (len(values) == 1 and not interval) or metric["high"] - metric["low"] <= ROUNDING:
        return text
    return f"{text} ({scale * metric['low']:.{digits}f} to {scale * metric['high']:.{digits}f})"


def caption(content: Mapping[str, Any], *, intervals: bool = False) -> str:
    """Write the caption of a result file's table: unit, meaning of ±, commit, device, place of the records.

    `intervals` says whether the table shows the intervals of one seed.
    """
    seeds = content["seeds"]
    if len(seeds) > 1:
        interval = f"mean ± half of the 95 % t-interval over {len(seeds)} seeds; {ALIKE}"
    elif intervals:
        interval = "one seed; in brackets the 95 % bootstrap interval over its problems"
    else:
        interval = "one seed; intervals over items are in report.json"
    unit = "Scores and ratings as they are" if is_scored(content["rows"]) else "Percent"
    return (
        f"{unit}; {interval}. Commit {content['commit']}, {content['versions']['device']}. One record per "
        "problem and row: `seed*/evaluate/*/*/records.jsonl`."
    )
