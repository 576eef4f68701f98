"""Functions of the notebooks: results that were measured before, and blocks that show episodes, curves and tables.

Only `run_scripts` trains and measures. A result that was not run is a text that says so, not an error.
"""

from __future__ import annotations

import html
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from critique_rl.config.run import EXPERIMENTS
from critique_rl.evaluation.episodes import Episode
from critique_rl.markdown import table as markdown_table
from critique_rl.reports.markdown import caption
from critique_rl.reports.markdown import markdown_table as result_table
from critique_rl.runs.process import go_offline_without_hub, quiet_libraries
from critique_rl.studies import tables
from critique_rl.studies.blocks import (
    COLOURS,
    WIDTH,
    Html,
    Picture,
    Text,
    cases,
    episodes,
    lines,
    measured,
    reduced,
    sheet,
)
from critique_rl.studies.claims import judge
from critique_rl.studies.paper import Paper, load_paper
from critique_rl.studies.results import load_result
from critique_rl.types import UserError, nearest

__all__ = ["COLOURS", "COMMITTED", "EXPERIMENTS", "WIDTH", "Html", "Picture", "Text", "cases", "claims"]
__all__ += ["episodes", "examples", "figure", "lines", "measured", "report", "run_scripts", "sheet", "start"]
__all__ += ["table"]

COMMITTED = EXPERIMENTS / "results"
"""Result files of the repository, a folder for each preset."""
OF_A_RUN = ("report", "curves")
"""Files that no script makes, but the run of a preset; `experiments/update_readme.py` copies them."""
FOLDERS = ("", "llava_critic_r1")
"""Folders of `experiments` with scripts and the numbers of a paper."""


def start(threads: int = 1) -> None:
    """Prepare the process, before anything else is imported: no progress bars, no waiting for a hub out of reach.

    The figures of a run depend on the number of CPU threads of torch.
    """
    go_offline_without_hub()
    quiet_libraries()
    import torch

    torch.set_num_threads(threads)


def table(
    stem: str,
    columns: Sequence[str] = ("acc_refine", "delta", "delta_ci", "delta_ic", "acc_dis", "acc_dis_balanced"),
    *,
    methods: Sequence[str] | None = None,
    preset: str = "tiny",
    results: Path = COMMITTED,
) -> Text:
    """Show the result file of a table script beside the paper's numbers, or that it was not run.

    Args:
        stem: Name of the script, e.g. `table3_ablation`.
        columns: Metrics; those that no row has are left out.
        methods: Methods to show; None shows all.
        preset: Configuration that the script was run with.
        results: Folder of result files, with a folder for each preset.

    Raises:
        UserError: No script has that name, or the result file is broken or has no such method or metric.
    """
    paper, content = _paper(stem), _load(stem, preset, results)
    if content is None:
        return _not_run(stem, preset)
    known = list(dict.fromkeys(row["method"] for row in [*content["rows"], *content.get("not_run", ())]))
    for method in methods or ():
        if method not in known:
            raise UserError(f"{stem} of {preset} has no row '{method}'. {nearest(method, known)}")
    if methods is not None:
        for key in ("rows", "not_run"):
            content[key] = [row for row in content.get(key, ()) if row["method"] in methods]
    in_rows = {name for row in content["rows"] for name in row["metrics"]}
    columns_there = [name for name in columns if name in in_rows or not content["rows"]]
    if not columns_there:
        raise UserError(f"{stem} of {preset} has none of the metrics {', '.join(columns)}.")
    return Text(tables.markdown(content, paper, columns_there))


def report(*, preset: str = "tiny", results: Path = COMMITTED) -> Text:
    """Show the table of a preset's own run and where it comes from, or that it was not run.

    Raises:
        UserError: The result file is broken.
    """
    content = _load("report", preset, results)
    if content is None:
        return _not_run("report", preset)
    return Text(f"{result_table(content['rows'])}\n\n{caption(content)}")


