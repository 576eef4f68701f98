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
from typing import TYPE_CHECKING, Any

from critique_rl.config.reading import as_dict
from critique_rl.config.run import RunConfig
from critique_rl.records import write
from critique_rl.reports.curves import plot_curves
from critique_rl.reports.markdown import caption, markdown_table
from critique_rl.reports.provenance import result

if TYPE_CHECKING:
    from critique_rl.runs.run import Run


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
    from critique_rl.reports import model_card, page

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
