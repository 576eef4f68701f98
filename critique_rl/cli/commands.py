"""The command line: `critique-rl COMMAND ...`.

A command's arguments are declared beside it, in a module that is imported when the command is asked for, so that
`--help` imports none. Progress and messages go to stderr; stdout has the result alone.
"""

from __future__ import annotations

import argparse
import logging
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext, redirect_stdout
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, Any, NoReturn

from critique_rl.cli.check_data import _check_arguments, _check_data
from critique_rl.cli.run import _config_arguments, _report, _run, _steps
from critique_rl.runs.process import go_offline_without_hub, guarded, quiet_libraries
from critique_rl.types import UserError, nearest

if TYPE_CHECKING:
    from critique_rl.display import Outcome

Declare = Callable[[argparse.ArgumentParser], object]
Work = Callable[[argparse.Namespace], "Outcome | int"]

EXIT_CODES = {
    0: "done",
    1: "failed for a reason of the program's own, or what reads its output went away",
    2: "something you can mend: an argument, a setting, a file, a server; or a finding to look at:\n"
    "       gold answers that cannot be graded, labels that differ from grades",
    130: "interrupted; the same command goes on from the last finished piece",
}
PRECEDENCE = """\
Settings: --set wins over the YAML file, the file over the defaults, as with trl. KEY names a setting with
dots, also in lists (train.0.limit=5); VALUE is YAML (seeds=[0,1], train.0.options={held_out: 0}). A mapping
`env:` in the file sets environment variables, and wins over what is set already, also as with trl."""
COMPLETION = """\
Tab completes commands, options and files with this line in ~/.bashrc (or zsh's, with zsh):
  eval "$(critique-rl --print-completion bash)\""""


@dataclass(frozen=True)
class Command:
    """A command.

    Attributes:
        group: What it is for; heading in the overview.
        text: What it does.
        examples: Command lines, without `critique-rl`.
        load: Gives what declares its arguments and what does its work.
        models: Whether it loads models or data of the hub, whose libraries must be told some things before.
        reports: Whether it takes `--quiet` and `--json`.
        details: What else its help says.
    """

    group: str
    text: str
    examples: tuple[str, ...]
    load: Callable[[], tuple[Declare, Work]]
    models: bool = False
    reports: bool = True
    details: str = ""


