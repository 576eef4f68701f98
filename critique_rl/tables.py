"""Result files beside the paper's numbers: tables, charts, and what our results say of the paper's claims.

A result file is what `critique_rl.report.result` gives and, from a table script, "table" (the script's stem),
"preset", "dirty", "prompts" (name and version) and "not_run" (`[{"method", "dataset", "reason"}]`). A row holds
"x" where a method has several: an RL step, a coefficient. The paper's numbers and the claims are data, in
`experiments/paper.yaml`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml

from critique_rl.config import build, differences
from critique_rl.report import COLUMNS, PAIRWISE_COLUMNS, SCORED_COLUMNS, format_metric, t_interval
from critique_rl.types import UserError, nearest

LOCALISATION_COLUMNS = {
    "first_error_acc": "First error found",
    "flagged_early": "flags earlier",
    "flagged_late": "flags later",
    "not_flagged": "flags nothing",
    "right_unflagged": "Right ones not flagged",
    "consistent_rate": "steps agree with verdict",
}
MOST_TICKS = 8  # up to so many points of an axis are named
UNITS = ("percent", "score")
NOT_SETTINGS = ("seeds", "output", "actor_server")
"""Of a configuration: which seeds, where to write, where the actor is served. They may differ within one table."""
OF_SEEDS = ("curves", "examples", "costs", "health")
"""Of a result file: what is of its own seeds and left out where files are joined."""


@dataclass(frozen=True)
class PaperRow:
    """One method on one data set with one model, as printed.

    Attributes:
        method: The paper's name.
        dataset: Our name of the data set.
        model: The model that critic and, without `actor`, actor start from.
        metrics: Metric names of `critique_rl.metrics.metrics`; shares as fractions of 1.
        actor: The actor, where it is another model.
        x: RL step or coefficient, where a method has several rows.
    """

    method: str
    dataset: str
    model: str
    metrics: dict[str, float]
    actor: str | None = None
    x: float | None = None


@dataclass(frozen=True)
class PaperTable:
    """A table or figure of the paper; without rows if it prints no numbers.

    Attributes:
        source: Where the numbers stand.
        rows: The numbers; the first row's model and data set are the table's reference.
        notes: What is odd about them.
        unit: `percent`, or `score` where delta is a difference of scores.
        x: What `x` of its rows is.
    """

    source: str
    rows: list[PaperRow]
    notes: list[str] = field(default_factory=list)
    unit: str = "percent"
    x: str | None = None


@dataclass(frozen=True)
class Side:
    """A number in a result file.

    Attributes:
        method: Row, by the paper's name or ours.
        dataset: Its data set; None takes each that the result has.
        metric: Another metric than the claim's.
        x: A value, `first` or `last`.
    """

    method: str
    dataset: str | None = None
    metric: str | None = None
    x: Any = None


@dataclass(frozen=True)
class Claim:
    """`left` minus `right` is above `at_least`.

    Attributes:
        id: Its name.
        text: What is claimed.
        stem: The table that shows it.
        metric: What is compared.
        left: The number that should be larger.
        right: The other one.
        at_least: Bound of the difference, in the metric's unit.
        paper: The paper's difference on the table's reference model and data set.
    """

    id: str
    text: str
    stem: str
    metric: str
    left: Side
    right: Side
    at_least: float = 0.0
    paper: float | None = None


@dataclass(frozen=True)
class Paper:
    """All that `experiments/paper.yaml` holds.

    Attributes:
        source: Which version of the paper.
        ours: The paper's name of a method -> ours, where they differ.
        tables: By stem of script and result file.
        claims: What our results are to show.
    """

    source: str
    ours: dict[str, str]
    tables: dict[str, PaperTable]
    claims: list[Claim]

    def names(self, method: str) -> set[str]:
        """The names that rows of the paper's `method` may have: `Critique-RL, oracle` is `Stage I+II, oracle`."""
        head, comma, rest = method.partition(", ")
        return {method, self.ours.get(head, head) + comma + rest}

    def table(self, stem: str) -> PaperTable:
        """The table of a stem.

        Raises:
            UserError: There is none.
        """
        if stem not in self.tables:
            raise UserError(f"table '{stem}' is not in the paper's file. {nearest(stem, self.tables)}")
        return self.tables[stem]


