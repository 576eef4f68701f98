"""Command line of the scripts in `experiments`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from critique_rl.config.run import EXPERIMENTS
from critique_rl.runs.process import go_offline_without_hub, guarded
from critique_rl.studies.study import Study, Table, study_of
from critique_rl.studies.write import make
from critique_rl.types import UserError


def main(script: str, build: Callable[[Study], Table], argv: Sequence[str] | None = None) -> None:
    """Run one script: measure what is missing of the table that `build` makes, then write and draw the result.

    `script` is the script's `__file__`; the result file has the same stem. `argv` defaults to the process's own.
    """
    stem = Path(script).stem
    parser = argparse.ArgumentParser(description=f"Make {stem} of one preset.")
    add_arguments(parser)
    arguments = parser.parse_args(argv)
    code = guarded(lambda: make(stem, build, load_study(arguments), Path(arguments.results)))
    if code:
        sys.exit(code)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that all scripts share."""
    names = sorted(path.stem for path in (EXPERIMENTS / "configs").glob("*.yaml"))
    presets = [name for name in names if not name.endswith("-summarisation")]  # these serve Table 9 alone
    parser.add_argument("--preset", default="tiny", help=f"one of {', '.join(presets)}, or a YAML file")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="seeds of every row")
    parser.add_argument("--jobs", type=int, default=1, help="seeds that run beside each other")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override a setting")
    parser.add_argument("--results", default=str(EXPERIMENTS / "results"), help="where results are written")


def load_study(arguments: argparse.Namespace) -> Study:
    """Make the study that the arguments name; its runs are in `runs/tables/PRESET`.

    Raises:
        UserError: `--jobs` is below 1, or the preset is no valid configuration.
    """
    path = Path(arguments.preset)
    if path.suffix != ".yaml":
        path = EXPERIMENTS / "configs" / f"{arguments.preset}.yaml"
    if arguments.jobs < 1:
        raise UserError(f"--jobs must be at least 1, got {arguments.jobs}.")
    study = study_of(path, path.stem, arguments.seeds, arguments.jobs, arguments.set)
    go_offline_without_hub()  # only now: `env` of the file may name another hub
    return study
