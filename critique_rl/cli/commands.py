"""The command line: `critique-rl COMMAND ...`, with the table of all commands.

Each command has a module with its arguments and its work. It is imported when the command is asked for, so that
`--help` imports none. Progress and messages go to stderr; stdout has only the result.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import nullcontext, redirect_stdout
from functools import partial
from importlib import import_module
from typing import Any

from critique_rl.cli.overview import Overview
from critique_rl.cli.parser import Command, command_parser, parsed
from critique_rl.cli.run import config_arguments, report, run, run_steps
from critique_rl.runs.process import go_offline_without_hub, guarded, quiet_libraries
from critique_rl.types import UserError, nearest

PRECEDENCE = """\
Settings: --set wins over the YAML file, the file over the defaults, as with trl. KEY names a setting with
dots, also in lists (train.0.limit=5); VALUE is YAML (seeds=[0,1], train.0.options={held_out: 0}). A mapping
`env:` in the file sets environment variables, and wins over what is set already, also as with trl."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command `argv`, or the process's own if None; returns one of `overview.EXIT_CODES`."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # forking graders would warn on every batch
    words = list(sys.argv[1:] if argv is None else argv)
    if words and not words[0].startswith("-"):
        return guarded(lambda: _execute(words[0], words[1:]))
    return guarded(lambda: _without_command(words))


def _execute(name: str, words: Sequence[str]) -> int:
    if name not in COMMANDS:
        raise UserError(f"there is no command '{name}'. {nearest(name, COMMANDS)}")
    command = COMMANDS[name]
    parser, work = command_parser(name, command)
    arguments = parsed(parser, words)
    if arguments is None:
        return _write()
    if command.models:
        go_offline_without_hub()
        quiet_libraries()
    as_json = command.reports and arguments.json
    with redirect_stdout(sys.stderr) if as_json else nullcontext():  # a library may print something
        outcome = work(arguments)
    if isinstance(outcome, int):
        return _write(status=outcome)
    return _write(outcome.document(name) if as_json else outcome.text, outcome.status)


def _without_command(words: Sequence[str]) -> int:
    overview = Overview(COMMANDS)
    arguments = parsed(overview, words)
    if arguments is None:
        return _write()
    if arguments.print_completion:
        return _write(overview.completion(arguments.print_completion))
    raise UserError("no command is given. See `critique-rl --help`.")


def _write(text: str = "", status: int = 0) -> int:
    """Write a result to stdout and return the exit code; 1 if the reader is gone, as after `| head`."""
    try:
        sys.stdout.write(f"{text}\n" if text else "")
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes it again at its end
        return 1
    return status


def _load(name: str) -> tuple[Any, Any]:
    """Import a module of this package; returns its `add_arguments` and `run`."""
    module = import_module(f"critique_rl.cli.{name}")
    return module.add_arguments, module.run


def _steps(group: str, text: str, example: str, *kinds: str) -> Command:
    """Command that makes the steps of some kinds."""
    work = config_arguments, partial(run_steps, kinds=kinds)
    return Command(group, text, (example, f"{example} --json --quiet"), lambda: work, details=PRECEDENCE)


TINY = "experiments/configs/tiny.yaml"
COMMANDS: Mapping[str, Command] = {
    "run": Command(
        "Train",
        "run a configuration from cold start to result table; resumable",
        (
            f"run {TINY} --seeds 0 1 2",
            "run experiments/configs/qwen2.5-3b.yaml --dry-run",
            f"run {TINY} --set output=runs/mine --set stages.stage2.trainer.beta=1e-2",
        ),
        lambda: (partial(config_arguments, plans=True), run),
        details=PRECEDENCE,
    ),
    "sft": _steps(
        "Train", "only the cold start: fine-tune actor and SFT critic", f"sft {TINY}", "base", "actor", "sft"
    ),
    "pool": _steps("Train", "only the pool: collect responses", f"pool {TINY}", "pool"),
    "train": _steps("Train", "only the RL stages: train the critic", f"train {TINY} --seeds 0", "train"),
    "evaluate": _steps(
        "Measure", "run the protocol with every critic of a configuration", f"evaluate {TINY}", "evaluate"
    ),
    "eval": Command(
        "Measure",
        "measure any actor and critic, or recorded replies",
        (
            "eval OUT --task gsm8k --actor ACTOR --critic CRITIC",
            "eval OUT --task gsm8k --actor http://localhost:8000/v1 --samples 8 --temperature 0.7",
            "eval OUT --recorded replies.jsonl --kind number --json",
        ),
        partial(_load, "evaluate"),
        models=True,
    ),
    "self-critique": Command(
        "Measure",
        "have judges choose among samples of an evaluation",
        (
            "self-critique OUT/records.jsonl CHOSEN --judge ACTOR",
            "self-critique OUT/records.jsonl CHOSEN --judge self=ACTOR --judge http://localhost:8000/v1",
        ),
        partial(_load, "self_critique"),
        models=True,
    ),
    "audit": Command(
        "Measure",
        "have a judge model read the critiques of an evaluation",
        ("audit OUT/records.jsonl AUDIT --judge http://localhost:8000/v1 --task gsm8k",),
        partial(_load, "audit"),
        models=True,
    ),
    "report": Command(
        "Look at results",
        "write the report of a run from its records",
        (f"report {TINY}", f"report {TINY} --json | jq '.rows[].metrics.acc_refine.mean'"),
        lambda: (config_arguments, report),
        details=PRECEDENCE,
    ),
    "view": Command(
        "Look at results",
        "make a page of a run: curves, table, single episodes",
        ("view runs/tiny",),
        partial(_load, "view"),
        reports=False,
    ),
    "check-data": Command(
        "Check",
        "load a data set and grade each gold answer as a reply",
        ("check-data gsm8k path/to/gsm8k_test.jsonl", "check-data math --split math500 --json"),
        partial(_load, "check_data"),
    ),
}
