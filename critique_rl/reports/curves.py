"""The picture of a training: its metrics over RL steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from critique_rl.reports.pictures import PALETTE, colours, panels, plain, save
from critique_rl.training.metrics import CURVES

DRAWN = {
    "reward/r_pref": ("reward/r_pref", "reward/r_format", "critic/parse_rate", "critic/said_first"),
    "critic/mae_dis": ("critic/mae_dis", "critic/parse_rate", "reward/r_dis", "actor/rating_refine"),
    "critic/acc_dis": (
        *("critic/acc_dis", "critic/acc_dis_on_correct", "critic/acc_dis_on_wrong"),
        "actor/acc_refine",
    ),
}
"""Panels beside those of KL and entropy; the first key that is logged decides."""

DASHES = ("-", "--", ":", "-.")
"""Lines of the first stages, of those for which no colour is left, and so on."""


def plot_curves(histories: Mapping[str, Sequence[Sequence[Mapping[str, Any]]]], path: Path) -> None:
    """Draw discrimination, refinement, KL and entropy over RL steps: the mean over seeds, each seed behind it.

    `histories` holds a log for each seed, by label of the stage: one mapping per RL step. The picture is a PNG.
    """
    logged = {key for seeds in histories.values() for rows in seeds for row in rows for key in row}
    drawn = next((drawn for key, drawn in DRAWN.items() if key in logged), DRAWN["critic/acc_dis"])
    figure, axes = panels(2, 3, (13, 6.5))
    colour = colours(histories)
    for axis, key in zip(axes, (*drawn, "kl", "entropy"), strict=True):
        for number, (label, seeds) in enumerate(histories.items()):
            dash = DASHES[number // len(PALETTE) % len(DASHES)]  # colours repeat
            values = [[row.get(key) for row in rows] for rows in seeds]
            _draw(axis, values, label, color=colour[label], linestyle=dash)
        axis.set_title(CURVES[key], fontsize=10)
        axis.set_xlabel("RL step")
        plain(axis)
    save(figure, axes, path, dpi=110)


def _draw(axis: Any, seeds: Sequence[Sequence[float | None]], label: str, **look: str) -> None:
    """Draw one metric of one stage; a step without a value, e.g. without a wrong response, keeps its place."""
    series = [np.array(values, dtype=float) for values in seeds]
    series = [values for values in series if not np.isnan(values).all()]
    if not series:
        return
    length = min(map(len, series))
    smooth = np.array([_smooth(values[:length]) for values in series])
    mean = np.ma.masked_invalid(smooth).mean(axis=0).filled(np.nan)
    thin: dict[str, Any] = {"alpha": 0.25 if len(smooth) > 1 else 1.0, "linewidth": 1}
    thick: dict[str, Any] = {"linewidth": 2, "label": label}
    for line, style in (*((line, thin) for line in smooth), (mean, thick)):
        known = ~np.isnan(line)
        axis.plot(np.arange(1, length + 1)[known], line[known], **look, **style)


def _smooth(values: Sequence[float] | np.ndarray, window: int = 9) -> list[float]:
    """Centred moving average; the window shrinks at the ends, so that no point shifts. NaN stays NaN."""
    half = window // 2
    windows = [np.array(values[max(0, i - half) : i + half + 1]) for i in range(len(values))]
    return [np.nan if np.isnan(v) else float(np.nanmean(w)) for v, w in zip(values, windows, strict=True)]
