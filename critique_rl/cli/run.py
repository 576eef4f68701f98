"""`critique-rl run`, its subcommands for single kinds of steps, and `report`."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING

from critique_rl.runs.process import go_offline_without_hub, quiet_libraries, set_threads
from critique_rl.types import UserError

if TYPE_CHECKING:
    from critique_rl.config.run import RunConfig
    from critique_rl.display import Outcome
    from critique_rl.runs.step import Step


def config_arguments(parser: argparse.ArgumentParser, *, plans: bool = False) -> None:
    """Declare the arguments of a command that reads a configuration; `--dry-run` only where it `plans`."""
    parser.add_argument("config", help="YAML file, see experiments/configs")
    parser.add_argument("--seeds", type=int, nargs="+", help="seeds instead of the config's")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override a setting")
    parser.add_argument("--from-scratch", action="store_true", help="make the shipped cold-start models anew")
    if plans:
        parser.add_argument(
            "--dry-run",
            action="store_true",
            help="check the configuration and print the plan: memory by part and hours",
        )
        parser.add_argument(
            "--launch", metavar="FILE", help="accelerate configuration to plan for, see experiments/launch"
        )
        parser.add_argument("--gpu", metavar="NAME", help="card to plan for (default: A100-80GB)")


def _load(arguments: argparse.Namespace) -> RunConfig:
    """The configuration; its `env` holds for what is imported after, and for the check of the hub."""
    from critique_rl.config.run import load_config

    seeds = [] if arguments.seeds is None else [f"seeds={arguments.seeds}"]
    config = load_config(arguments.config, [*arguments.set, *seeds])
    go_offline_without_hub()
    return config


def run(arguments: argparse.Namespace) -> Outcome | int:
    """Run all steps and write the report; with `--dry-run` only print the plan."""
    if not arguments.dry_run:
        if arguments.launch or arguments.gpu:
            raise UserError(
                "--launch and --gpu are for --dry-run; to start a run with a launch: accelerate launch "
                f"--config_file {arguments.launch or 'FILE'} -m critique_rl.cli run {arguments.config}"
            )
        return report(arguments) if run_steps(arguments) else 0
    config = _load(arguments)  # before what is slow to import
    from critique_rl.display import Outcome
    from critique_rl.runs.dry_run import describe
    from critique_rl.runs.launch import DEFAULT_GPU

    set_threads(config)  # the hours are for them
    quiet_libraries()
    plan = describe(
        config,
        from_scratch=arguments.from_scratch,
        launch=arguments.launch,
        gpu=arguments.gpu or DEFAULT_GPU,
    )
    return Outcome(plan, paths={"run": config.directory}, more={"plan": plan.splitlines()})


def run_steps(arguments: argparse.Namespace, kinds: Sequence[str] = ()) -> Outcome | int:
    """Run the steps of some kinds, or all, after a line on each with its hours.

    Only the first process of a distributed launch has an outcome.
    """
    config = _load(arguments)  # before what is slow to import
    from critique_rl.display import Display, Outcome
    from critique_rl.records import is_first_process
    from critique_rl.reports.model_card import write_new
    from critique_rl.runs.estimate import plan
    from critique_rl.runs.run import Run

    set_threads(config)
    quiet_libraries()
    display = Display(quiet=arguments.quiet or not is_first_process())
    run = Run(config, display=display, from_scratch=arguments.from_scratch)

    def show_plan(steps: Sequence[Step]) -> None:
        for line in () if arguments.quiet else plan(run.context, steps):
            display.note(line)

    run.execute(kinds or None, before_steps=show_plan, after_step=lambda step: write_new(run.folder, step))
    if not is_first_process():
        return 0
    return Outcome(paths={step.name: step.directory for step in run.steps() if step.command in kinds})


def report(arguments: argparse.Namespace) -> Outcome:
    """Write the report of a finished run."""
    config = _load(arguments)  # before what is slow to import
    from critique_rl.display import Display, Outcome
    from critique_rl.reports.markdown import markdown_table
    from critique_rl.reports.report import write_report
    from critique_rl.runs.folder import rollouts
    from critique_rl.runs.run import Run

    set_threads(config)  # the report names the device
    run = Run(config, display=Display(quiet=arguments.quiet), from_scratch=arguments.from_scratch)
    run.require_finished()
    for seed, stage in product(config.seeds, config.stages):
        directory = Path(run.folder.model_path(stage, seed))
        unreadable = rollouts(directory)[1]
        if unreadable:
            run.display.note(
                f"{directory}: {len(unreadable)} files of rollouts cannot be read, {unreadable[0].name} first; no "
                "figure of the report comes from them"
            )
    path = write_report(run.folder)
    rows = json.loads(path.read_text(encoding="utf-8"))["rows"]
    paths = {"run": config.directory, "report": path, "table": path.with_suffix(".md")}
    paths["page"] = path.with_suffix(".html")
    if config.stages:
        paths["curves"] = path.parent / "curves.png"
    text = f"\n{markdown_table(rows)}\n\nresults: {path}\npage:    {paths['page']}"
    return Outcome(text, rows, paths)
