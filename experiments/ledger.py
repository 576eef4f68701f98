"""Write the ledger: each claim, the script that tests it, our number with its interval, the paper's, the outcome.

    python experiments/ledger.py

Reads `experiments/paper.yaml`, `experiments/llava_critic_r1/paper.yaml` and `experiments/results/PRESET/*.json`,
and writes `experiments/README.md`, so that no number there is typed by hand. Results elsewhere get a README.md in
their folder. Files of one table and preset with different seeds are joined.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

from critique_rl.markdown import table
from critique_rl.studies.claims import Outcome, Status, judge
from critique_rl.studies.paper import Paper, load_paper
from critique_rl.studies.results import combine, load_result
from critique_rl.studies.tables import format_cell
from critique_rl.types import UserError

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results"
COLUMNS = (
    *("claim", "what it says", "bound", "script", "seeds"),
    *("result", "data set", "ours", "paper", "outcome"),
)
HEAD = """# Ledger

Written by `python experiments/ledger.py`; do not edit. A claim says that a difference is above a bound. The
difference is taken seed by seed. **holds**: the 95 % t-interval over seeds lies above the bound. **does not
show**: no part of it does. **undecided**: a part of it does, or one seed has no interval. **not run**: a result
file or a row is missing. Shares are in percentage points, scores in their own unit. Where the paper's number is
of another model or data set, that stands beside it. Intervals are not corrected for the number of claims: of
those about a difference of 0, one in forty holds by chance.

Time has no claim here: `python experiments/bench.py tiny` compares a whole RL step with a plain trl script and
writes `results/bench/tiny.json`; `qwen2.5-0.5b-lora` and `qwen2.5-0.5b-full` take `--model FOLDER`. Both sides get
the same work, and the result holds the tokens that each wrote. `python experiments/growth.py` times our step
against its sizes, memory over 300 steps and a start, in `results/bench/growth.json` and a picture beside it.
"""


def main() -> None:
    """Check the claims and write the ledger."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder with PRESET/*.json")
    parser.add_argument("--output", type=Path, help="file to write, by default README.md here or among them")
    arguments = parser.parse_args()
    try:
        write(arguments.results, arguments.output)
    except UserError as error:
        parser.error(str(error))


def write(results: Path, output: Path | None = None) -> None:
    """Check the claims and write the ledger: beside the scripts, or into the folder of other results."""
    if output is None:
        output = (HERE if results.resolve() == RESULTS else results) / "README.md"
    papers = [load_paper(HERE / folder / "paper.yaml") for folder in (".", "llava_critic_r1")]
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(ledger(papers, results, output.parent), encoding="utf-8")


def ledger(papers: Sequence[Paper], results: Path, start: Path) -> str:
    """Write the ledger as Markdown.

    Args:
        papers: Claims and numbers of the papers; names of tables differ between papers.
        results: Folder with a folder for each preset.
        start: Folder of the ledger, where its links start.

    Raises:
        UserError: A result file is broken, names an unknown table, or cannot be joined with others of its table.
    """
    files, others = _collect(papers, results)
    text = HEAD + "".join("\n" + _of_paper(paper, files, start) for paper in papers)
    if others:
        listed = ", ".join(f"[{name}]({_link(results / name, start)})" for name in others)
        text += f"\nResult files that are of no table and of no claim: {listed}.\n"
    return text


def _of_paper(
    paper: Paper, files: Mapping[tuple[str, str], tuple[list[Path], dict[str, Any]]], start: Path
) -> str:
    lines = []
    counts: dict[str, int] = {}
    for claim in paper.claims:
        of_table = [key for key in files if key[1] == claim.stem]
        for key in of_table or [("", claim.stem)]:
            paths, content = files.get(key, ([], None))
            for outcome in judge(claim, content, paper):
                counts[outcome.status] = counts.get(outcome.status, 0) + 1
                lines.append(_line(outcome, key[0], paths, content, paper, start))
    total = ", ".join(f"{counts.get(status, 0)} {status}" for status in get_args(Status))
    return f"Paper: {paper.source}. In all: {total}.\n\n{table(COLUMNS, lines, raw=True)}\n"


def _collect(
    papers: Sequence[Paper], results: Path
) -> tuple[dict[tuple[str, str], tuple[list[Path], dict[str, Any]]], list[str]]:
    """Result files by preset and table, joined over seeds, and the names of files that belong to no table."""
    by_table: dict[tuple[str, str], list[tuple[Path, dict[str, Any]]]] = {}
    others = []
    for path in sorted(results.glob("*/*.json")):
        if path.parent.name == "bench":  # times of a step, not rows of a table
            continue
        content = load_result(path)
        if "table" not in content:
            others.append(path.relative_to(results).as_posix())
            continue
        known = [stem for paper in papers for stem in paper.tables]
        if content["table"] not in known:
            raise UserError(f"{path}: table '{content['table']}' is in no paper's file.")
        by_table.setdefault((path.parent.name, content["table"]), []).append((path, content))
    return {
        key: ([path for path, _ in parts], combine([content for _, content in parts]))
        for key, parts in by_table.items()
    }, others


def _link(path: Path, start: Path) -> str:
    return Path(os.path.relpath(path, start)).as_posix()


def _line(
    outcome: Outcome,
    preset: str,
    paths: list[Path],
    content: Mapping[str, Any] | None,
    paper: Paper,
    start: Path,
) -> list[str]:
    """Cells of one outcome."""
    claim, unit = outcome.claim, paper.tables[outcome.claim.stem].unit

    def number(value: float | None) -> str:
        return format_cell(value if value is None else {"mean": value, "values": [value]}, claim.metric, unit)

    links = ", ".join(f"[{preset}]({_link(path, start)})" for path in paths)
    if content is not None:
        dirty = content.get("dirty") and not str(content["commit"]).endswith("-dirty")
        commits = [
            c[:7] + ("-dirty" if c.endswith("-dirty") else "") for c in str(content["commit"]).split(", ")
        ]
        links += f" at {', '.join(commits)}" + ("-dirty" if dirty else "")
    seeds = ", ".join(map(str, content["seeds"])) if content is not None else "–"
    theirs = number(outcome.paper) + (f" ({outcome.paper_of})" if outcome.paper_of else "")
    return [
        claim.id,
        claim.text,
        number(claim.at_least),
        f"`{claim.stem}.py`",
        seeds if len(seeds) < 2 or content is None else f"{len(content['seeds'])}: {seeds}",
        links or "–",
        outcome.dataset or "–",
        format_cell(outcome.difference, claim.metric, unit),
        theirs,
        f"**{outcome.status}**" + (f" ({outcome.reason})" if outcome.reason else ""),
    ]


if __name__ == "__main__":
    main()
