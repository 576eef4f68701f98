"""The paper's rows beside a result file: of the same models and data sets, else of the paper's main ones."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from critique_rl.evaluation.intervals import t_interval
from critique_rl.studies.paper import Paper, PaperRow


@dataclass(frozen=True)
class Reference:
    """The paper's rows to compare a result with.

    Attributes:
        paper: The paper's numbers.
        rows: Rows of one pair of models.
        note: Models and data set of the rows; empty if they are the result's own.
        dataset: The only data set to compare with, if the paper has none of ours.
    """

    paper: Paper
    rows: Sequence[PaperRow]
    note: str = ""
    dataset: str | None = None

    @property
    def label(self) -> str:
        """Heading or legend of the paper's values."""
        return f"paper, {self.note}" if self.note else "paper"

    def of_line(self, method: str, dataset: str) -> list[PaperRow]:
        """Rows of a method on a data set, one for each `x`."""
        wanted = self.dataset or dataset
        return [r for r in self.rows if method in self.paper.names(r.method) and r.dataset == wanted]

    def find(self, row: Mapping[str, Any]) -> PaperRow | None:
        """The paper's row for a row of the result."""
        candidates = self.of_line(row["method"], row["dataset"])
        return next((r for r in candidates if r.x == row.get("x")), None)


def reference_of(content: Mapping[str, Any], paper: Paper) -> Reference:
    """Choose the paper's rows for a result file: of its own models if the paper has them, else of the main ones.

    Raises:
        UserError: The paper's file does not know the table.
    """
    rows = paper.table(str(content.get("table"))).rows
    if not rows:
        return Reference(paper, ())
    config = content["config"]
    actor = (config.get("actor") or {}).get("model")
    own = [r for r in rows if _same_model(r.model, config.get("base")) and _same_model(r.actor, actor)]
    main = rows[0]
    chosen = own or [r for r in rows if (r.model, r.actor) == (main.model, main.actor)]
    note = "" if own else main.model + (f" with {main.actor}" if main.actor else "")
    if {row["dataset"] for row in all_rows(content)} & {r.dataset for r in chosen}:
        return Reference(paper, chosen, note)
    return Reference(paper, chosen, f"{note} on {chosen[0].dataset}".strip(), chosen[0].dataset)


def all_rows(content: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Rows of a result file, then those that were not run."""
    return [*content["rows"], *content.get("not_run", ())]


def printed(row: PaperRow | None, metric: str) -> dict[str, Any] | None:
    """The paper's value in the shape of a measured metric; None if the paper has none."""
    return t_interval([row.metrics[metric]]) if row and metric in row.metrics else None


def _same_model(one: str | None, other: str | None) -> bool:
    """Compare names of models: names on the hub have an owner, and the paper leaves hyphens out."""
    plain = [re.sub(r"[^a-z0-9.]", "", (name or "").rsplit("/", 1)[-1].lower()) for name in (one, other)]
    return plain[0] == plain[1]
