"""The result file of a run, its table, its training curves and its pages.

One shape for every run and table script:
`{"config", "commit", "versions", "seeds", "rows": [{"method", "dataset", "metrics"}]}` with
`metrics[name] = {"mean", "low", "high", "values"}` in fractions of 1, one value per seed. The commit ends in
`-dirty` where code or configurations differ from it; the versions name the device too. Newer files also hold
"health" (`{"checked", "findings"}`, see `reports.health.Finding`) and "costs" (see `reports.costs.Cost`).
"""

from __future__ import annotations

import functools
import io
import json
import platform
import statistics
import subprocess
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from critique_rl.config import RunConfig, as_dict
from critique_rl.evaluation import Episode
from critique_rl.metrics import metrics, resampled
from critique_rl.scaling import interval

if TYPE_CHECKING:
    from critique_rl.pipeline import Run

PACKAGES = (
    "critique_rl",
    "torch",
    "transformers",
    "trl",
    "peft",
    "datasets",
    "accelerate",
    "math-verify",
    "sympy",
)
COLUMNS = {
    "acc": "Acc",
    "acc_refine": "Acc@Refine",
    "delta": "Δ",
    "delta_ci": "c→i",
    "delta_ic": "i→c",
    "acc_dis": "Acc@Dis",
    "acc_dis_parsed": "Acc@Dis (parsed)",
    "acc_dis_balanced": "Acc@Dis (balanced)",
    "parse_rate": "parse rate",
}
SCORED_COLUMNS = {
    "score": "Score",
    "score_refine": "Score@Refine",
    "delta": "Δ",
    "mse_dis": "MSE@Dis",
    "mae_dis": "MAE@Dis",
    "parse_rate": "parse rate",
}
"""Where replies are scored: in units of the score, and of the ratings from 1 to 10."""
PAIRWISE_COLUMNS = {
    "acc": "Acc",
    "critic_acc_mean": "Critic",
    "critic_acc_both": "Critic, both orders",
    "critic_said_first": "says first",
    "critic_parse_rate": "parse rate",
}
CHOSEN = {"majority": "Majority", "self_critique": "Self critique", "pass": "Pass"}
"""Where models are critics of pairs: these, and what is chosen among N of their own samples."""
CURVES = {
    "critic/acc_dis": "Acc@Dis",
    "critic/acc_dis_on_correct": "Acc@Dis on originally correct",
    "critic/acc_dis_on_wrong": "Acc@Dis on originally wrong",
    "actor/acc_refine": "Acc@Refine",
    "critic/mae_dis": "MAE@Dis",
    "actor/rating_refine": "Rating of refinements",
    "reward/r_pref": "r_pref",
    "reward/r_format": "r_format",
    "reward/r_dis": "r_dis",
    "critic/said_first": "Names the first response",
    "reward": "Reward",
    "critic/parse_rate": "Parse rate",
    "kl": "KL to the stage's start (nats per token)",
    "entropy": "Entropy (nats per token)",
    "completions/mean_length": "Tokens of a critique",
    "frac_reward_zero_std": "Groups with one reward for all",
    "value/loss": "Loss of the value model",
}
"""Metrics of a training that are drawn over its RL steps, with their headings."""
DRAWN = {
    "reward/r_pref": ("reward/r_pref", "reward/r_format", "critic/parse_rate", "critic/said_first"),
    "critic/mae_dis": ("critic/mae_dis", "critic/parse_rate", "reward/r_dis", "actor/rating_refine"),
    "critic/acc_dis": (
        "critic/acc_dis",
        "critic/acc_dis_on_correct",
        "critic/acc_dis_on_wrong",
        "actor/acc_refine",
    ),
}
"""Of these the panels of a picture, by a metric that is logged where they are the right ones."""
_T975 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228)
"""Student's t, 97.5 % quantile, by degrees of freedom."""


ByProblem = Mapping[str, Mapping[str, float | None]]
"""Value of each problem by metric and identity."""


