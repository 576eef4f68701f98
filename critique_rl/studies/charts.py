"""TODO docstring."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from critique_rl.reports.columns import _is_share, label
from critique_rl.studies.paper import Paper
from critique_rl.studies.tables import _all_rows, _Beside, _beside, _grid, _printed
from critique_rl.types import UserError, nearest

MOST_TICKS = 8  # up to so many points of an axis are named


def draw_bars(content: Mapping[str, Any], paper: Paper, columns: Sequence[str], path: Path) -> None:
    """Draw a panel per metric: a bar per method and data set, its interval, the paper's value as hollow marker.

    Scores of another model's replies, by another scorer, have no place on the axis: they are in the table alone.

    Args:
        content: A result file.
        paper: The paper's numbers.
        columns: Metrics to show.
        path: PNG to write.

    Raises:
        UserError: No row has one of the metrics, or the table is unknown.
    """
    _grid(content, paper, columns)  # checks them
    table, beside, rows = paper.table(str(content["table"])), _beside(content, paper), _all_rows(content)
    names = list(dict.fromkeys(_line_name(row, one_dataset=True) for row in rows))
    datasets = list(dict.fromkeys(row["dataset"] for row in rows))
    plt = _pyplot()
    thick = 0.8 / max(1, len(datasets))
    figure, axes = plt.subplots(
        1,
        len(columns),
        figsize=(2.2 + 3.4 * len(columns), 1.6 + max(0.32 * len(names), 0.2 * len(rows))),
        sharey=True,
        squeeze=False,
        layout="constrained",
    )
    for axis, name in zip(axes.flat, columns, strict=True):
        scale = 100 if _is_share(name, table.unit) else 1
        elsewhere = bool(beside.note) and scale == 1 and name in ("score", "score_refine", "delta")
        for row in rows:
            which = datasets.index(row["dataset"])
            at = names.index(_line_name(row, one_dataset=True)) + (which - (len(datasets) - 1) / 2) * thick
            theirs = _printed(beside.find(row, paper), name)
            if "reason" in row:
                edge = axis.get_yaxis_transform()  # x as a share of the panel: clear of most markers
                axis.text(0.01, at, "not run", transform=edge, va="center", fontsize=8, color="0.4")
            elif name in row["metrics"]:
                metric = row["metrics"][name]
                ends = [
                    [scale * (metric["mean"] - metric["low"])],
                    [scale * (metric["high"] - metric["mean"])],
                ]
                axis.barh(
                    at,
                    scale * metric["mean"],
                    height=0.9 * thick,
                    color=f"C{which}",
                    alpha=0.75,
                    xerr=ends,
                    error_kw={"elinewidth": 1, "capsize": 2.5},
                    label=row["dataset"],
                )
            if theirs and not elsewhere:
                axis.plot(
                    scale * theirs["mean"],
                    at,
                    "D",
                    markersize=5.5,
                    markerfacecolor="white",
                    markeredgecolor="black",
                    label=_paper_label(beside),
                )
        axis.set_xlabel(label(name) + (" (percent)" if scale == 100 else ""))
        if scale == 100 and not name.startswith("delta"):
            axis.set_xlim(0, 100)  # the interval of two seeds can be many times as wide
        axis.set_axisbelow(True)
        axis.grid(axis="x", alpha=0.25)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0, 0].set_yticks(range(len(names)), names)
    # Shared, so the first method is on top in each panel; a method without a bar has its room all the same.
    axes[0, 0].set_ylim(len(names) - 0.5, -0.5)
    _finish(figure, axes, path)


def draw_lines(
    content: Mapping[str, Any],
    paper: Paper,
    columns: Sequence[str],
    path: Path,
    *,
    x_label: str | None = None,
) -> None:
    """Draw a panel per metric: a line per method and data set, intervals, the paper's values as hollow markers.

    The paper's values of another model are left out where the axis is one of steps or coefficients. Points come
    from rows with "x"; of a metric called `pass_at` or `majority_at` they are the values at each K,
    and the axis is logarithmic.

    Args:
        content: A result file.
        paper: The paper's numbers.
        columns: Metrics to show.
        path: PNG to write.
        x_label: Heading of the x axis; by default what the paper's file says, or K.

    Raises:
        UserError: There is no point of a metric, or the table is unknown.
    """
    table, beside = paper.table(str(content.get("table"))), _beside(content, paper)
    one_dataset = len({row["dataset"] for row in content["rows"]}) == 1
    lines: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for row in content["rows"]:
        lines.setdefault((row["method"], row["dataset"]), []).append(row)
    plt = _pyplot()
    figure, axes = plt.subplots(
        1, len(columns), figsize=(0.6 + 4.2 * len(columns), 4), squeeze=False, layout="constrained"
    )
    for axis, name in zip(axes.flat, columns, strict=True):
        scale = 100 if _is_share(name, table.unit) else 1
        drawn: set[float] = set()
        for i, rows in enumerate(lines.values()):
            points = sorted((p for row in rows for p in _points(row, name)), key=lambda p: p[0])
            if points:
                middle = [scale * m["mean"] for _, m in points]
                ends = [
                    [scale * (m["mean"] - m["low"]) for _, m in points],
                    [scale * (m["high"] - m["mean"]) for _, m in points],
                ]
                axis.errorbar(
                    [x for x, _ in points],
                    middle,
                    yerr=ends,
                    color=f"C{i}",
                    marker="o",
                    markersize=4,
                    capsize=2.5,
                    elinewidth=1,
                    label=_line_name({**rows[0], "x": None}, one_dataset=one_dataset),
                )
                drawn |= {x for x, _ in points}
        if not drawn:
            close = nearest(name, dict.fromkeys(n for row in content["rows"] for n in row["metrics"]))
            raise UserError(f"no row of '{content.get('table')}' has x and '{name}', or '{name}_K'. {close}")
        # Steps and coefficients of another model are on another axis; a number of samples is not.
        comparable = name.endswith("_at") or not beside.note
        for i, (method, dataset) in enumerate(lines if comparable else ()):
            theirs = [
                (x, value["mean"])
                for r in beside.rows
                if method in paper.names(r.method) and r.dataset == (beside.dataset or dataset)
                for x, value in _points({"x": r.x, "metrics": {n: _printed(r, n) for n in r.metrics}}, name)
            ]
            if theirs:
                axis.plot(
                    [x for x, _ in theirs],
                    [scale * value for _, value in theirs],
                    "D",
                    markersize=5.5,
                    markerfacecolor="none",
                    markeredgecolor=f"C{i}",
                    label=f"{_line_name({'method': method, 'dataset': dataset}, one_dataset=one_dataset)} "
                    + f"({_paper_label(beside)})",
                )
                drawn |= {x for x, _ in theirs}
        if name.endswith("_at"):
            axis.set_xscale("log", base=2)
            axis.minorticks_off()
        if name.endswith("_at") or len(drawn) <= MOST_TICKS:
            axis.set_xticks(sorted(drawn), [f"{x:g}" for x in sorted(drawn)])
        axis.set_xlabel(x_label or ("K" if name.endswith("_at") else table.x or "x"))
        axis.set_ylabel(label(name) + (" (percent)" if scale == 100 else ""))
        axis.grid(alpha=0.25)
        axis.spines[["top", "right"]].set_visible(False)
    _finish(figure, axes, path)


def drawable(content: Mapping[str, Any], names: Iterable[str]) -> list[str]:
    """Those metrics of which a result file has something to draw: as a bar, or as points of a line."""
    rows = content["rows"]
    return [name for name in names if any(name in row["metrics"] or _points(row, name) for row in rows)]


def _points(row: Mapping[str, Any], name: str) -> list[tuple[float, Mapping[str, Any]]]:
    """(x, metric) of one row."""
    if name.endswith("_at"):
        found = [(re.fullmatch(rf"{name}_(\d+)", key), value) for key, value in row["metrics"].items()]
        return [(float(match[1]), value) for match, value in found if match]
    x = row.get("x")
    return [] if x is None or name not in row["metrics"] else [(float(x), row["metrics"][name])]


def _line_name(row: Mapping[str, Any], *, one_dataset: bool) -> str:
    parts = [row["method"], *([] if one_dataset else [row["dataset"]])]
    return ", ".join([*parts, *([] if row.get("x") is None else [f"{row['x']:g}"])])


def _paper_label(beside: _Beside) -> str:
    return "paper" + (f", {beside.note}" if beside.note else "")


def _pyplot() -> Any:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    return plt


def _finish(figure: Any, axes: Any, path: Path) -> None:
    """One legend below all panels, each label once, ours before the paper's."""
    pairs = [
        pair for axis in axes.flat for pair in zip(*reversed(axis.get_legend_handles_labels()), strict=True)
    ]
    handles = dict(sorted(pairs, key=lambda pair: "paper" in pair[0]))
    columns = max(1, min(len(handles), int(figure.get_figwidth() // 2.6)))
    figure.legend(
        handles.values(), handles.keys(), loc="outside lower center", ncols=columns, frameon=False, fontsize=8
    )
    figure.savefig(path, dpi=130)
    _pyplot().close(figure)
