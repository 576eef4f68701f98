"""Every table, figure and control of one preset, one after the other, and then the ledger.

    python experiments/all.py --preset tiny --seeds 0 1 2 --jobs 2

The preset says of which paper: those with a stage `critic` are of LLaVA-Critic-R1, in `llava_critic_r1`.

What is missing is trained and measured first, with `--jobs` seeds beside each other; what is there is reused, so
that the same command goes on after an interruption. A script that fails does not keep the others from being made.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from pathlib import Path

from critique_rl.runs.process import guarded
from critique_rl.studies.script import add_arguments, load_study
from critique_rl.studies.study import measure
from critique_rl.studies.write import write

KINDS = ("table", "figure", "controls")


def stems(scripts: Path) -> list[str]:
    """The scripts of a paper in its order."""
    found = [p.stem for p in scripts.glob("*.py") if p.stem.startswith(KINDS)]

    def order(stem: str) -> tuple[int, int, str]:
        head = stem.partition("_")[0]
        number = "".join(c for c in head if c.isdigit())
        return KINDS.index(head.removesuffix(number)), int(number or 0), stem

    return sorted(found, key=order)


def main() -> int:
    """Make them."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_arguments(parser)
    parser.add_argument(
        "--only", nargs="+", metavar="STEM", help="some of the scripts, by the start of their name"
    )
    arguments = parser.parse_args()
    return guarded(lambda: everything(arguments))


def everything(arguments: argparse.Namespace) -> int:
    """Measure, write all results, then the ledger.

    Returns:
        The exit code.
    """
    study, results = load_study(arguments), Path(arguments.results)
    sys.path.insert(0, str(study.scripts))
    chosen = [
        stem for stem in stems(study.scripts) if not arguments.only or stem.startswith(tuple(arguments.only))
    ]
    tables = {stem: importlib.import_module(stem).build(study) for stem in chosen}
    failed = measure(tables, study)
    write({stem: table for stem, table in tables.items() if stem not in failed}, study, results, failed)
    for stem, error in failed.items():
        sys.stderr.write(f"failed: {stem}: {error}\n")
    importlib.import_module("ledger").write(results)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