def load_paper(path: str | Path) -> Paper:
    """Read the paper's numbers and the claims.

    Raises:
        UserError: No such file, no valid YAML, an unknown or missing field, a value of the wrong type; a row that
            occurs twice, a share that is no fraction of 1, a claim of an unknown table. Names table and row.
    """
    path = Path(path)
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(f"no file of the paper's numbers at {path}.") from error
    except yaml.YAMLError as error:
        raise UserError(f"{path} is not valid YAML: {error}") from error
    if not isinstance(data, dict):
        raise UserError(f"{path} holds no mapping with tables and claims.")
    paper: Paper = build(Paper, data, str(path))
    for stem, table in paper.tables.items():
        _check_table(table, f"{path}: tables.{stem}")
    ids = [claim.id for claim in paper.claims]
    for i, claim in enumerate(paper.claims):
        where = f"{path}: claims[{i}] ('{claim.id}')"
        if ids.index(claim.id) < i:
            raise UserError(f"{where}: claims[{ids.index(claim.id)}] has this id too; give it another.")
        if claim.stem not in paper.tables:
            raise UserError(f"{where}: stem '{claim.stem}' is unknown. {nearest(claim.stem, paper.tables)}")
        for name, side in (("left", claim.left), ("right", claim.right)):
            number = isinstance(side.x, int | float) and not isinstance(side.x, bool)
            if side.x not in (None, "first", "last") and not number:
                raise UserError(f"{where}: {name}.x must be a number, 'first' or 'last', got {side.x!r}.")
    return paper


def _check_table(table: PaperTable, where: str) -> None:
    if table.unit not in UNITS:
        raise UserError(f"{where}.unit '{table.unit}' is unknown. {nearest(table.unit, UNITS)}")
    seen: dict[tuple[Any, ...], int] = {}
    for i, row in enumerate(table.rows):
        here = f"{where}.rows[{i}] ('{row.method}', {row.dataset}, {row.model})"
        first = seen.setdefault((row.method, row.dataset, row.model, row.actor, row.x), i)
        if first < i:
            raise UserError(f"{here} is rows[{first}] again; remove one or give them different x.")
        if row.x is not None and table.x is None:
            raise UserError(f"{here} has x, but {where}.x does not say what that is.")
        for name, value in row.metrics.items():
            if _is_share(name, table.unit) and not -1 <= value <= 1:
                raise UserError(
                    f"{here}: {name} is {value}; shares are fractions of 1, so divide percent by 100."
                )


def load_result(path: str | Path) -> dict[str, Any]:
    """Read a result file.

    Raises:
        UserError: It is no JSON, or a row has not the documented shape, or not one value for each seed.
    """
    path = Path(path)
    try:
        content: Any = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path} is not valid JSON: {error}. Make it anew with its script.") from error
    missing = [key for key in ("config", "commit", "versions", "seeds", "rows") if key not in content]
    if missing:
        raise UserError(
            f"{path} is no result file: {', '.join(missing)} missing. Make it anew with its script."
        )
    for i, row in enumerate(content["rows"]):
        missing = [key for key in ("method", "dataset", "metrics") if key not in row]
        if missing:
            raise UserError(f"{path}: rows[{i}] lacks {', '.join(missing)}. Make it anew with its script.")
        for name, metric in row["metrics"].items():
            values = metric.get("values", ())
            if len(values) != len(content["seeds"]) or not {"mean", "low", "high"} <= metric.keys():
                raise UserError(
                    f"{path}: rows[{i}] ('{row['method']}', {row['dataset']}): {name} needs mean, low, high and "
                    f"one value for each of {len(content['seeds'])} seeds, got {len(values)}. Make it anew with "
                    "its script."
                )
    return dict(content)


