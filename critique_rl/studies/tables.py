"""Result files as tables beside the paper's numbers, in Markdown and LaTeX.

A result file is what `reports.provenance.result` returns; table scripts add "table" (the script's stem), "preset",
"dirty", "prompts" (name and version) and "not_run" (`[{"method", "dataset", "reason"}]`). Where a method has many
rows, each holds "x": an RL step, a coefficient.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from critique_rl.markdown import escape
from critique_rl.markdown import table as markdown_table
from critique_rl.reports.columns import COLUMNS, is_share, label
from critique_rl.reports.markdown import ALIKE, format_metric
from critique_rl.studies.paper import Paper
from critique_rl.studies.reference import all_rows, printed, reference_of
from critique_rl.types import UserError, nearest


def format_cell(metric: Mapping[str, Any] | None, name: str, unit: str = "percent") -> str:
    """Format one cell: shares in percent, scores and counts with two decimals."""
    return format_metric(metric, percent=is_share(name, unit))


def grid(
    content: Mapping[str, Any], paper: Paper, columns: Sequence[str]
) -> tuple[list[str], list[list[str]]]:
    """Head and body of a table as text: for each metric our column, then the paper's if it prints that metric.

    Raises:
        UserError: No row has one of the metrics, or the table is unknown.
    """
    stem = str(content.get("table"))
    table, reference, rows = paper.table(stem), reference_of(content, paper), all_rows(content)
    known = dict.fromkeys(n for row in content["rows"] for n in row["metrics"])
    known |= dict.fromkeys([n for r in table.rows for n in r.metrics] + list(COLUMNS))
    for name in columns if content["rows"] else ():
        if name not in known:
            raise UserError(f"column '{name}' is in no row of '{stem}'. {nearest(name, known)}")
    several = len({row["dataset"] for row in rows}) > 1
    with_x = any(row.get("x") is not None for row in rows)
    in_paper = {name for r in reference.rows for name in r.metrics}
    head = ["Method", *(["Data set"] if several else []), *([table.x or "x"] if with_x else [])]
    for name in columns:
        head += [label(name), *([f"{label(name)} ({reference.label})"] if name in in_paper else [])]
    body = []
    for row in rows:
        line = [row["method"], *([row["dataset"]] if several else [])]
        if with_x:
            line.append("–" if row.get("x") is None else f"{row['x']:g}")
        for i, name in enumerate(columns):
            if "reason" in row:
                line.append(f"not run ({row['reason']})" if i == 0 else "–")
            else:
                line.append(format_cell(row["metrics"].get(name), name, table.unit))
            if name in in_paper:
                line.append(format_cell(printed(reference.find(row), name), name, table.unit))
        body.append(line)
    return head, body


def _footer(content: Mapping[str, Any], paper: Paper) -> str:
    """Sentences below each table: unit, seeds, origin, and notes on the paper's numbers."""
    table, seeds = paper.table(str(content.get("table"))), content["seeds"]
    spread = (
        f"one seed ({seeds[0]}), intervals over items are in the result file"
        if len(seeds) == 1
        else f"mean ± half of the 95 % t-interval over {len(seeds)} seeds ({', '.join(map(str, seeds))}); {ALIKE}"
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
    return " ".join(lines)


def markdown(content: Mapping[str, Any], paper: Paper, columns: Sequence[str]) -> str:
    """Write some metrics of a result file as a Markdown table beside the paper's numbers, with a footer.

    Raises:
        UserError: No row has one of the metrics, or the table is unknown.
    """
    return f"{markdown_table(*grid(content, paper, columns))}\n\n{escape(_footer(content, paper))}"


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
    r"""Escape text so that LaTeX shows it unchanged; character by character, so that nothing is escaped twice.

    >>> print(escape_latex("5 % of r_Δ"))
    5 \% of r\_$\Delta$
    """
    return "".join(_LATEX.get(character, character) for character in text)


def latex(content: Mapping[str, Any], paper: Paper, columns: Sequence[str]) -> str:
    """Write the same table as a LaTeX float for the package booktabs; arguments and errors as of `markdown`."""
    head, body = grid(content, paper, columns)
    names = head.index(label(columns[0]))
    top, *lines = [" & ".join(map(escape_latex, cells)) + r" \\" for cells in (head, *body)]
    body_lines = "\n".join(["", *lines])
    return rf"""\begin{{table}}
\centering
\caption{{{escape_latex(_footer(content, paper))}}}
\label{{tab:{content["table"]}}}
\begin{{tabular}}{{{"l" * names}{"r" * (len(head) - names)}}}
\toprule
{top}
\midrule{body_lines}
\bottomrule
\end{{tabular}}
\end{{table}}
"""
