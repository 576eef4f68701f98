"""Metrics of critics on pairs, by group and over all: accuracy, agreement of both orders, position, parse rate."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any, Literal

from critique_rl.benchmarks.judging import PairJudgement, judge_pairs
from critique_rl.critic_data.benchmarks import RewardBenchmark
from critique_rl.critic_data.pairs import PreferencePair
from critique_rl.evaluation.intervals import Z975, percent, wilson
from critique_rl.evaluation.scaling import mean_of_known
from critique_rl.markdown import table
from critique_rl.self_critique.knockout import Judge

Scorer = Literal["strict", "lenient"]
SCORERS: tuple[Scorer, ...] = ("strict", "lenient")
METRICS = ("acc", "acc_both", "acc_mean", "agreement", "said_first", "parse_rate")

Share = dict[str, Any]
"""`mean`, `low` and `high`, None without values, and `n`, the number of pairs or samples."""

Values = dict[str, dict[str, float | None]]
"""Values by metric and identity of the pair, in the shape of the further metrics of `summarise`."""


@dataclass(frozen=True)
class CriticResult:
    """Judgements of a critic and their metrics.

    Attributes:
        judgements: Two judgements per pair, see `judge_pairs`.
        by_item: Each metric by pair, for intervals over seeds; see `metrics_by_item`.
        summary: Result of `summarise_pairs` or `summarise_benchmark`.
    """

    judgements: list[PairJudgement]
    by_item: Values
    summary: dict[str, Any]


def pair_accuracy(pairs: Sequence[PreferencePair], judge: Judge, **settings: Any) -> CriticResult:
    """Accuracy of a critic on preference pairs, in both orders; arguments and errors of `judge_pairs`."""
    judgements = judge_pairs(pairs, judge, **settings)
    return CriticResult(judgements, metrics_by_item(judgements), summarise_pairs(judgements))


def evaluate_benchmark(benchmark: RewardBenchmark, judge: Judge, **settings: Any) -> CriticResult:
    """Accuracy of a critic on a reward benchmark, in both orders; arguments and errors of `judge_pairs`."""
    judgements = judge_pairs(benchmark.pairs, judge, **settings)
    return CriticResult(judgements, metrics_by_item(judgements), summarise_benchmark(benchmark, judgements))


def metrics_by_item(judgements: Sequence[PairJudgement]) -> Values:
    """Every metric of every pair, as `critic_METRIC`, and as `critic_METRIC_lenient` for the lenient scorer.

    A judgement that could not be read is wrong. A pair has no value if a judgement of it never came from the
    server: it counts neither as right nor as wrong. The metrics of a pair are

    * `acc`: right in the order that the seed drew,
    * `acc_both`: right in both orders,
    * `acc_mean`: mean over both orders,
    * `agreement`: both orders name the same response; None unless both could be read,
    * `said_first`: share of its judgements that name the response shown first; None if none could be read. Over
      all pairs 0.5 means no preference for a position, since each pair is shown in both orders,
    * `parse_rate`: share of its judgements that could be read.
    """
    values: Values = {}
    for scorer in SCORERS:
        end = "" if scorer == "strict" else f"_{scorer}"
        by_pair = _by_pair(judgements, scorer)
        for metric in METRICS:
            values[f"critic_{metric}{end}"] = {pair: metrics[metric] for pair, metrics in by_pair.items()}
    return values


def grouped_by_item(judgements: Sequence[PairJudgement]) -> Values:
    """`metrics_by_item`, with `critic_acc_mean_GROUP` and `critic_acc_both_GROUP` if there are several groups."""
    values = metrics_by_item(judgements)
    groups = {j.pair: j.source for j in judgements}
    if len(set(groups.values())) > 1:
        for name in ("critic_acc_mean", "critic_acc_both"):
            for group in dict.fromkeys(groups.values()):
                values[f"{name}_{group}"] = {p: v for p, v in values[name].items() if groups[p] == group}
    return values


def _by_pair(judgements: Iterable[PairJudgement], scorer: Scorer) -> dict[str, dict[str, float | None]]:
    """Metrics of each pair."""
    paired: dict[str, list[PairJudgement]] = defaultdict(list)
    for judgement in judgements:
        paired[judgement.pair].append(judgement)
    metrics: dict[str, dict[str, float | None]] = {}
    for pair, both in paired.items():
        if sorted(j.order for j in both) != ["forward", "swapped"]:
            raise ValueError(f"pair {pair!r} needs one judgement in each order")
        if any(j.missing for j in both):
            metrics[pair] = dict.fromkeys(METRICS)
            continue
        right = {j.order: getattr(j, scorer) == j.label for j in both}
        read = [answer for j in both if (answer := getattr(j, scorer)) is not None]
        metrics[pair] = {
            "acc": float(next(right[j.order] for j in both if j.drawn)),
            "acc_both": float(all(right.values())),
            "acc_mean": fmean(right.values()),
            "agreement": float(right["forward"] == right["swapped"]) if len(read) == 2 else None,
            "said_first": mean_of_known(answer == 1 for answer in read),
            "parse_rate": len(read) / 2,
        }
    return metrics


def summarise_pairs(
    judgements: Sequence[PairJudgement], samples: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """Metrics by group, over all pairs and as a mean over groups.

    Args:
        judgements: Two judgements per pair.
        samples: Sample of each pair by its identity. It adds MM-RLHF's ACC+, the share of samples whose pairs
            are all right: `acc_plus` in the order drawn, `acc_plus_both` in both orders.

    Returns:
        `pairs` and `tokens`: counts; `missing`: pairs without a value, if there are any; `strict` and `lenient`:
        each with `groups` (by source), `overall` and `macro`, which have a `Share` for each metric of
        `metrics_by_item`. Intervals are Wilson's 95 % over pairs; the interval of `macro` combines the intervals
        of the groups (see `mean_of`).
    """
    missing = {j.pair for j in judgements if j.missing}
    summary: dict[str, Any] = {
        "pairs": len({j.pair for j in judgements}),
        **({"missing": len(missing)} if missing else {}),
        "tokens": sum(j.tokens or 0 for j in judgements),
    }
    by_group: dict[str, list[PairJudgement]] = defaultdict(list)
    for judgement in judgements:
        by_group[judgement.source].append(judgement)
    for scorer in SCORERS:
        groups = {name: _shares(group, scorer, samples) for name, group in sorted(by_group.items())}
        metrics = list(next(iter(groups.values()), {}))
        summary[scorer] = {
            "groups": groups,
            "overall": _shares(judgements, scorer, samples),
            "macro": {metric: mean_of([shares[metric] for shares in groups.values()]) for metric in metrics},
        }
    return summary


def summarise_benchmark(benchmark: RewardBenchmark, judgements: Sequence[PairJudgement]) -> dict[str, Any]:
    """`summarise_pairs` of a benchmark, with its name and the number of its `not_judged` rows by reason."""
    return {
        "benchmark": benchmark.name,
        "rows": len(benchmark.pairs) + len(benchmark.not_judged),
        "not_judged": dict(sorted(Counter(drop.reason for drop in benchmark.not_judged).items())),
        **summarise_pairs(judgements, benchmark.samples or None),
    }


def _shares(
    judgements: Sequence[PairJudgement], scorer: Scorer, samples: Mapping[str, str] | None
) -> dict[str, Share]:
    by_pair = _by_pair(judgements, scorer)
    shares = {metric: _share([metrics[metric] for metrics in by_pair.values()]) for metric in METRICS}
    if samples is not None:
        for plus, metric in (("acc_plus", "acc"), ("acc_plus_both", "acc_both")):
            by_sample: dict[str, list[float | None]] = defaultdict(list)
            for pair, metrics in by_pair.items():
                by_sample[samples[pair]].append(metrics[metric])
            known = [grades for grades in by_sample.values() if None not in grades]
            shares[plus] = _share([float(all(grades)) for grades in known])
    return shares


def _share(values: Iterable[float | None]) -> Share:
    """Mean of values 0, 1/2 and 1 with Wilson's interval, where each value is one trial.

    A mean of values in [0, 1] has at most the variance of a share, so for halves the interval is, if anything, too
    wide. Counting judgements instead of pairs would make it too narrow, since the two of a pair are correlated.
    """
    known = [value for value in values if value is not None]
    n = len(known)
    # Counted in halves, so that successes are whole: 2 n trials at sqrt(2) z give the interval of n trials at z.
    low, high = wilson(round(2 * sum(known)), 2 * n, z=Z975 * math.sqrt(2)) or (None, None)
    return {"mean": mean_of_known(known), "low": low, "high": high, "n": n}


def mean_of(shares: Sequence[Share]) -> Share:
    """Mean of independent shares with equal weights; None if one of them has no value.

    The interval follows from their intervals by variance recovery (G. Y. Zou, A. Donner, Statistics in Medicine
    27 (2008)): the lower end is mean - sqrt(sum of (mean_i - low_i)^2) / k, the upper end likewise.
    """
    n = sum(s["n"] for s in shares)
    if not shares or any(s["mean"] is None for s in shares):
        return {"mean": None, "low": None, "high": None, "n": n}
    mean = fmean(s["mean"] for s in shares)
    below, above = (
        math.sqrt(sum((s["mean"] - s[end]) ** 2 for s in shares)) / len(shares) for end in ("low", "high")
    )
    return {"mean": mean, "low": mean - below, "high": mean + above, "n": n}


def visual_rewardbench(
    vl: Mapping[str, Any], mm: Mapping[str, Any]
) -> dict[str, dict[str, dict[str, Share]]]:
    """Mean of both benchmarks, the paper's "Visual RewardBench" (61.3 for Qwen2.5-VL-7B, 68.1 for its critic).

    The paper does not say which numbers it averaged, in which order it showed the answers and how it read the
    replies, so the result has the mean for each choice.

    Args:
        vl: Summary of VL-RewardBench.
        mm: Summary of MM-RLHF-RewardBench; its overall numbers are used, without the rows on videos.

    Returns:
        Shares by scorer, then by the number of VL-RewardBench (`overall` or `macro`), then by metric (`acc`,
        `acc_mean`, `acc_both`).
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
    columns = {metric: head for metric, head in _COLUMNS.items() if metric in summary["strict"]["overall"]}
    rows = []
    for scorer in SCORERS:
        part = summary[scorer]
        groups = {**part["groups"], "overall": part["overall"], "mean of groups": part["macro"]}
        for group, shares in groups.items():
            rows.append([scorer, group, shares["acc"]["n"], *(percent(shares[metric]) for metric in columns)])
    return table(["Scorer", "Group", "Pairs", *columns.values()], rows, raw=True)