def combine(results: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Join result files of one table that were run with different seeds.

    A row or metric that one of them lacks is left out: it would be a mean over other seeds than its neighbours.
    A row left out is listed under "not_run".

    Args:
        results: Contents as `load_result` gives them.

    Raises:
        UserError: They differ in table, preset, prompt version or a setting other than `NOT_SETTINGS`, or two
            have a seed in common. Names the difference.
    """
    first, *others = results
    name = f"result files of '{first.get('table')}'"
    for other in others:
        found = differences(_identity(first), _identity(other))
        if found:
            raise UserError(f"{name} cannot be mixed, they differ:\n  " + "\n  ".join(found))
    seeds = [seed for content in results for seed in content["seeds"]]
    twice = sorted({seed for seed in seeds if seeds.count(seed) > 1})
    if twice:
        raise UserError(f"{name} cannot be mixed, seed {twice[0]} is in two of them; remove one.")
    if not others:
        return dict(first)
    by_key = [{_key(row): row for row in content["rows"]} for content in results]
    rows, not_run = [], {(r["method"], r["dataset"]): r for c in results for r in c.get("not_run", ())}
    for key in dict.fromkeys(key for index in by_key for key in index):
        parts = [index[key] for index in by_key if key in index]
        if len(parts) < len(results):
            lacking = [s for c, i in zip(results, by_key, strict=True) if key not in i for s in c["seeds"]]
            reason = f"no row for seed {', '.join(map(str, lacking))}"
            not_run[key[:2]] = {"method": key[0], "dataset": key[1], "reason": reason}
            continue
        shared = [n for n in parts[0]["metrics"] if all(n in part["metrics"] for part in parts)]
        measured = {
            n: t_interval([v for part in parts for v in part["metrics"][n]["values"]]) for n in shared
        }
        records = [record for part in parts for record in part.get("records", ())]
        rows.append({**parts[0], "metrics": measured, "records": records})
    commits = dict.fromkeys(str(content["commit"]) for content in results)
    return {
        **{key: value for key, value in first.items() if key not in OF_SEEDS},
        "seeds": seeds,
        "commit": ", ".join(commits),
        "dirty": any(content.get("dirty") for content in results),
        "rows": rows,
        "not_run": list(not_run.values()),
    }


def _identity(content: Mapping[str, Any]) -> dict[str, Any]:
    settings = {key: value for key, value in content["config"].items() if key not in NOT_SETTINGS}
    prompts = content.get("prompts", content["versions"].get("prompts"))
    return {key: content.get(key) for key in ("table", "preset")} | {"config": settings, "prompts": prompts}


def _key(row: Mapping[str, Any]) -> tuple[str, str, float | None]:
    return row["method"], row["dataset"], row.get("x")


# -- tables -----------------------------------------------------------------------------------------------


def label(metric: str) -> str:
    """Heading of a metric.

    >>> label("acc_refine"), label("pass_at_10"), label("mse_dis")
    ('Acc@Refine', 'Pass@10', 'MSE@Dis')
    """
    at = re.fullmatch(r"(\w+)_at(?:_(\d+))?", metric)
    if at:
        return f"{at[1].replace('_', ' ').capitalize()}@{at[2] or 'K'}"
    for known in (COLUMNS, SCORED_COLUMNS, PAIRWISE_COLUMNS, LOCALISATION_COLUMNS):
        if metric in known:
            return known[metric]
    return metric.replace("_", " ")


def format_cell(metric: Mapping[str, Any] | None, name: str, unit: str = "percent") -> str:
    """One cell: shares as `report.format_metric` does, scores and counts as they are with two decimals."""
    return format_metric(metric, percent=_is_share(name, unit))


def _is_share(name: str, unit: str) -> bool:
    plain = name.startswith(("score", "mse_", "mae_", "tokens", "steps", "n_"))
    return not plain and not (unit == "score" and name == "delta")


def _alike(one: str | None, other: str | None) -> bool:
    """Whether two names are one model: hub names carry an owner, and the paper leaves hyphens out."""
    plain = [re.sub(r"[^a-z0-9.]", "", (name or "").rsplit("/", 1)[-1].lower()) for name in (one, other)]
    return plain[0] == plain[1]


@dataclass(frozen=True)
class _Beside:
    """The paper's rows to be shown beside a result, and what must be said of them."""

    rows: Sequence[PaperRow]
    note: str  # "" if model and data set are the same
    dataset: str | None  # the one data set compared with, if the paper has none of ours

    def find(self, row: Mapping[str, Any], paper: Paper) -> PaperRow | None:
        dataset = self.dataset or row["dataset"]
        return next(
            (
                r
                for r in self.rows
                if row["method"] in paper.names(r.method) and (r.dataset, r.x) == (dataset, row.get("x"))
            ),
            None,
        )


def _beside(content: Mapping[str, Any], paper: Paper) -> _Beside:
    """Rows of the result's own models if the paper has them, else of the table's reference."""
    rows = paper.table(str(content.get("table"))).rows
    if not rows:
        return _Beside((), "", None)
    config = content["config"]
    actor = (config.get("actor") or {}).get("model")
    own = [r for r in rows if _alike(r.model, config.get("base")) and _alike(r.actor, actor)]
    shown = own or [r for r in rows if (r.model, r.actor) == (rows[0].model, rows[0].actor)]
    note = "" if own else shown[0].model + (f" with {shown[0].actor}" if shown[0].actor else "")
    if {row["dataset"] for row in _all_rows(content)} & {r.dataset for r in shown}:
        return _Beside(shown, note, None)
    return _Beside(shown, f"{note} on {shown[0].dataset}".strip(), shown[0].dataset)


def _all_rows(content: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [*content["rows"], *content.get("not_run", ())]


def _grid(
    content: Mapping[str, Any], paper: Paper, columns: Sequence[str]
) -> tuple[list[str], list[list[str]]]:
    """Head and body as text: of each column ours, then the paper's if it prints that metric."""
    table, beside = paper.table(str(content.get("table"))), _beside(content, paper)
    rows = _all_rows(content)
    known = dict.fromkeys(n for row in content["rows"] for n in row["metrics"])
    known |= dict.fromkeys([n for r in table.rows for n in r.metrics] + list(COLUMNS))
    for name in columns if content["rows"] else ():
        if name not in known:
            raise UserError(
                f"column '{name}' is in no row of '{content.get('table')}'. {nearest(name, known)}"
            )
    with_dataset = len({row["dataset"] for row in rows}) > 1
    with_x = any(row.get("x") is not None for row in rows)
    printed = {name for r in beside.rows for name in r.metrics}
    head = ["Method", *(["Data set"] if with_dataset else []), *([table.x or "x"] if with_x else [])]
    for name in columns:
        head.append(label(name))
        if name in printed:
            head.append(f"{label(name)} (paper{', ' + beside.note if beside.note else ''})")
    body = []
    for row in rows:
        line = [row["method"], *([row["dataset"]] if with_dataset else [])]
        if with_x:
            line.append("–" if row.get("x") is None else f"{row['x']:g}")
        theirs = beside.find(row, paper)
        for i, name in enumerate(columns):
            if "reason" in row:
                line.append(f"not run ({row['reason']})" if i == 0 else "–")
            else:
                line.append(format_cell(row["metrics"].get(name), name, table.unit))
            if name in printed:
                line.append(format_cell(_printed(theirs, name), name, table.unit))
        body.append(line)
    return head, body


def _printed(row: PaperRow | None, name: str) -> dict[str, Any] | None:
    return t_interval([row.metrics[name]]) if row and name in row.metrics else None


def _footer(content: Mapping[str, Any], paper: Paper) -> list[str]:
    """Sentences that belong below each table."""
    table, seeds = paper.table(str(content.get("table"))), content["seeds"]
    spread = (
        f"one seed ({seeds[0]}), intervals over items are in the result file"
        if len(seeds) == 1
        else f"mean ± half of the 95 % t-interval over {len(seeds)} seeds ({', '.join(map(str, seeds))})"
    )
    commit = str(content["commit"])
    if content.get("dirty") and not commit.endswith("-dirty"):
        commit += "-dirty"
    origin = f"Preset {content.get('preset')}, commit {commit}, {content['versions'].get('device')}."
    unit = "Percent" if table.unit == "percent" else "Shares in percent, others in their own unit"
    lines = [f"{unit}; {spread}. {origin}"]
    if table.rows:
        lines.append(f"Paper: {paper.source}, {table.source}.")
        lines += [f"On the paper's numbers: {note}." for note in table.notes]
    return lines


def markdown(content: Mapping[str, Any], paper: Paper, columns: Sequence[str]) -> str:
    """The result as a Markdown table beside the paper's numbers, with what must be said below it.

    Args:
        content: A result file.
        paper: The paper's numbers.
        columns: Metrics to show.

    Raises:
        UserError: No row has one of the metrics, or the table is unknown.
    """
    head, body = _grid(content, paper, columns)
    from critique_rl.reports.page import escape

    lines = [list(map(escape, line)) for line in (head, *body)]
    lines.insert(1, ["---"] * len(head))
    return (
        "\n".join("| " + " | ".join(line) + " |" for line in lines)
        + "\n\n"
        + escape(" ".join(_footer(content, paper)))
    )


_LATEX = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    **{character: "\\" + character for character in "&%$#_"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "±": r"$\pm$",
    "–": "--",
    "−": "$-$",
    "→": r"$\to$",
    "Δ": r"$\Delta$",
    "β": r"$\beta$",
}


def escape_latex(text: str) -> str:
    r"""Text as LaTeX shows it unchanged, one character at a time so that nothing is escaped twice.

    >>> print(escape_latex("5 % of r_Δ"))
    5 \% of r\_$\Delta$
    """
    return "".join(_LATEX.get(character, character) for character in text)


def latex(content: Mapping[str, Any], paper: Paper, columns: Sequence[str]) -> str:
    """The same as a LaTeX table float; needs the package booktabs. Arguments and errors as of `markdown`."""
    head, body = _grid(content, paper, columns)
    stem = str(content["table"])
    names = next(i for i, cell in enumerate(head) if cell == label(columns[0]))

    def line(cells: Sequence[str]) -> str:
        return " & ".join(map(escape_latex, cells)) + r" \\"

    return "\n".join(
        [
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{escape_latex(' '.join(_footer(content, paper)))}}}",
            rf"\label{{tab:{stem}}}",
            rf"\begin{{tabular}}{{{'l' * names}{'r' * (len(head) - names)}}}",
            r"\toprule",
            line(head),
            r"\midrule",
            *map(line, body),
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
            "",
        ]
    )


