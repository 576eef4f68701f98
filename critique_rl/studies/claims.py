"""TODO docstring."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from critique_rl.evaluation.intervals import t_interval
from critique_rl.studies.paper import Claim, Paper, Side
from critique_rl.studies.tables import _all_rows, _beside


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
