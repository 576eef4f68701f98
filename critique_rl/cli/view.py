"""`critique-rl view`: write a page of a run that opens in a browser."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from critique_rl.config.checks import at_least
from critique_rl.types import UserError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `critique-rl view`."""
    parser.add_argument(
        "run", help="folder of a run, of one of its seeds, stages or evaluations, or of an `eval`"
    )
    parser.add_argument(
        "--with",
        dest="others",
        metavar="OTHER_RUN",
        action="append",
        default=[],
        help="another run, to compare with; may be given several times",
    )
    parser.add_argument("--output", metavar="FILE", help="the page, by default RUN/view.html")
    parser.add_argument(
        "--limit",
        type=int,
        default=20_000,
        help="most episodes of each run: the same problems from all evaluations, and whole RL steps spread over "
        "a training (default: %(default)s)",
    )


def run(arguments: argparse.Namespace) -> int:
    """Read the run folders, write the page, print its path, and return the exit code.

    Raises:
        UserError: A folder is missing or holds nothing to show, or a file cannot be read or written.
    """
    at_least(1, "--", limit=arguments.limit)
    folders = [Path(folder) for folder in (arguments.run, *arguments.others)]
    output = folders[0] / "view.html" if arguments.output is None else Path(arguments.output)
    if output.is_dir():
        raise UserError(f"--output {output} is a folder; name a file, such as {output / 'view.html'}.")
    from critique_rl.view.gather import gather  # slow to import
    from critique_rl.view.page import render

    gathered = gather(folders, limit=arguments.limit)
    page = render(gathered)
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text(page, encoding="utf-8")
    except OSError as error:
        raise UserError(f"--output {output} cannot be written: {error}") from error
    for note in gathered.notes:
        sys.stderr.write(f"note: {note}\n")
    episodes = sum(len(source.entries) for source in gathered.sources)
    sys.stdout.write(f"{episodes} episodes, {len(page.encode()) / 1e6:.1f} MB: {output}\n")
    return 0
