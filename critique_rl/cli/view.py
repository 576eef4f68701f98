"""`critique-rl view RUN`: write the page of a run."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from critique_rl.types import UserError

LIMIT = 20_000


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `critique-rl view` to its parser."""
    parser.add_argument(
        "run", help="folder of a run, of one of its seeds, stages or evaluations, or of an `eval`"
    )
    parser.add_argument("--with", dest="other", metavar="OTHER_RUN", help="another run, to compare with")
    parser.add_argument("--output", metavar="FILE", help="the page, by default RUN/view.html")
    parser.add_argument(
        "--limit",
        type=int,
        default=LIMIT,
        help="most episodes of each run: the same problems of all its evaluations, and whole RL steps that are "
        "spread over a training (default: %(default)s)",
    )


def run(arguments: argparse.Namespace) -> int:
    """Gather what the arguments name, write the page and say where it is.

    Returns:
        The exit code.

    Raises:
        UserError: A folder is missing or holds nothing to show, a file of it cannot be read, or the page cannot be
            written.
    """
    if arguments.limit < 1:
        raise UserError(f"--limit must be at least 1, got {arguments.limit}.")
    folders = [Path(given) for given in (arguments.run, arguments.other) if given is not None]
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
    shown = sum(len(source.entries) for source in gathered.sources)
    sys.stdout.write(f"{shown} episodes, {len(page.encode()) / 1e6:.1f} MB: {output}\n")
    return 0
