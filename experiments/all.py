"""Make every table, figure and control of one preset, then the ledger.

    python experiments/all.py --preset tiny --seeds 0 1 2 --jobs 2

A preset with a stage `critic` runs the scripts of LLaVA-Critic-R1, in `llava_critic_r1`.

Missing steps are trained and measured first, `--jobs` seeds in parallel. Finished steps are reused, so the same
command continues after an interruption. If one script fails, the others are still made.

`--redraw` measures nothing: it renders the result files that are there, after a change of how they are shown.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from pathlib import Path

from critique_rl.runs.process import guarded
from critique_rl.studies.execute import measure
from critique_rl.studies.script import add_arguments, load_study
from critique_rl.studies.write import redraw, write

KINDS = ("table", "figure", "controls")


def stems(scripts: Path) -> list[str]:
    """The scripts of a paper in its order."""
    names = [p.stem for p in scripts.glob("*.py") if p.stem.startswith(KINDS)]

    def order(stem: str) -> tuple[int, int, str]:
        head = stem.partition("_")[0]
        number = "".join(c for c in head if c.isdigit())
        return KINDS.index(head.removesuffix(number)), int(number or 0), stem

    return sorted(names, key=order)


def main() -> int:
    """Read the arguments and make all tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_arguments(parser)
    parser.add_argument(
        "--only", nargs="+", metavar="STEM", help="some of the scripts, by the start of their name"
    )
    parser.add_argument("--redraw", action="store_true", help="render the result files that are there anew")
    arguments = parser.parse_args()
    return guarded(lambda: everything(arguments))


def everything(arguments: argparse.Namespace) -> int:
    """Measure and write all results, or draw those that are there; then write the ledger.

    Returns:
        The exit code.
    """
    study, results = load_study(arguments), Path(arguments.results)
    sys.path.insert(0, str(study.scripts))
    chosen = [
        stem for stem in stems(study.scripts) if not arguments.only or stem.startswith(tuple(arguments.only))
    ]
    tables = {stem: importlib.import_module(stem).build(study) for stem in chosen}
    failed: dict[str, BaseException] = {}
    if arguments.redraw:
        redraw(tables, study, results)
    else:
        failed = measure(tables, study)
        write({stem: table for stem, table in tables.items() if stem not in failed}, study, results, failed)
    for stem, error in failed.items():
        sys.stderr.write(f"failed: {stem}: {error}\n")
    importlib.import_module("ledger").write(results)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
