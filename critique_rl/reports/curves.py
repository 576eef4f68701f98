"""TODO docstring."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from critique_rl.records import write

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
