"""The paper's numbers and claims, as `experiments/paper.yaml` holds them."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from critique_rl.config.reading import build
from critique_rl.reports.columns import is_share
from critique_rl.types import UserError, nearest

UNITS = ("percent", "score")


@dataclass(frozen=True)
class PaperRow:
    """One method on one data set with one model, as printed.

    Attributes:
        method: The paper's name of the method.
        dataset: Our name of the data set.
        model: Model that the critic starts from; the actor too, without `actor`.
        metrics: Values by our names of metrics; shares as fractions of 1.
        actor: Model of the actor, if it is another one.
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
        source: Place in the paper.
        rows: The numbers; the first row's model and data set are the main ones.
        notes: Oddities of the numbers.
        unit: `percent`, or `score` where delta is a difference of scores.
        x: Meaning of `x` in the rows.
    """

    source: str
    rows: list[PaperRow]
    notes: list[str] = field(default_factory=list)
    unit: str = "percent"
    x: str | None = None


@dataclass(frozen=True)
class Side:
    """One side of a claim: a number in a result file.

    Attributes:
        method: Method of the row, by the paper's name or ours.
        dataset: Data set of the row; None checks each data set of the result.
        metric: Metric, if it is not the claim's.
        x: `x` of the row: a value, `first` or `last`.
    """

    method: str
    dataset: str | None = None
    metric: str | None = None
    x: Any = None


@dataclass(frozen=True)
class Claim:
    """`left` minus `right` is above `at_least`.

    Attributes:
        id: Name of the claim.
        text: The claim in words.
        stem: Table that shows it.
        metric: Metric that is compared.
        left: Number that should be larger.
        right: Number that should be smaller.
        at_least: Bound of the difference, in the metric's unit.
        paper: The paper's difference on the table's main model and data set.
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
    """Content of `experiments/paper.yaml`.

    Attributes:
        source: Version of the paper.
        ours: The paper's name of a method -> ours, where they differ.
        tables: Tables by stem of script and result file.
        claims: Claims that our results are checked for.
    """

    source: str
    ours: dict[str, str]
    tables: dict[str, PaperTable]
    claims: list[Claim]

    def names(self, method: str) -> set[str]:
        """Names that rows of the paper's `method` may have: `Critique-RL, oracle` is `Stage I+II, oracle`."""
        head, comma, rest = method.partition(", ")
        return {method, self.ours.get(head, head) + comma + rest}

    def table(self, stem: str) -> PaperTable:
        """Table of a stem.

        Raises:
            UserError: The file has no such table.
        """
        if stem not in self.tables:
            raise UserError(f"table '{stem}' is not in the paper's file. {nearest(stem, self.tables)}")
        return self.tables[stem]


def load_paper(path: str | Path) -> Paper:
    """Read the paper's numbers and the claims.

    Raises:
        UserError: The file is missing or not valid YAML; a field is unknown, missing or of the wrong type; a row
            occurs twice; a share is no fraction of 1; a claim names an unknown table. Names table and row.
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
            if is_share(name, table.unit) and not -1 <= value <= 1:
                hint = "shares are fractions of 1, so divide percent by 100"
                raise UserError(f"{here}: {name} is {value}; {hint}.")