def figure(stem: str, *, preset: str = "tiny", results: Path = COMMITTED) -> Picture | Text:
    """Show the figure of a result file, or that there is none; arguments as of `table`.

    `curves` is the figure of a preset's own run.
    """
    path = results / preset / f"{stem}.png"
    if not path.exists():
        return _not_run(stem, preset)
    with Image.open(path) as image:
        return reduced(image)


def claims(*stems: str, preset: str = "tiny", results: Path = COMMITTED) -> Text:
    """Show which of the paper's claims hold in the result files of some scripts, as in the ledger.

    Arguments and errors as of `table`; the ledger is `experiments/README.md`.
    """
    rows = []
    for stem in stems:
        paper, content = _paper(stem), _load(stem, preset, results)
        unit = paper.table(stem).unit
        for claim in (c for c in paper.claims if c.stem == stem):
            for outcome in judge(claim, content, paper):
                theirs = None if outcome.paper is None else {"mean": outcome.paper, "values": [outcome.paper]}
                numbers = [tables.format_cell(m, claim.metric, unit) for m in (outcome.difference, theirs)]
                status = outcome.status + (f" ({outcome.reason})" if outcome.reason else "")
                rows.append((claim.text, outcome.dataset or "–", *numbers, status))
    head = ("claim", "data set", "ours, difference", "paper", "outcome")
    return Text(markdown_table(head, rows, numbers=0))


def examples(stem: str, *, most: int = 1, preset: str = "tiny", results: Path = COMMITTED) -> Html | Text:
    """Show at most `most` pairs of episodes that a result file holds; other arguments and errors as of `table`."""
    content = _load(stem, preset, results)
    if content is None:
        return _not_run(stem, preset)
    parts = []
    for example in content.get("examples", ())[:most]:
        named = {row.pop("method"): Episode(**row) for row in example["episodes"]}
        about = f"<p>{html.escape(example['about'])}; one of {int(example['of'])}</p>"
        parts.append(about + episodes(named).html)
    return Html("".join(parts)) if parts else Text(f"`{stem}` found no such episodes.")


def run_scripts(stems: Sequence[str], *, preset: str = "tiny", seeds: Sequence[int], into: Path) -> Path:
    """Run table scripts: they train and measure what is missing, and reuse the finished steps in `into`.

    `preset` is the name of a configuration, or the path of one; every row is run with all `seeds`.

    Returns:
        Folder of the result files, for `results` of the other functions.

    Raises:
        UserError: No script has that name, or a script ended with an error, which is on stderr.
    """
    into.mkdir(parents=True, exist_ok=True)
    results = (into / "results").resolve()
    for stem in stems:
        command = [sys.executable, str(_script(stem)), "--preset", preset, "--results", str(results)]
        code = subprocess.run([*command, "--seeds", *map(str, seeds)], cwd=into, check=False).returncode
        if code:
            raise UserError(f"{stem} ended with exit code {code}; what went wrong stands above.")
    return results


def _script(stem: str) -> Path:
    paths = {path.stem: path for folder in FOLDERS for path in (EXPERIMENTS / folder).glob("*.py")}
    if not paths:
        raise UserError(f"there is no folder {EXPERIMENTS}: the notebooks need a clone of the repository.")
    if stem not in paths:
        raise UserError(f"experiments/{stem}.py is not there. {nearest(stem, paths)}")
    return paths[stem]


def _paper(stem: str) -> Paper:
    """The numbers of the paper that a script is about."""
    return load_paper(_script(stem).with_name("paper.yaml"))


def _load(stem: str, preset: str, results: Path) -> dict[str, Any] | None:
    path = results / preset / f"{stem}.json"
    return load_result(path) if path.exists() else None


def _not_run(stem: str, preset: str) -> Text:
    if stem in OF_A_RUN:
        return Text(f"**Not run.** To make it: `critique-rl run experiments/configs/{preset}.yaml`")
    script = _script(stem).relative_to(EXPERIMENTS.parent)
    return Text(f"**Not run.** To make it: `python {script.as_posix()} --preset {preset}`")
