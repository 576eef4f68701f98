"""The command line: one file a command; `commands` has their table. May import every other room."""

from critique_rl.cli.commands import main

__all__ = ["main"]
