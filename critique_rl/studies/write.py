"""Writes the result file of a table, and its pages and picture beside the paper's numbers."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from critique_rl.config.reading import as_dict
from critique_rl.markdown import escape, fenced
from critique_rl.prompts import prompt_set
from critique_rl.reports import page
from critique_rl.reports.columns import COLUMNS
from critique_rl.reports.curves import plot_curves
from critique_rl.reports.provenance import result
from critique_rl.reports.report import health_and_costs
from critique_rl.studies import charts, tables
from critique_rl.studies.execute import measure
from critique_rl.studies.paper import Paper, load_paper
from critique_rl.studies.study import Row, Study, Table

if TYPE_CHECKING:
    from critique_rl.reports.model_card import Measured


def make(stem: str, build: Callable[[Study], Table], study: Study, results: Path) -> Path:
    """Measure one table and write `results/PRESET/STEM.{json,md,html,tex,png}`; returns the path of the JSON."""
    by_stem = {stem: build(study)}
    for error in measure(by_stem, study).values():
        raise error
    return write(by_stem, study, results)[stem]


def write(
    by_stem: Mapping[str, Table], study: Study, results: Path, failed: dict[str, BaseException] | None = None
) -> dict[str, Path]:
    """Write and draw the results of tables that are fully measured, the same files as `make`.

    Cards of checkpoints come last and once, since one checkpoint is in many tables. `failed` collects errors by
    stem, so that the other tables are still written; with None, errors are raised.

    Returns:
        Paths of the result files by stem.
    """
    from critique_rl.reports import model_card  # loads the hub's client, which reads HF_HUB_OFFLINE once

    paper = load_paper(study.scripts / "paper.yaml")
    paths: dict[str, Path] = {}
    folders: dict[Path, tuple[Study, list[Row], list[Measured]]] = {}
    for stem, table in by_stem.items():
        owner = table.study or study
        try:
            content = _content(stem, table, owner)
            paths[stem] = _write(content, table, results / owner.preset, paper)
        except Exception as error:
            if failed is None:
                raise
            failed[stem] = error
            continue
        _, rows, measured = folders.setdefault(owner.config.directory, (owner, [], []))
        rows += table.rows
        measured += owner.measured(table.rows, content["rows"])
    for owner, rows, measured in folders.values():
        if rows:
            model_card.write_all(owner.folder(rows), measured)
    return paths


def redraw(by_stem: Mapping[str, Table], study: Study, results: Path) -> None:
    """Draw the result files of tables anew; nothing is measured, and a table without a file is left out."""
    paper = load_paper(study.scripts / "paper.yaml")
    for stem, table in by_stem.items():
        path = results / (table.study or study).preset / f"{stem}.json"
        if path.exists():
            draw(json.loads(path.read_text(encoding="utf-8")), table, path.parent, paper)
            sys.stdout.write(f"{path}\n")


def _content(stem: str, table: Table, study: Study) -> dict[str, Any]:
    """Content of the result file of a table."""
    folder = study.folder(table.rows)
    config = folder.config
    content = result(as_dict(config), study.seeds, study.results(table.rows))
    if table.rows:
        content |= health_and_costs(folder, content["rows"], whole=False)
    prompts = prompt_set(config.prompts)
    content |= {
        "table": stem,
        "preset": study.preset,
        "prompts": {"name": prompts.name, "version": prompts.version},
        "dirty": str(content["commit"]).endswith("-dirty"),
        "not_run": [as_dict(row) for row in table.not_run],
    }
    if table.curves:
        content["curves"] = study.curves(table.curves)
    if table.example:
        content["examples"] = study.examples(table.example, table.rows)
    return content


def _write(content: dict[str, Any], table: Table, directory: Path, paper: Paper) -> Path:
    """Write a result file and draw it; returns its path."""
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / f"{content['table']}.json"
    indent = None if table.curves else 1  # one line per number would make a file of curves long
    path.write_text(json.dumps(content, indent=indent, ensure_ascii=False) + "\n", encoding="utf-8")
    draw(content, table, directory, paper)
    sys.stdout.write(f"{path}\n")
    return path


def draw(content: dict[str, Any], table: Table, directory: Path, paper: Paper) -> None:
    """Render a result file as Markdown, HTML, LaTeX and PNG beside the paper's numbers."""
    stem = content["table"]
    measured = {name for row in content["rows"] for name in row["metrics"]}
    columns = [name for name in table.columns if name in measured]
    columns = columns or [name for name in COLUMNS if name in measured] or list(table.columns)
    picture = directory / f"{stem}.png"
    picture.unlink(missing_ok=True)
    lines, bars = (charts.drawable(content, names) for names in (table.lines, table.bars))
    if table.curves:
        plot_curves({label: [*map(_log, seeds)] for label, seeds in content["curves"].items()}, picture)
    elif lines:
        charts.draw_lines(content, paper, lines, picture, x_label=table.x_label)
    elif bars:
        charts.draw_bars(content, paper, bars, picture)
    text = f"# {stem}\n\n{tables.markdown(content, paper, columns)}\n"
    if picture.exists():
        text += f"\n![{stem}]({picture.name})\n"
    text += "".join(f"\n{_example(example)}" for example in content.get("examples", ()))
    if content["rows"]:
        text += f"\n{page.sections(content, whole=False)}\n"
    page.write_pages(text, stem, directory / stem, [picture] if picture.exists() else [])
    (directory / f"{stem}.tex").write_text(tables.latex(content, paper, columns), encoding="utf-8")


def _log(curves: Mapping[str, list[float | None]]) -> list[dict[str, float | None]]:
    """Log of one seed, a mapping per RL step, from the list of each metric."""
    return [dict(zip(curves, values, strict=True)) for values in zip(*curves.values(), strict=True)]


def _example(example: Mapping[str, Any]) -> str:
    """Two episodes of one problem as Markdown; texts of models may hold anything and are fenced."""
    first = example["episodes"][0]
    parts = [
        f"## {example['about']}",
        f"Problem {escape(example['id'])}, seed {example['seed']}",
        "Question",
        fenced(first["question"]),
        f"Response ({'right' if first['response_correct'] else 'wrong'})",
        fenced(first["response"]),
    ]
    for episode in example["episodes"]:
        if episode["critique"] is None:
            parts.append(f"**{episode['method']}** writes no critique.")
            continue
        truth = "right" if episode["refinement_correct"] else "wrong"
        parts += [
            f"**{episode['method']}**, verdict {episode['verdict']}",
            fenced(episode["critique"]),
            f"Refinement ({truth}; the answer is {escape(first['answer'])})",
            fenced(episode["refinement"]),
        ]
    return "\n\n".join(parts) + "\n"