# -- charts -----------------------------------------------------------------------------------------------


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


# -- claims -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Outcome:
    """What a result file says of a claim.

    Attributes:
        claim: The claim.
        status: `holds` if the interval of the difference lies above the claim's bound.
        dataset: Where it was measured.
        difference: Left minus right in the shape of a metric, one value per seed.
        paper: The paper's difference.
        paper_of: Its model and data set, if they are not the result's.
        reason: Why it was not run or does not show, where that is not the interval.
    """

    claim: Claim
    status: Literal["holds", "does not show", "not run"]
    dataset: str | None = None
    difference: Mapping[str, Any] | None = None
    paper: float | None = None
    paper_of: str = ""
    reason: str = ""


def judge(claim: Claim, content: Mapping[str, Any] | None, paper: Paper) -> list[Outcome]:
    """Check a claim, on each data set of the result file apart.

    The difference is taken seed by seed, so that what a seed does to both sides cancels; values stand in the order
    of the file's seeds. One seed gives a difference but no interval over seeds, and so cannot show anything.

    Args:
        claim: The claim.
        content: Result file of its table; None if there is none.
        paper: The paper's numbers.
    """
    number, of = _paper_difference(claim, content, None, paper)
    if content is None:
        return [Outcome(claim, "not run", paper=number, paper_of=of, reason="no result file")]
    of_left = [r["dataset"] for r in _all_rows(content) if r["method"] in paper.names(claim.left.method)]
    outcomes = []
    for dataset in [claim.left.dataset] if claim.left.dataset else dict.fromkeys(of_left) or [None]:
        number, of = _paper_difference(claim, content, dataset, paper)
        left = _values(claim, claim.left, content, dataset, paper)
        right = _values(claim, claim.right, content, dataset, paper)
        if isinstance(left, str) or isinstance(right, str):
            reason = left if isinstance(left, str) else str(right)
            outcomes.append(Outcome(claim, "not run", dataset, None, number, of, reason))
            continue
        difference = t_interval([a - b for a, b in zip(left, right, strict=True)])
        one = len(difference["values"]) == 1
        shown = not one and difference["low"] > claim.at_least
        reason = "one seed has no interval" if one else ""
        status: Literal["holds", "does not show"] = "holds" if shown else "does not show"
        outcomes.append(Outcome(claim, status, dataset, difference, number, of, reason))
    return outcomes


