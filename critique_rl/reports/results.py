"""Rows of a run's result table, and the logs of its trainings, from finished steps."""

from __future__ import annotations

from typing import Any

from critique_rl.runs.folder import RunFolder
from critique_rl.runs.steps import STEP_KINDS


def result_rows(folder: RunFolder) -> list[dict[str, Any]]:
    """Rows of the result table of a finished run, by data set: `method`, `dataset`, `metrics`."""
    labels, seeds = folder.labels(), folder.config.seeds
    rows = [
        {"method": labels[row["row"].partition("@")[0]], "dataset": row["dataset"], "metrics": row["metrics"]}
        for kind in STEP_KINDS.values()
        for row in kind.rows(folder, seeds)
    ]
    return by_dataset(rows)


def by_dataset(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows grouped by data set, data sets and rows within one in their order."""
    order = list(dict.fromkeys(row["dataset"] for row in rows))
    return sorted(rows, key=lambda row: order.index(row["dataset"]))


def histories(folder: RunFolder) -> dict[str, list[list[dict[str, Any]]]]:
    """Log of each stage by its label, for each seed one entry per RL step."""
    return {
        stage.label: [folder.history(seed, name) for seed in folder.config.seeds]
        for name, stage in folder.config.stages.items()
    }
