"""Accuracy, agreement of both orders, liking for a position and parse rate, by group and over all."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any, Literal

from critique_rl.benchmarks.judging import PairJudgement, judge_pairs
from critique_rl.critic_data.benchmarks import RewardBenchmark
from critique_rl.critic_data.pairs import PreferencePair
from critique_rl.evaluation.intervals import Z975, wilson
from critique_rl.self_critique import Judge

Scorer = Literal["strict", "lenient"]
SCORERS: tuple[Scorer, ...] = ("strict", "lenient")
METRICS = ("acc", "acc_both", "acc_mean", "agreement", "said_first", "parse_rate")

Share = dict[str, float | int | None]
"""`mean`, `low` and `high`, None where there is nothing to average, and `n`, the pairs or samples it is over."""

Values = dict[str, dict[str, float | None]]
"""By metric and identity of the pair, as `report.summarise` takes further metrics."""


@dataclass(frozen=True)
class CriticResult:
    """How a critic did.

    Attributes:
        judgements: Two per pair, see `judge_pairs`.
        by_item: Each metric by pair, for intervals over seeds; see `metrics_by_item`.
        summary: See `summarise_pairs` and `summarise_benchmark`.
    """

    judgements: list[PairJudgement]
    by_item: Values
    summary: dict[str, Any]


def pair_accuracy(
    pairs: Sequence[PreferencePair],
    judge: Judge,
    *,
    seed: int,
    records: Path,
    name: str | None = None,
    chunk_size: int = 256,
    on_progress: Callable[[int, int], None] | None = None,
) -> CriticResult:
    """Accuracy of a critic on preference pairs, in both orders; arguments and errors of `judge_pairs`."""
    judgements = judge_pairs(
        pairs, judge, seed=seed, records=records, name=name, chunk_size=chunk_size, on_progress=on_progress
    )
    return CriticResult(judgements, metrics_by_item(judgements), summarise_pairs(judgements))


def evaluate_benchmark(
    benchmark: RewardBenchmark,
    judge: Judge,
    *,
    seed: int,
    records: Path,
    name: str | None = None,
    chunk_size: int = 256,
    on_progress: Callable[[int, int], None] | None = None,
) -> CriticResult:
    """Accuracy of a critic on a reward benchmark, in both orders; arguments and errors of `judge_pairs`."""
    judgements = judge_pairs(
        benchmark.pairs,
        judge,
        seed=seed,
        records=records,
        name=name,
        chunk_size=chunk_size,
        on_progress=on_progress,
    )
    summary = summarise_benchmark(benchmark, judgements)
    return CriticResult(judgements, metrics_by_item(judgements), summary)


# --- by pair ------------------------------------------------------------------------------------------


def metrics_by_item(judgements: Sequence[PairJudgement]) -> Values:
    """Every metric of every pair, by `critic_METRIC` and, for the lenient scorer, `critic_METRIC_lenient`.

    A judgement that could not be read is wrong. Of a pair the metrics are

    * `acc`: right in the order that the seed drew,
    * `acc_both`: right in both orders,
    * `acc_mean`: the mean over both orders,
    * `agreement`: both orders name the same response; None unless both could be read,
    * `said_first`: share of its judgements that name what is shown first; None if none could be read. Over all
      pairs 0.5 is no liking for a position, since each pair is shown in both orders,
    * `parse_rate`: share of its judgements that could be read.
    """
    values: Values = {}
    for scorer in SCORERS:
        end = "" if scorer == "strict" else f"_{scorer}"
        of = {pair: _of_pair(both, scorer) for pair, both in _paired(judgements).items()}
        for metric in METRICS:
            values[f"critic_{metric}{end}"] = {pair: found[metric] for pair, found in of.items()}
    return values


def grouped_by_item(judgements: Sequence[PairJudgement]) -> Values:
    """`metrics_by_item`, and `critic_acc_mean_GROUP` and `critic_acc_both_GROUP` of the pairs of each group."""
    values = metrics_by_item(judgements)
    groups = {j.pair: j.source for j in judgements}
    if len(set(groups.values())) > 1:
        for name in ("critic_acc_mean", "critic_acc_both"):
            for group in dict.fromkeys(groups.values()):
                values[f"{name}_{group}"] = {p: v for p, v in values[name].items() if groups[p] == group}
    return values


def _paired(judgements: Iterable[PairJudgement]) -> dict[str, list[PairJudgement]]:
    paired: dict[str, list[PairJudgement]] = defaultdict(list)
    for judgement in judgements:
        paired[judgement.pair].append(judgement)
    for pair, both in paired.items():
        if sorted(j.order for j in both) != ["forward", "swapped"]:
            raise ValueError(f"pair {pair!r} needs one judgement in each order")
    return paired


def _of_pair(both: Sequence[PairJudgement], scorer: Scorer) -> dict[str, float | None]:
    said = [getattr(j, scorer) for j in both]
    right = [s == j.label for s, j in zip(said, both, strict=True)]
    read = [s for s in said if s is not None]
    return {
        "acc": float(next(r for r, j in zip(right, both, strict=True) if j.drawn)),
        "acc_both": float(all(right)),
        "acc_mean": fmean(right),
        "agreement": float(right[0] == right[1]) if len(read) == 2 else None,
        "said_first": fmean(s == 1 for s in read) if read else None,
        "parse_rate": len(read) / len(said),
    }


# --- over pairs ---------------------------------------------------------------------------------------


def summarise_pairs(
    judgements: Sequence[PairJudgement], samples: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """Metrics by group, over all pairs and as a mean over groups.

    Args:
        judgements: Two per pair.
        samples: By identity of a pair what it belongs to; adds MM-RLHF's ACC+, the share of samples whose pairs
            are all right: `acc_plus` in the order drawn, `acc_plus_both` in both.

    Returns:
        `pairs` and `tokens`, counts, and for `strict` and `lenient` each `groups` (by source), `overall` and
        `macro`; these have a `Share` by metric of `metrics_by_item`. Intervals are Wilson's 95 % over pairs;
        that of `macro` combines those of the groups (see `mean_of`).
    """
    found: dict[str, Any] = {
        "pairs": len({j.pair for j in judgements}),
        "tokens": sum(j.tokens for j in judgements),
    }
    by_group: dict[str, list[PairJudgement]] = defaultdict(list)
    for judgement in judgements:
        by_group[judgement.source].append(judgement)
    for scorer in SCORERS:
        groups = {name: _shares(of, scorer, samples) for name, of in sorted(by_group.items())}
        names = list(next(iter(groups.values()), {}))
        found[scorer] = {
            "groups": groups,
            "overall": _shares(judgements, scorer, samples),
            "macro": {name: mean_of([shares[name] for shares in groups.values()]) for name in names},
        }
    return found


def summarise_benchmark(benchmark: RewardBenchmark, judgements: Sequence[PairJudgement]) -> dict[str, Any]:
    """`summarise_pairs` of a benchmark, with its name and its `not_judged` rows, counted by reason."""
    return {
        "benchmark": benchmark.name,
        "rows": len(benchmark.pairs) + len(benchmark.not_judged),
        "not_judged": dict(sorted(Counter(drop.reason for drop in benchmark.not_judged).items())),
        **summarise_pairs(judgements, benchmark.samples or None),
    }


def _shares(
    judgements: Sequence[PairJudgement], scorer: Scorer, samples: Mapping[str, str] | None
) -> dict[str, Share]:
    of = {pair: _of_pair(both, scorer) for pair, both in _paired(judgements).items()}
    shares = {metric: _share([found[metric] for found in of.values()]) for metric in METRICS}
    if samples is not None:
        for plus, metric in (("acc_plus", "acc"), ("acc_plus_both", "acc_both")):
            together: dict[str, list[float | None]] = defaultdict(list)
            for pair, found in of.items():
                together[samples[pair]].append(found[metric])
            shares[plus] = _share([float(all(grades)) for grades in together.values()])
    return shares


def _share(values: Iterable[float | None]) -> Share:
    """Mean of values 0, 1/2 and 1 with Wilson's interval for as many trials as there are values.

    A mean of values in [0, 1] has at most the variance of a share, so the interval is too wide for halves if
    anything; counting judgements instead of pairs would make it too narrow, for the two of a pair go together.
    """
    known = [value for value in values if value is not None]
    if not known:
        return {"mean": None, "low": None, "high": None, "n": 0}
    n = len(known)
    # In halves, so that successes are whole: 2 n trials at sqrt(2) z are the same interval as n at z.
    ends = wilson(round(2 * sum(known)), 2 * n, z=Z975 * math.sqrt(2))
    assert ends is not None
    return {"mean": fmean(known), "low": ends[0], "high": ends[1], "n": n}


def mean_of(shares: Sequence[Share]) -> Share:
    """Mean of independent shares, each counting alike; None if one has no value.

    The interval is made from theirs by the rule of variance recovery (G. Y. Zou, A. Donner, Statistics in
    Medicine 27 (2008)): mean - sqrt(sum of (mean_i - low_i)^2) / k, and above in the same way.
    """
    n = sum(int(s["n"] or 0) for s in shares)
    means = [s["mean"] for s in shares if s["mean"] is not None]
    if not shares or len(means) < len(shares):
        return {"mean": None, "low": None, "high": None, "n": n}
    mean = fmean(means)
    below, above = (
        math.sqrt(sum(_distance(s, end) ** 2 for s in shares)) / len(shares) for end in ("low", "high")
    )
    return {"mean": mean, "low": mean - below, "high": mean + above, "n": n}


def _distance(share: Share, end: str) -> float:
    mean, at = share["mean"], share[end]
    assert mean is not None and at is not None  # a share has all three or none
    return mean - at


def visual_rewardbench(
    vl: Mapping[str, Any], mm: Mapping[str, Any]
) -> dict[str, dict[str, dict[str, Share]]]:
    """Mean of both benchmarks, the paper's "Visual RewardBench" (61.3 for Qwen2.5-VL-7B, 68.1 for its critic).

    Which number of each the paper averaged, in which order it showed the answers and how it read the replies is
    not known, so the mean is given for each choice.

    Args:
        vl: Summary of VL-RewardBench.
        mm: Summary of MM-RLHF-RewardBench. Its overall numbers enter, with the rows on videos left out.

    Returns:
        By scorer, by which number of VL-RewardBench (`overall` or `macro`), by metric (`acc`, `acc_mean`,
        `acc_both`).
    """
    return {
        scorer: {
            part: {
                metric: mean_of([vl[scorer][part][metric], mm[scorer]["overall"][metric]])
                for metric in ("acc", "acc_mean", "acc_both")
            }
            for part in ("overall", "macro")
        }
        for scorer in SCORERS
    }


_COLUMNS = {
    "acc": "Acc",
    "acc_mean": "Acc, mean of orders",
    "acc_both": "Acc, both orders",
    "acc_plus": "ACC+",
    "said_first": "Said first",
    "parse_rate": "Parsed",
}


def markdown_table(summary: Mapping[str, Any]) -> str:
    """A row for each scorer and group, over all and as the mean over groups; percent with 95 % intervals."""
    shown = {name: head for name, head in _COLUMNS.items() if name in summary["strict"]["overall"]}
    lines = [["Scorer", "Group", "Pairs", *shown.values()], ["---"] * (3 + len(shown))]
    for scorer in SCORERS:
        of = summary[scorer]
        rows = {**of["groups"], "overall": of["overall"], "mean of groups": of["macro"]}
        for group, shares in rows.items():
            lines.append([scorer, group, str(shares["acc"]["n"]), *(_cell(shares[name]) for name in shown)])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(share: Share) -> str:
    if share["mean"] is None:
        return "–"
    return "{mean:.1%} ({low:.1%} to {high:.1%})".format_map(share)