def _values(
    claim: Claim, side: Side, content: Mapping[str, Any], dataset: str | None, paper: Paper
) -> list[float] | str:
    """Values of one side in the order of seeds, or why there are none."""
    wanted, metric = side.dataset or dataset, side.metric or claim.metric
    row = _pick(content["rows"], side, wanted, paper)
    if row is None:
        names = paper.names(side.method)
        for left_out in content.get("not_run", ()):
            if left_out["method"] in names and left_out["dataset"] == wanted:
                return f"{side.method}: {left_out['reason']}"
        at = "" if side.x is None else f" at {side.x}"
        return f"no row '{side.method}'{at}" + (f" on {wanted}" if wanted else "")
    if metric not in row["metrics"]:
        return f"no {metric} of '{side.method}'" + (f" on {wanted}" if wanted else "")
    return [float(value) for value in row["metrics"][metric]["values"]]


def _pick(
    rows: Iterable[Mapping[str, Any]], side: Side, dataset: str | None, paper: Paper
) -> Mapping[str, Any] | None:
    names = paper.names(side.method)
    found = [row for row in rows if row["method"] in names and row["dataset"] == dataset]
    if side.x in ("first", "last"):
        end: Callable[..., Any] = min if side.x == "first" else max
        return end(found, key=lambda row: row.get("x") or 0.0, default=None)
    return next((row for row in found if side.x is None or row.get("x") == side.x), None)


def _paper_difference(
    claim: Claim, content: Mapping[str, Any] | None, dataset: str | None, paper: Paper
) -> tuple[float | None, str]:
    """The paper's difference on the result's data set, else on the reference; and where that is."""
    rows = paper.tables[claim.stem].rows
    beside = _beside(content, paper) if content is not None and dataset is not None else None
    if beside is not None and beside.dataset is None:
        printed = [asdict(row) for row in beside.rows]
        sides = [(_pick(printed, s, s.dataset or dataset, paper), s) for s in (claim.left, claim.right)]
        found = [row["metrics"].get(side.metric or claim.metric) for row, side in sides if row]
        if len(found) == 2 and None not in found:
            return found[0] - found[1], beside.note
    if claim.paper is None or not rows:
        return None, ""
    return claim.paper, f"{rows[0].model} on {claim.left.dataset or rows[0].dataset}"