def _beside(module: str, declare: str = "add_arguments", work: str = "run") -> Callable[[], tuple[Any, Any]]:
    """What a module of its own declares and does."""

    def load() -> tuple[Any, Any]:
        home = import_module(f"critique_rl.{module}")
        return getattr(home, declare), getattr(home, work)

    return load


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: Arguments; None takes those of the process.

    Returns:
        The exit code, of `EXIT_CODES`.
    """
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # forking graders would warn on every batch
    given = list(sys.argv[1:] if argv is None else argv)
    of_a_command = given and not given[0].startswith("-")
    return guarded(lambda: _execute(given[0], given[1:]) if of_a_command else _overview(given))


def _execute(name: str, given: Sequence[str]) -> int:
    if name not in COMMANDS:
        raise UserError(f"there is no command '{name}'. {nearest(name, COMMANDS)}")
    command = COMMANDS[name]
    parser, work = command_line(name)
    arguments = _parsed(parser, given)
    if arguments is None:
        return _tell()
    if command.models:
        go_offline_without_hub()
        quiet_libraries()
    as_json = command.reports and arguments.json
    with redirect_stdout(sys.stderr) if as_json else nullcontext():  # a library may print something
        outcome = work(arguments)
    if isinstance(outcome, int):
        return _tell(status=outcome)
    return _tell(outcome.document(name) if as_json else outcome.text, outcome.status)


def command_line(name: str) -> tuple[argparse.ArgumentParser, Work]:
    """What reads the arguments of a command, and what does its work; imports its module."""
    command = COMMANDS[name]
    declare, work = command.load()
    examples = "\n".join(["examples:", *(f"  critique-rl {example}" for example in command.examples)])
    parser = _Parser(
        prog=f"critique-rl {name}",
        description=f"{command.text[0].upper()}{command.text[1:]}.",
        epilog="\n\n".join(filter(None, (examples, command.details))),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    declare(parser)
    if command.reports:
        output = parser.add_argument_group("output")
        output.add_argument("--quiet", action="store_true", help="no progress on stderr")
        output.add_argument(
            "--json",
            action="store_true",
            help="one JSON document on stdout: command, exit_status, rows, paths",
        )
    return parser, work


def _overview(given: Sequence[str]) -> int:
    parser = _overview_parser()
    arguments = _parsed(parser, given)
    if arguments is None:
        return _tell()
    if arguments.print_completion:
        return _tell(_completion(parser, arguments.print_completion))
    raise UserError("no command is given. See `critique-rl --help`.")


def _parsed(parser: argparse.ArgumentParser, given: Sequence[str]) -> argparse.Namespace | None:
    """The arguments; None if they asked for help or the version, which is written."""
    try:
        return parser.parse_args(given)
    except SystemExit:
        return None


def _tell(text: str = "", status: int = 0) -> int:
    """Write a result and give the exit code; what reads it may have gone, as of `| head`."""
    try:
        sys.stdout.write(f"{text}\n" if text else "")
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes it again at its end
        return 1
    return status


class _Parser(argparse.ArgumentParser):
    """Reports mistakes as every other mistake of the user is reported, with the name that was meant."""

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Look for mistyped options first: argparse would rather miss an argument that is required."""
        known = list(self._option_string_actions)
        for word in args or ():
            option = word.partition("=")[0]
            if word == "--":
                break
            if re.match(r"-[^\d.\s]\S*\Z", option) and not any(name.startswith(option) for name in known):
                names = [name for name in known if name.startswith("--")]
                raise UserError(
                    f"unrecognized arguments: {option}. {nearest(option, names)} See `{self.prog} --help`."
                )
        return super().parse_known_args(args, namespace)

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            known = nearest(str(value), map(str, action.choices))
            raise argparse.ArgumentError(action, f"there is no {value!r}. {known}")

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}{'' if message.endswith('.') else '.'} See `{self.prog} --help`.")


class _OverviewParser(_Parser):
    """What stands before a command; its help is the overview of all of them."""

    def format_help(self) -> str:
        """Commands by what they are for, options, examples, exit codes."""
        lines = ["usage: critique-rl COMMAND ...", "", f"{self.description}"]
        for group in dict.fromkeys(command.group for command in COMMANDS.values()):
            lines += ["", f"{group}:"]
            lines += [f"  {name:<15}{c.text}" for name, c in COMMANDS.items() if c.group == group]
        lines += ["", "Options:"]
        lines += [f"  {', '.join(a.option_strings):<20}{a.help}" for a in self._actions if a.option_strings]
        examples = ("run experiments/configs/tiny.yaml", "run experiments/configs/tiny.yaml --dry-run")
        lines += ["", "Examples:", *(f"  critique-rl {example}" for example in examples)]
        lines += ["  critique-rl COMMAND --help"]
        lines += ["", COMPLETION]
        lines += ["", "Exit codes:", *(f"  {code:<5}{text}" for code, text in EXIT_CODES.items())]
        return "\n".join(lines) + "\n"


def _overview_parser() -> _OverviewParser:
    from importlib.metadata import version

    parser = _OverviewParser(
        prog="critique-rl",
        description="Train critics of language and vision-language models with reinforcement learning.",
        add_help=False,
    )
    parser.add_argument("-h", "--help", action="help", help="show this, or of a command what it takes")
    parser.add_argument(
        "--version",
        action="version",
        version=f"critique-rl {version('critique_rl')}",
        help="show the version",
    )
    shells = ("bash", "zsh", "fish", "tcsh", "powershell")
    parser.add_argument(
        "--print-completion", choices=shells, help=f"print a completion script: {', '.join(shells)}"
    )
    return parser


