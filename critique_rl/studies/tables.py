"""Result files beside the paper's numbers: tables, charts, and what our results say of the paper's claims.

A result file is what `critique_rl.report.result` gives and, from a table script, "table" (the script's stem),
"preset", "dirty", "prompts" (name and version) and "not_run" (`[{"method", "dataset", "reason"}]`). A row holds
"x" where a method has several: an RL step, a coefficient. The paper's numbers and the claims are data, in
`experiments/paper.yaml`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from critique_rl.evaluation.intervals import t_interval
from critique_rl.reports.columns import COLUMNS, _is_share, label
from critique_rl.reports.markdown import format_metric
from critique_rl.studies.paper import Paper, PaperRow
from critique_rl.types import UserError, nearest

# -- tables -----------------------------------------------------------------------------------------------


def format_cell(metric: Mapping[str, Any] | None, name: str, unit: str = "percent") -> str:
    """One cell: shares as `report.format_metric` does, scores and counts as they are with two decimals."""
    return format_metric(metric, percent=_is_share(name, unit))


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
    from critique_rl.reports.markdown import escape

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


# -- claims -----------------------------------------------------------------------------------------------
