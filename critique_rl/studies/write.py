"""TODO docstring."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from critique_rl.config.reading import as_dict
from critique_rl.prompts import prompt_set
from critique_rl.reports.provenance import result
from critique_rl.reports.report import of_training
from critique_rl.studies.study import Row, Study, Table, measure

if TYPE_CHECKING:
    from critique_rl.reports.model_card import Measured
    from critique_rl.studies.paper import Paper


def make(stem: str, build: Callable[[Study], Table], study: Study, results: Path) -> Path:
    """Measure one table and write `results/PRESET/STEM.{json,md,html,tex,png}`.

    Returns:
        Path of the result file.
    """
    tables = {stem: build(study)}
    for error in measure(tables, study).values():
        raise error
    return write(tables, study, results)[stem]


def write(
    tables: Mapping[str, Table], study: Study, results: Path, failed: dict[str, BaseException] | None = None
) -> dict[str, Path]:
    """Write and draw the results of tables of which everything is measured; as `make` in what is written.

    The cards of their checkpoints come last and once: one checkpoint is in many tables.

    Args:
        tables: By stem.
        study: The preset's.
        results: Folder of the presets' folders.
        failed: Gets, by stem, what went wrong, and the other tables are written; without it, it is raised.

    Returns:
        Paths of the result files by stem.
    """
    from critique_rl.reports import model_card
    from critique_rl.studies.paper import load_paper

    paper = load_paper(study.scripts / "paper.yaml")
    paths: dict[str, Path] = {}
    folders: dict[Path, tuple[Study, list[Row], list[Measured]]] = {}
    for stem, table in tables.items():
        of = table.study or study
        try:
            content = _content(stem, table, of)
            paths[stem] = _write(content, table, results / of.preset, paper)
        except Exception as error:
            if failed is None:
                raise
            failed[stem] = error
            continue
        _, rows, measured = folders.setdefault(of.config.directory, (of, [], []))
        rows += table.rows
        measured += of.measured(table.rows, content["rows"])
    for of, rows, measured in folders.values():
        if rows:
            model_card.write_all(of.folder(rows), measured)
    return paths


def _content(stem: str, table: Table, study: Study) -> dict[str, Any]:
    """What the result file of a table holds."""
    folder = study.folder(table.rows)
    config = folder.config
    content = result(as_dict(config), study.seeds, study.results(table.rows))
    if table.rows:
        content |= of_training(folder, whole=False)
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
    """Write a result file and draw it; its path."""
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / f"{content['table']}.json"
    indent = None if table.curves else 1  # a number a line would make the curves' file long
    path.write_text(json.dumps(content, indent=indent, ensure_ascii=False) + "\n", encoding="utf-8")
    draw(content, table, directory, paper)
    sys.stdout.write(f"{path}\n")
    return path


def draw(content: dict[str, Any], table: Table, directory: Path, paper: Paper) -> None:
    """Render a result file as Markdown, HTML, LaTeX and PNG beside the paper's numbers."""
    from critique_rl.reports import page
    from critique_rl.reports.columns import COLUMNS
    from critique_rl.reports.curves import plot_curves
    from critique_rl.studies import charts, tables

    stem = content["table"]
    measured = {name for row in content["rows"] for name in row["metrics"]}
    columns = [name for name in table.columns if name in measured]
    if not columns:  # then whatever there is
        columns = [name for name in COLUMNS if name in measured] or list(table.columns)
    lines, bars = (charts.drawable(content, names) for names in (table.lines, table.bars))
    picture = directory / f"{stem}.png"
    picture.unlink(missing_ok=True)
    if table.curves:
        logs = {
            label: [
                [dict(zip(seed, row, strict=True)) for row in zip(*seed.values(), strict=True)]
                for seed in seeds
            ]
            for label, seeds in content["curves"].items()
        }
        plot_curves(logs, picture)
    elif lines:
        charts.draw_lines(content, paper, lines, picture, x_label=table.x_label)
    elif bars:
        charts.draw_bars(content, paper, bars, picture)
    text = f"# {stem}\n\n{tables.markdown(content, paper, columns)}\n"
    if picture.exists():
        text += f"\n![{stem}]({picture.name})\n"
    for example in content.get("examples", ()):
        text += "\n" + _page_of(example)
    if content["rows"]:
        text += f"\n{page.sections(content, whole=False)}\n"
    page.write_pages(text, stem, directory / stem, [picture] if picture.exists() else [])
    (directory / f"{stem}.tex").write_text(tables.latex(content, paper, columns), encoding="utf-8")


def _page_of(example: Mapping[str, Any]) -> str:
    """Two episodes of one problem as Markdown; what models wrote is fenced, as it may hold anything."""
    from critique_rl.reports.markdown import escape, fenced

    parts = [f"## {example['about']}", f"Problem {escape(example['id'])}, seed {example['seed']}"]
    first = example["episodes"][0]
    parts += [
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
