"""Further metrics of a row, each as values by problem: what samples and rounds buy, whether errors are found."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from statistics import fmean
from typing import TYPE_CHECKING

from critique_rl.evaluation.episodes import Episode
from critique_rl.evaluation.intervals import ByProblem
from critique_rl.evaluation.scaling import majority_by_problem, pass_by_problem

if TYPE_CHECKING:
    pass

Measure = Callable[[Sequence[Episode]], ByProblem]


def powers_of_two(most: int) -> list[int]:
    """1, 2, 4, ... up to `most`."""
    return [2**i for i in range(most.bit_length()) if 2**i <= most]


def majority(ks: Sequence[int]) -> Measure:
    """`majority_at_K`: majority vote over K chains, see `scaling.majority_by_problem`."""
    return lambda episodes: {
        f"majority_at_{k}": values or {} for k, values in majority_by_problem(episodes, ks).items()
    }


def passing(ks: Sequence[int]) -> Measure:
    """`pass_at_K`: any of K chains is right, see `scaling.pass_by_problem`."""
    return lambda episodes: {
        f"pass_at_{k}": values or {} for k, values in pass_by_problem(episodes, ks).items()
    }


def by_round(rounds: Sequence[int]) -> Measure:
    """`refinement_at_R`: share of right refinements after some rounds, counted from 1."""

    def measure(episodes: Sequence[Episode]) -> ByProblem:
        values: dict[str, dict[str, float | None]] = {}
        for number in rounds:
            of = [e for e in episodes if e.round == number - 1]
            values[f"refinement_at_{number}"] = _means((e.id, _number(e.refinement_correct)) for e in of)
        return values

    return measure


def _means(values: Iterable[tuple[str, float | None]]) -> dict[str, float | None]:
    """Mean of each problem over its samples; None where no value is known."""
    known: dict[str, list[float]] = {}
    for identity, value in values:
        known.setdefault(identity, []).extend([] if value is None else [value])
    return {identity: fmean(of) if of else None for identity, of in known.items()}


def _number(grade: bool | None) -> float | None:
    return None if grade is None else float(grade)
