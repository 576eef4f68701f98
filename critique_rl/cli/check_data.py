"""TODO docstring."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from critique_rl.runs.process import go_offline_without_hub

if TYPE_CHECKING:
    from critique_rl.display import Outcome


def _check_arguments(parser: argparse.ArgumentParser) -> None:
    from critique_rl.tasks import TASKS

    parser.add_argument("task", choices=list(TASKS), metavar="TASK", help=f"one of {', '.join(TASKS)}")
    parser.add_argument("source", nargs="?", help="local file or directory; the hub if left out")
    parser.add_argument("--split", default="test", help="train, validation or test, which is the default")
    parser.add_argument(
        "--option", action="append", default=[], metavar="KEY=VALUE", help="option of the task"
    )


def _check_data(arguments: argparse.Namespace) -> Outcome:
    from critique_rl.cli.evaluate import task_options
    from critique_rl.display import Display, Outcome
    from critique_rl.tasks import gold_report, load_task

    go_offline_without_hub()
    options = task_options(arguments.option)
    problems = load_task(arguments.task, source=arguments.source, split=arguments.split, **options)
    with Display(quiet=arguments.quiet).step(f"{arguments.task}, {arguments.split}", 1, 1):
        report = gold_report(problems)
    row = {"task": arguments.task, "source": arguments.source, "split": arguments.split}
    counts = {name: getattr(report, name) for name in ("correct", "wrong", "ungradable")}
    failures = [failure._asdict() for failure in report.failures]
    return Outcome(report.summary(), [{**row, **counts, "failures": failures}], status=2 if failures else 0)