def _completion(parser: argparse.ArgumentParser, shell: str) -> str:
    """Script that completes commands, options, values and files in a shell, without starting Python."""
    import shtab

    files = {
        "config": shtab.glob("*.yaml", "*.yml"),
        "records": shtab.glob("*.jsonl"),
        "recorded": shtab.glob("*.jsonl", "*.json", "*.parquet"),
        "output": shtab.DIRECTORY,
        "run": shtab.DIRECTORY,
        "other": shtab.DIRECTORY,
        "source": shtab.FILE,
    }
    commands = parser.add_subparsers()
    for name, command in COMMANDS.items():
        own, _ = command_line(name)
        for action in own._actions:
            if action.dest in files and action.choices is None:
                action.complete = files[action.dest]  # type: ignore[attr-defined]
        commands.add_parser(name, help=command.text, parents=[own], add_help=False)
    script: str = shtab.complete(parser, shell)
    return script


# -- commands of a configuration --------------------------------------------------------------------------


# -- check-data -------------------------------------------------------------------------------------------


# -- what the libraries must be told ----------------------------------------------------------------------


def _steps_command(group: str, text: str, kinds: tuple[str, ...], example: str) -> Command:
    return Command(
        group,
        text,
        (example, f"{example} --json --quiet"),
        lambda: (_config_arguments, partial(_steps, kinds=kinds)),
        details=PRECEDENCE,
    )


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
        lambda: (partial(_config_arguments, plans=True), _run),
        details=PRECEDENCE,
    ),
    "sft": _steps_command(
        "Train",
        "only the cold start: fine-tune actor and SFT critic",
        ("base", "actor", "sft"),
        f"sft {TINY}",
    ),
    "pool": _steps_command("Train", "only the pool: collect responses", ("pool",), f"pool {TINY}"),
    "train": _steps_command(
        "Train", "only the RL stages: train the critic", ("train",), f"train {TINY} --seeds 0"
    ),
    "evaluate": _steps_command(
        "Measure", "run the protocol with every critic of a configuration", ("evaluate",), f"evaluate {TINY}"
    ),
    "eval": Command(
        "Measure",
        "measure any actor and critic, or recorded replies",
        (
            "eval OUT --task gsm8k --actor ACTOR --critic CRITIC",
            "eval OUT --task gsm8k --actor http://localhost:8000/v1 --samples 8 --temperature 0.7",
            "eval OUT --recorded replies.jsonl --kind number --json",
        ),
        _beside("cli.evaluate"),
        models=True,
    ),
    "self-critique": Command(
        "Measure",
        "have judges choose among samples of an evaluation",
        (
            "self-critique OUT/records.jsonl CHOSEN --judge ACTOR",
            "self-critique OUT/records.jsonl CHOSEN --judge self=ACTOR --judge http://localhost:8000/v1",
        ),
        _beside("cli.self_critique"),
        models=True,
    ),
    "audit": Command(
        "Measure",
        "have a judge model read the critiques of an evaluation",
        ("audit OUT/records.jsonl AUDIT --judge http://localhost:8000/v1 --task gsm8k",),
        _beside("cli.audit", "add_audit_arguments", "run_audit"),
        models=True,
    ),
    "report": Command(
        "Look at results",
        "write the report of a run from its records",
        (f"report {TINY}", f"report {TINY} --json | jq '.rows[].metrics.acc_refine.mean'"),
        lambda: (_config_arguments, _report),
        details=PRECEDENCE,
    ),
    "view": Command(
        "Look at results",
        "make a page of a run: curves, table, single episodes",
        ("view runs/tiny",),
        _beside("cli.view"),
        reports=False,
    ),
    "check-data": Command(
        "Check",
        "load a data set and grade each gold answer as a reply",
        ("check-data gsm8k path/to/gsm8k_test.jsonl", "check-data math --split math500 --json"),
        lambda: (_check_arguments, _check_data),
    ),
}
