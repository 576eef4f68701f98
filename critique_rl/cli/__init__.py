"""The command line: one file a command, joined in `commands`. Everything else may be imported here."""

from critique_rl.cli.commands import main

__all__ = ["main"]
