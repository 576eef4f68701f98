"""Result files as pictures beside the paper's numbers: bars by method; lines over steps, coefficients, samples."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from critique_rl.reports.columns import is_share, label
from critique_rl.reports.pictures import colours, panels, plain, save
from critique_rl.studies.paper import Paper
from critique_rl.studies.reference import all_rows, printed, reference_of
from critique_rl.studies.tables import grid
from critique_rl.types import UserError, nearest

MOST_TICKS = 8
"""Most points of an axis that are named one by one."""
_HOLLOW: dict[str, Any] = {"marker": "D", "linestyle": "none", "markersize": 5.5}

Interval = tuple[float, float, float, float]
"""x, the mean, and both ends of its interval."""


def draw_bars(content: Mapping[str, Any], paper: Paper, columns: Sequence[str], path: Path) -> None:
    """Draw a panel per metric: a bar per method and data set, its interval, the paper's value as hollow marker.

    The paper's scores by another scorer do not fit on the axis; only the table has them.

    Raises:
        UserError: No row has one of the metrics, or the table is unknown.
    """
    grid(content, paper, columns)  # refuses unknown metrics and tables
    unit, reference = paper.table(str(content["table"])).unit, reference_of(content, paper)
    rows = all_rows(content)
    names = list(dict.fromkeys(_bar_name(row) for row in rows))
    datasets = list(dict.fromkeys(row["dataset"] for row in rows))
    colour, thick = colours(datasets), 0.8 / max(1, len(datasets))
    height = 1.6 + max(0.32 * len(names), 0.2 * len(rows))
    figure, axes = panels(1, len(columns), (2.2 + 3.4 * len(columns), height), sharey=True)
    for axis, metric in zip(axes, columns, strict=True):
        scale = 100 if is_share(metric, unit) else 1
        other_scorer = bool(reference.note) and scale == 1 and metric in ("score", "score_refine", "delta")
        for row in rows:
            shift = datasets.index(row["dataset"]) - (len(datasets) - 1) / 2
            y = names.index(_bar_name(row)) + shift * thick
            _bar(axis, row, metric, y, scale, height=0.9 * thick, color=colour[row["dataset"]])
            theirs = printed(reference.find(row), metric)
            if theirs and not other_scorer:
                face = {"markerfacecolor": "white", "markeredgecolor": "black"}
                axis.plot(scale * theirs["mean"], y, label=reference.label, **_HOLLOW, **face)
        axis.set_xlabel(_with_unit(metric, scale))
        if scale == 100 and not metric.startswith("delta"):
            axis.set_xlim(0, 100)  # the interval of two seeds can be many times as wide
        axis.set_axisbelow(True)
        plain(axis, axis="x")
    axes[0].set_yticks(range(len(names)), names)
    # The y axis is shared and reversed: the first method is on top, and a method without a bar keeps its room.
    axes[0].set_ylim(len(names) - 0.5, -0.5)
    save(figure, axes, path, dpi=130, fontsize=8)


def _bar(axis: Any, row: Mapping[str, Any], metric: str, y: float, scale: int, **style: Any) -> None:
    if "reason" in row:
        edge = axis.get_yaxis_transform()  # x as a share of the panel, away from most markers
        axis.text(0.01, y, "not run", transform=edge, va="center", fontsize=8, color="0.4")
    elif metric in row["metrics"]:
        value = row["metrics"][metric]
        mean, low, high = (scale * value[key] for key in ("mean", "low", "high"))
        whisker = {"xerr": [[mean - low], [high - mean]], "error_kw": {"elinewidth": 1, "capsize": 2.5}}
        axis.barh(y, mean, alpha=0.75, label=row["dataset"], **whisker, **style)


def draw_lines(
    content: Mapping[str, Any],
    paper: Paper,
    columns: Sequence[str],
    path: Path,
    *,
    x_label: str | None = None,
) -> None:
    """Draw a panel per metric: a line per method and data set, intervals, the paper's values as hollow markers.

    Points come from rows with "x". A metric called `pass_at` or `majority_at` has a value for each K, and the axis
    is logarithmic. Over steps or coefficients the paper's values of another model are left out.

    Errors as of `draw_bars`; `x_label` heads the x axis, by default as in the paper's file, or K.
    """
    table, reference = paper.table(str(content.get("table"))), reference_of(content, paper)
    one_dataset = len({row["dataset"] for row in content["rows"]}) == 1
    lines: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for row in content["rows"]:
        lines.setdefault((row["method"], row["dataset"]), []).append(row)
    names = {key: key[0] if one_dataset else ", ".join(key) for key in lines}
    colour = colours(names.values())
    figure, axes = panels(1, len(columns), (0.6 + 4.2 * len(columns), 4))
    for axis, metric in zip(axes, columns, strict=True):
        scale, by_k = 100 if is_share(metric, table.unit) else 1, metric.endswith("_at")
        ours = {key: _points(rows, metric, scale) for key, rows in lines.items()}
        if not any(ours.values()):
            known = dict.fromkeys(n for row in content["rows"] for n in row["metrics"])
            where = f"no row of '{content.get('table')}' has x and '{metric}', or '{metric}_K'."
            raise UserError(f"{where} {nearest(metric, known)}")
        theirs: dict[tuple[str, str], list[Interval]] = {}
        if by_k or not reference.note:  # K means the same for every model, a step does not
            for key in lines:
                of_line = reference.of_line(*key)
                rows = [{"x": r.x, "metrics": {n: printed(r, n) for n in r.metrics}} for r in of_line]
                theirs[key] = _points(rows, metric, scale)
        for key, points in ours.items():
            draw_intervals(axis, points, color=colour[names[key]], label=names[key])
        for key, points in theirs.items():
            if points:
                face = {"markerfacecolor": "none", "markeredgecolor": colour[names[key]]}
                name = f"{names[key]} ({reference.label})"
                axis.plot([p[0] for p in points], [p[1] for p in points], label=name, **_HOLLOW, **face)
        ticks = {p[0] for p in chain(*ours.values(), *theirs.values())}
        name_ticks(axis, ticks if by_k or len(ticks) <= MOST_TICKS else (), logarithmic=by_k)
        axis.set_xlabel(x_label or ("K" if by_k else table.x or "x"))
        axis.set_ylabel(_with_unit(metric, scale))
        plain(axis)
    save(figure, axes, path, dpi=130, fontsize=8)


def drawable(content: Mapping[str, Any], names: Iterable[str]) -> list[str]:
    """Metrics that a result file can draw, as bars or as points of a line."""
    rows = content["rows"]
    return [name for name in names if any(name in row["metrics"] for row in rows) or _points(rows, name)]


def _points(rows: Iterable[Mapping[str, Any]], metric: str, scale: int = 1) -> list[Interval]:
    """Points of a line, in the order of x."""
    values: list[tuple[float, Mapping[str, Any]]] = []
    for row in rows:
        if metric.endswith("_at"):
            by_k = {re.fullmatch(rf"{metric}_(\d+)", name): value for name, value in row["metrics"].items()}
            values += [(float(match[1]), value) for match, value in by_k.items() if match]
        elif row.get("x") is not None and metric in row["metrics"]:
            values.append((float(row["x"]), row["metrics"][metric]))
    points = [(x, scale * v["mean"], scale * v["low"], scale * v["high"]) for x, v in values]
    return sorted(points, key=lambda point: point[0])


def _bar_name(row: Mapping[str, Any]) -> str:
    return row["method"] + ("" if row.get("x") is None else f", {row['x']:g}")


def _with_unit(metric: str, scale: int) -> str:
    return label(metric) + (" (percent)" if scale == 100 else "")


# -- shared with notebooks ------------------------------------------------------------------------------------


def draw_intervals(axis: Any, points: Sequence[Interval], **style: Any) -> None:
    """Draw a line through points, with an interval at each."""
    if points:
        x, mean, low, high = zip(*points, strict=True)
        ends = [
            [m - e for m, e in zip(mean, low, strict=True)],
            [e - m for m, e in zip(mean, high, strict=True)],
        ]
        axis.errorbar(x, mean, yerr=ends, marker="o", markersize=4, capsize=2.5, elinewidth=1, **style)


def name_ticks(axis: Any, ticks: Iterable[float], *, logarithmic: bool) -> None:
    """Name these points of the x axis, which is one of powers of two if `logarithmic`."""
    if logarithmic:
        axis.set_xscale("log", base=2)
        axis.minorticks_off()
    if ticks:
        axis.set_xticks(sorted(ticks), [f"{x:g}" for x in sorted(ticks)])