def summarise(
    per_seed: Sequence[Sequence[Episode]],
    by_problem: Sequence[ByProblem] | None = None,
) -> dict[str, dict[str, Any]]:
    """Mean and 95 % interval of every metric.

    Args:
        per_seed: Episodes of each seed; none where pairs are judged and nothing is asked.
        by_problem: Of each seed, further metrics, each the mean of its values over problems.

    Returns:
        `{metric: {"mean", "low", "high", "values"}}`: with several seeds a t-interval over them, with one
        seed a percentile bootstrap over its problems. A metric that is undefined for a seed is left out.
    """
    values = [metrics(episodes) if episodes else {} for episodes in per_seed]
    ends: dict[str, tuple[float, float]] = {}
    if len(per_seed) == 1 and per_seed[0]:
        known = {name: draws for name, draws in resampled(per_seed[0]).items() if not np.isnan(draws).all()}
        ends = {name: _ends(np.nanquantile(draws, (0.025, 0.975))) for name, draws in known.items()}
    if by_problem is not None:
        for seed_values, further in zip(values, by_problem, strict=True):
            for name, of in further.items():
                known_values = [v for v in of.values() if v is not None]
                seed_values[name] = statistics.fmean(known_values) if known_values else None
                found = interval(of) if len(per_seed) == 1 else None
                if found is not None:
                    ends[name] = found
    summary: dict[str, dict[str, Any]] = {}
    for name in values[0]:
        column = [v[name] for v in values]
        if any(v is None for v in column):
            continue
        summary[name] = t_interval([v for v in column if v is not None])
        if name in ends:
            summary[name] |= dict(zip(("low", "high"), ends[name], strict=True))
    for before, after in (("acc", "acc_refine"), ("score", "score_refine")):
        if before in summary:  # the paper's convention: one column of accuracies, also without a critic
            summary.setdefault(after, summary[before])
    return summary


def t_interval(values: Sequence[float]) -> dict[str, Any]:
    """Mean and 95 % t-interval over seeds, in the shape of a metric; one value has no width.

    >>> t_interval([0.25, 0.25])
    {'mean': 0.25, 'low': 0.25, 'high': 0.25, 'values': [0.25, 0.25]}
    """
    mean, half = statistics.fmean(values), 0.0
    if len(values) > 1:
        half = _t975(len(values) - 1) * statistics.stdev(values) / len(values) ** 0.5
    return {"mean": mean, "low": mean - half, "high": mean + half, "values": list(values)}


def _t975(freedom: int) -> float:
    if freedom <= len(_T975):
        return _T975[freedom - 1]
    z = 1.959964  # and from there on Cornish and Fisher's expansion, which is right to three decimals
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
    )
    return z + sum(term / freedom ** (i + 1) for i, term in enumerate(terms))


def _ends(pair: Any) -> tuple[float, float]:
    low, high = (float(q) for q in pair)
    return low, high


