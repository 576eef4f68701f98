"""`critique-rl check-data`: load a data set and grade each gold answer as if it were a reply."""

from __future__ import annotations

import argparse

from critique_rl.cli.shared import add_split_arguments, task_options
from critique_rl.display import Display, Outcome
from critique_rl.runs.process import go_offline_without_hub
from critique_rl.tasks import TASKS, gold_report, load_task


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `critique-rl check-data`."""
    parser.add_argument("task", choices=list(TASKS), metavar="TASK", help=f"one of {', '.join(TASKS)}")
    parser.add_argument("source", nargs="?", help="local file or directory; the hub if left out")
    add_split_arguments(parser)


def run(arguments: argparse.Namespace) -> Outcome:
    """Count the gold answers graded correct, wrong or ungradable, and list the failures; exit code 2 if any.

    Raises:
        UserError: The split cannot be loaded, or an option is wrong.
    """
    go_offline_without_hub()
    options = task_options(arguments.option)
    problems = load_task(arguments.task, source=arguments.source, split=arguments.split, **options)
    with Display(quiet=arguments.quiet).step(f"{arguments.task}, {arguments.split}", 1, 1):
        report = gold_report(problems)
    row = {"task": arguments.task, "source": arguments.source, "split": arguments.split}
    counts = {name: getattr(report, name) for name in ("correct", "wrong", "ungradable")}
    failures = [failure._asdict() for failure in report.failures]
    return Outcome(report.summary(), [{**row, **counts, "failures": failures}], status=2 if failures else 0)
