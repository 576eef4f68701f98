"""The result file of a run, its table, its training curves and its pages.

One shape for every run and table script:
`{"config", "commit", "versions", "seeds", "rows": [{"method", "dataset", "metrics"}]}` with
`metrics[name] = {"mean", "low", "high", "values"}` in fractions of 1, one value per seed. The commit ends in
`-dirty` where code or configurations differ from it; the versions name the device too. Newer files also hold
"health" (`{"checked", "findings"}`, see `reports.health.Finding`) and "costs" (see `reports.costs.Cost`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from critique_rl.config.reading import as_dict
from critique_rl.config.run import RunConfig
from critique_rl.markdown import escape
from critique_rl.methods.options import option
from critique_rl.records import write
from critique_rl.reports import page
from critique_rl.reports.costs import costs
from critique_rl.reports.curves import plot_curves
from critique_rl.reports.health import check, check_rows
from critique_rl.reports.markdown import caption, markdown_table
from critique_rl.reports.provenance import result
from critique_rl.reports.results import histories, result_rows
from critique_rl.runs.folder import RunFolder


def write_report(folder: RunFolder) -> Path:
    """Write report.json, pages, curves and the cards' figures of a finished run; returns report.json's path."""
    from critique_rl.reports import model_card  # slow to import

    rows, labels = result_rows(folder), folder.labels()
    path = write_result(folder.config, rows, histories(folder), health_and_costs(folder, rows, whole=True))
    by_row = {(row["method"], row["dataset"]): row["metrics"] for row in rows}
    measured = [(m.row, m.task, by_row[labels[m.stage], m.task.title]) for m in folder.measurements]
    model_card.write_all(folder, measured)
    return path


def write_result(
    config: RunConfig,
    rows: Sequence[Mapping[str, Any]],
    logs: Mapping[str, Sequence[Sequence[Mapping[str, Any]]]],
    training: Mapping[str, Any] | None = None,
) -> Path:
    """Write report.json, report.md, report.html and curves.png into a run's folder.

    Args:
        rows: `method`, `dataset` and `metrics` as `summarise` gives them.
        logs: By label of the stage, for each seed, the log of the trainer with one mapping per RL step.
        training: Health and costs, see `health_and_costs`.

    Returns:
        Path of report.json.
    """
    kept = [{key: row[key] for key in ("method", "dataset", "metrics")} for row in rows]
    content = result(as_dict(config), config.seeds, kept) | dict(training or {})
    path, picture = config.directory / "report.json", config.directory / "curves.png"
    write(path, json.dumps(content, indent=1, ensure_ascii=False) + "\n")
    if logs:
        plot_curves(logs, picture)
    figures = f"{markdown_table(rows, intervals=True)}\n\n{caption(content, intervals=True)}\n"
    curves = f"\n![training curves]({picture.name})\n" if logs else ""
    text = f"# {escape(config.name)}\n\n{figures}{curves}\n{page.sections(content)}\n"
    page.write_pages(text, config.name, config.directory / "report", [picture] if logs else [])
    return path


def health_and_costs(folder: RunFolder, rows: Sequence[Mapping[str, Any]], *, whole: bool) -> dict[str, Any]:
    """The parts "health" and "costs" of the result file of a finished run with these rows.

    With `whole`, findings of a training inside the healthy range are kept too; those of rows are in the table.
    """
    config = folder.config
    trained = [
        finding
        for name, stage in config.stages.items()
        for seed in config.seeds
        for finding in check(
            folder.history(seed, name),
            stage=stage.label,
            seed=seed,
            refines=option(as_dict(stage), "refinement_reward") is not None,
            limit=config.lengths.critique,
        )
    ]
    measured = check_rows(rows, config.seeds)
    kept = [f for f in trained if whole or f.outside] + [f for f in measured if f.outside]
    return {
        "health": {
            "checked": len(trained) + len(measured),
            "findings": [as_dict(finding) for finding in kept],
        },
        "costs": [as_dict(cost) for cost in costs(folder)],
    }
