"""Which of the paper's claims hold in our results."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from critique_rl.evaluation.intervals import t_interval
from critique_rl.studies.paper import Claim, Paper, Side
from critique_rl.studies.reference import all_rows, reference_of

Status = Literal["holds", "undecided", "does not show", "not run"]


@dataclass(frozen=True)
class Outcome:
    """The outcome of a claim in a result file.

    Attributes:
        claim: The claim.
        status: `holds` if the interval of the difference lies above the claim's bound, `does not show` if no part
            of it does, `undecided` if a part of it does or one seed has no interval.
        dataset: Data set on which it was measured.
        difference: Left minus right in the shape of a metric, one value per seed.
        paper: The paper's difference.
        paper_of: Model and data set of the paper's difference, if they are not the result's.
        reason: Why the claim was not run, or is undecided for another reason than its interval.
    """

    claim: Claim
    status: Status
    dataset: str | None = None
    difference: Mapping[str, Any] | None = None
    paper: float | None = None
    paper_of: str = ""
    reason: str = ""


def judge(claim: Claim, content: Mapping[str, Any] | None, paper: Paper) -> list[Outcome]:
    """Check a claim, once for each data set of its table's result file; without that file, `content` is None.

    Differences are taken seed by seed, in the order of the file's seeds, so that effects of a seed on both sides
    cancel. One seed has no interval over seeds: whatever its difference, the claim is undecided.
    """
    number, source = _paper_difference(claim, content, None, paper)
    if content is None:
        return [Outcome(claim, "not run", paper=number, paper_of=source, reason="no result file")]
    of_left = [r["dataset"] for r in all_rows(content) if r["method"] in paper.names(claim.left.method)]
    outcomes = []
    for dataset in [claim.left.dataset] if claim.left.dataset else dict.fromkeys(of_left) or [None]:
        number, source = _paper_difference(claim, content, dataset, paper)
        left, right = (_values(claim, side, content, dataset, paper) for side in (claim.left, claim.right))
        if isinstance(left, str) or isinstance(right, str):
            reason = left if isinstance(left, str) else str(right)
            outcomes.append(Outcome(claim, "not run", dataset, None, number, source, reason))
            continue
        difference = t_interval([a - b for a, b in zip(left, right, strict=True)])
        one_seed = len(difference["values"]) == 1
        status: Status = "undecided"
        if not one_seed and difference["low"] > claim.at_least:
            status = "holds"
        elif not one_seed and difference["high"] <= claim.at_least:
            status = "does not show"
        reason = "one seed has no interval" if one_seed else ""
        outcomes.append(Outcome(claim, status, dataset, difference, number, source, reason))
    return outcomes


def _values(
    claim: Claim, side: Side, content: Mapping[str, Any], dataset: str | None, paper: Paper
) -> list[float] | str:
    """Values of one side in the order of seeds, or the reason why there are none."""
    wanted, metric = side.dataset or dataset, side.metric or claim.metric
    where = f" on {wanted}" if wanted else ""
    row = _pick(content["rows"], side, wanted, paper)
    if row is None:
        names = paper.names(side.method)
        for missing in content.get("not_run", ()):
            if missing["method"] in names and missing["dataset"] == wanted:
                return f"{side.method}: {missing['reason']}"
        x = "" if side.x is None else f" at {side.x}"
        return f"no row '{side.method}'{x}{where}"
    if metric not in row["metrics"]:
        return f"no {metric} of '{side.method}'{where}"
    return [float(value) for value in row["metrics"][metric]["values"]]


def _pick(
    rows: Iterable[Mapping[str, Any]], side: Side, dataset: str | None, paper: Paper
) -> Mapping[str, Any] | None:
    """Row of one side; of several `x`, the one that the side names."""
    names = paper.names(side.method)
    candidates = [row for row in rows if row["method"] in names and row["dataset"] == dataset]
    if side.x in ("first", "last"):
        candidates.sort(key=lambda row: row.get("x") or 0.0, reverse=side.x == "last")
    elif side.x is not None:
        candidates = [row for row in candidates if row.get("x") == side.x]
    return candidates[0] if candidates else None


def _paper_difference(
    claim: Claim, content: Mapping[str, Any] | None, dataset: str | None, paper: Paper
) -> tuple[float | None, str]:
    """The paper's difference on the result's data set, else on the paper's main one; with model and data set."""
    rows = paper.tables[claim.stem].rows
    reference = reference_of(content, paper) if content is not None and dataset is not None else None
    if reference is not None and reference.dataset is None:
        in_paper = [asdict(row) for row in reference.rows]
        sides = [(_pick(in_paper, s, s.dataset or dataset, paper), s) for s in (claim.left, claim.right)]
        values = [row["metrics"].get(side.metric or claim.metric) for row, side in sides if row]
        if len(values) == 2 and None not in values:
            return values[0] - values[1], reference.note
    if claim.paper is None or not rows:
        return None, ""
    return claim.paper, f"{rows[0].model} on {claim.left.dataset or rows[0].dataset}"
