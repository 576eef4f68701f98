"""A command, and the parser of its arguments."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn

from critique_rl.types import UserError, nearest

if TYPE_CHECKING:
    from critique_rl.display import Outcome

Declare = Callable[[argparse.ArgumentParser], object]
Work = Callable[[argparse.Namespace], "Outcome | int"]


@dataclass(frozen=True)
class Command:
    """A command of the command line.

    Attributes:
        group: Heading in the overview.
        text: One line that says what the command does.
        examples: Command lines, without `critique-rl`.
        load: Returns two functions: one declares the arguments, one does the work.
        models: Whether it loads models or data from the hub; the libraries then go offline without a hub and stay
            quiet.
        reports: Whether it takes `--quiet` and `--json`.
        details: Text at the end of its help.
    """

    group: str
    text: str
    examples: tuple[str, ...]
    load: Callable[[], tuple[Declare, Work]]
    models: bool = False
    reports: bool = True
    details: str = ""


class Parser(argparse.ArgumentParser):
    """Raises `UserError` on a mistake, with the nearest known name."""

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Look for mistyped options first: argparse would report a missing argument instead."""
        known = list(self._option_string_actions)
        for word in args or ():
            option = word.partition("=")[0]
            if word == "--":
                break
            if re.match(r"-[^\d.\s]\S*\Z", option) and not any(name.startswith(option) for name in known):
                names = [name for name in known if name.startswith("--")]
                self.error(f"unrecognized arguments: {option}. {nearest(option, names)}")
        return super().parse_known_args(args, namespace)

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            known = nearest(str(value), map(str, action.choices))
            raise argparse.ArgumentError(action, f"there is no {value!r}. {known}")

    def error(self, message: str) -> NoReturn:
        """Raise a `UserError`."""
        raise UserError(f"{message}{'' if message.endswith('.') else '.'} See `{self.prog} --help`.")


def command_parser(name: str, command: Command) -> tuple[Parser, Work]:
    """Parser of a command's arguments, and the function that does its work; imports the command's module."""
    declare, work = command.load()
    examples = "\n".join(["examples:", *(f"  critique-rl {example}" for example in command.examples)])
    parser = Parser(
        prog=f"critique-rl {name}",
        description=f"{command.text[0].upper()}{command.text[1:]}.",
        epilog="\n\n".join(filter(None, (examples, command.details))),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    declare(parser)
    if command.reports:
        output = parser.add_argument_group("output")
        output.add_argument("--quiet", action="store_true", help="no progress on stderr")
        text = "one JSON document on stdout: command, exit_status, rows, paths"
        output.add_argument("--json", action="store_true", help=text)
    return parser, work


def parsed(parser: argparse.ArgumentParser, words: Sequence[str]) -> argparse.Namespace | None:
    """Arguments of a command line; None after the parser has written its help or the version."""
    try:
        return parser.parse_args(words)
    except SystemExit:
        return None