def result(
    config: Mapping[str, Any], seeds: Sequence[int], rows: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """A result file's content, with all that is needed to know where its numbers came from."""
    return {"config": dict(config), **origin(), "seeds": list(seeds), "rows": [dict(row) for row in rows]}


def origin() -> dict[str, Any]:
    """Commit and versions, as a result file holds them."""
    return {
        "commit": commit_of(Path(__file__).parent),
        "versions": {"python": platform.python_version(), "device": _device()}
        | {package: _version(package) for package in PACKAGES},
    }


def write_report(
    config: RunConfig,
    rows: Sequence[Mapping[str, Any]],
    histories: Mapping[str, Sequence[Sequence[Mapping[str, Any]]]],
    run: Run | None = None,
) -> Path:
    """Write report.json, report.md, report.html and curves.png into the run's directory.

    Args:
        config: The run.
        rows: `method`, `dataset`, `metrics` as `summarise` gives them, `records`.
        histories: Per stage label, per seed: the log of the trainer, one mapping per RL step.
        run: The same, finished, for what it cost and how healthy it is; with it the model card of each of its
            checkpoints gets its figures.

    Returns:
        Path of report.json.
    """
    from critique_rl import model_card
    from critique_rl.reports import page

    directory = config.directory
    shown = ("method", "dataset", "metrics")
    content = result(as_dict(config), config.seeds, [{key: row[key] for key in shown} for row in rows])
    if run is not None:
        content |= of_training(run, whole=True)
    path, picture = directory / "report.json", directory / "curves.png"
    write(path, json.dumps(content, indent=1, ensure_ascii=False) + "\n")
    if histories:
        plot_curves(histories, picture)
    figures = f"{markdown_table(rows, intervals=True)}\n\n{caption(content, intervals=True)}\n"
    curves = f"\n![training curves]({picture.name})\n" if histories else ""
    text = f"# {page.escape(config.name)}\n\n{figures}{curves}\n{page.sections(content)}\n"
    page.write_pages(text, config.name, directory / "report", [picture] if histories else [])
    if run is not None:
        measured = [(m.row, m.task, row["metrics"]) for m, row in zip(run.measurements, rows, strict=False)]
        model_card.write_all(run, measured)
    return path


def of_training(run: Run, *, whole: bool) -> dict[str, Any]:
    """What a result file says of the training: "health" and "costs".

    Args:
        run: A finished run.
        whole: Whether all findings are kept, or only those outside of what is healthy.
    """
    from critique_rl.reports.costs import costs
    from critique_rl.reports.health import check
    from critique_rl.reports.settings import setting

    found = [
        finding
        for name, stage in run.config.stages.items()
        for seed in run.config.seeds
        for finding in check(
            run.history(seed, name),
            stage=stage.label,
            seed=seed,
            refines=setting(as_dict(stage), "refinement_reward") is not None,
            limit=run.config.lengths.critique,
        )
    ]
    kept = [as_dict(finding) for finding in found if whole or finding.outside]
    return {
        "health": {"checked": len(found), "findings": kept},
        "costs": [as_dict(cost) for cost in costs(run)],
    }


def write(path: Path, content: str | bytes) -> None:
    """Write a file unless it holds that already: a report that says nothing new keeps its date."""
    encoded = content.encode() if isinstance(content, str) else content
    if not path.exists() or path.read_bytes() != encoded:
        path.write_bytes(encoded)


def markdown_table(rows: Sequence[Mapping[str, Any]], *, intervals: bool = False) -> str:
    """The table, shares in percent; with several seeds, mean ± half of the 95 % interval.

    Args:
        rows: Rows of a result file.
        intervals: With one seed, the ends of the 95 % interval over its problems as well.
    """
    datasets = len({row["dataset"] for row in rows}) > 1
    scored = _scored(rows)
    columns = _columns(rows)
    head = ["Method", *(["Data set"] if datasets else []), *columns.values()]
    lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    for row in rows:
        cells = [_escaped(row["method"]), *([_escaped(row["dataset"])] if datasets else [])]
        cells += [
            format_metric(
                row["metrics"].get(name), percent=not scored or name == "parse_rate", interval=intervals
            )
            for name in columns
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _escaped(text: str) -> str:
    """A name of the user's in a cell of Markdown."""
    from critique_rl.reports.page import escape

    return escape(text)


def _columns(rows: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Metrics that a table shows, with their headings."""
    if _scored(rows):
        return SCORED_COLUMNS
    names = {name for row in rows for name in row["metrics"]}
    if "critic_acc_mean" not in names:
        return COLUMNS
    ns = sorted(int(name.rpartition("_")[2]) for name in names if name.startswith("self_critique_at_"))
    shown = [n for n in ns if n in (4, 16, 64, ns[-1])]  # of one candidate there is nothing to choose
    chosen = {f"{name}_at_{n}": f"{label}@{n}" for n in shown for name, label in CHOSEN.items()}
    return PAIRWISE_COLUMNS | chosen


def _scored(rows: Sequence[Mapping[str, Any]]) -> bool:
    return any("score" in row["metrics"] for row in rows)


def format_metric(metric: Mapping[str, Any] | None, *, percent: bool = True, interval: bool = False) -> str:
    """One cell: percent or as it is, with ± over several seeds, and a dash for what is not measured.

    Args:
        metric: As `summarise` gives it.
        percent: Whether it is a share.
        interval: Whether the ends of the interval are shown where there is one seed.
    """
    if metric is None:
        return "–"
    scale, digits = (100, 1) if percent else (1, 2)
    text = f"{scale * metric['mean']:.{digits}f}"
    if len(metric["values"]) == 1:
        if not interval:
            return text
        return f"{text} ({scale * metric['low']:.{digits}f} to {scale * metric['high']:.{digits}f})"
    return f"{text} ± {scale * (metric['high'] - metric['low']) / 2:.{digits}f}"


def plot_curves(histories: Mapping[str, Sequence[Sequence[Mapping[str, Any]]]], path: Path) -> None:
    """Draw discrimination, refinement, KL and entropy over RL steps: mean over seeds, seeds in the back."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    logged = {key for seeds in histories.values() for rows in seeds for row in rows for key in row}
    judged = next((panels for key, panels in DRAWN.items() if key in logged), DRAWN["critic/acc_dis"])
    panels = {key: CURVES[key] for key in (*judged, "kl", "entropy")}
    figure, axes = plt.subplots(2, 3, figsize=(13, 6.5), layout="constrained")
    colours = plt.rcParams["axes.prop_cycle"].by_key()["color"]
    for axis, (key, title) in zip(axes.flat, panels.items(), strict=True):
        for colour, (label, seeds) in zip(colours, histories.items(), strict=False):
            # A step without a value, say without a wrong response in its batch, keeps its place.
            series = [[np.nan if row.get(key) is None else row[key] for row in rows] for rows in seeds]
            series = [s for s in series if not np.isnan(s).all()]
            if not series:
                continue
            length = min(map(len, series))
            smooth = np.array([_smooth(s[:length]) for s in series])
            steps = np.arange(1, length + 1)
            mean = np.ma.masked_invalid(smooth).mean(axis=0).filled(np.nan)
            thin: dict[str, Any] = {"alpha": 0.25 if len(smooth) > 1 else 1.0, "linewidth": 1}
            thick: dict[str, Any] = {"linewidth": 2, "label": label}
            for line, style in (*((line, thin) for line in smooth), (mean, thick)):
                known = ~np.isnan(line)
                axis.plot(steps[known], line[known], color=colour, **style)
        axis.set_title(title, fontsize=10)
        axis.set_xlabel("RL step")
        axis.grid(alpha=0.25)
        axis.spines[["top", "right"]].set_visible(False)
    handles = {
        label: line
        for axis in axes.flat
        for line, label in zip(*axis.get_legend_handles_labels(), strict=True)
    }
    figure.legend(
        handles.values(),
        handles.keys(),
        loc="outside lower center",
        ncols=max(1, len(handles)),
        frameon=False,
    )
    image = io.BytesIO()
    figure.savefig(image, dpi=110)
    plt.close(figure)
    write(path, image.getvalue())


def _smooth(values: Sequence[float], window: int = 9) -> list[float]:
    """Centred moving average, shorter at the ends, so that the first and last point are not shifted; NaN stays."""
    half = window // 2
    windows = [np.array(values[max(0, i - half) : i + half + 1]) for i in range(len(values))]
    return [np.nan if np.isnan(v) else float(np.nanmean(w)) for v, w in zip(values, windows, strict=True)]


def caption(content: Mapping[str, Any], *, intervals: bool = False) -> str:
    """What must be said below the table: what ± means, commit and device, where the records are.

    Args:
        content: A result file.
        intervals: Whether the table shows the intervals of one seed.
    """
    seeds = content["seeds"]
    interval = (
        "one seed; in brackets the 95 % bootstrap interval over its problems"
        if len(seeds) == 1 and intervals
        else "one seed; intervals over items are in report.json"
        if len(seeds) == 1
        else f"mean ± half of the 95 % t-interval over {len(seeds)} seeds"
    )
    unit = "Scores and ratings as they are" if _scored(content["rows"]) else "Percent"
    return (
        f"{unit}; {interval}. Commit {content['commit']}, {content['versions']['device']}. One record per "
        "problem and row: `seed*/evaluate/*/*/records.jsonl`."
    )


def commit_of(package: Path) -> str | None:
    """Commit of the checkout that a package's folder belongs to, `-dirty` where its code or configurations differ.

    Results and pages do not count: the scripts of a study write them one after the other, and none of them would
    be of a clean checkout but the first.

    Returns:
        None where there is no checkout, as when the package is installed inside that of another project.
    """

    def git(*arguments: str) -> str:
        command = ["git", *arguments]
        return subprocess.run(command, cwd=package, capture_output=True, text=True, check=True).stdout.strip()

    try:
        git("ls-files", "--error-unmatch", "__init__.py")
        head = git("rev-parse", "HEAD")
        changed = git(
            "status", "--porcelain", "--untracked-files=no", "--", ".", ":(top)*.py", ":(top)*.yaml"
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return head + ("-dirty" if changed else "")


@functools.cache  # a card for each checkpoint of each table asks for all of them
def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _device() -> str:
    import torch

    if torch.cuda.is_available():
        return f"{torch.cuda.device_count()} x {torch.cuda.get_device_name()}"
    # Other vector instructions sum floats in another order, and the same seeds then train other critics.
    return f"CPU with {torch.backends.cpu.get_cpu_capability()}, {torch.get_num_threads()} threads"
