"""The overview of all commands, `critique-rl --help`, and the completion script for shells."""

from __future__ import annotations

from collections.abc import Mapping

from critique_rl.cli.parser import Command, Parser, command_parser

EXIT_CODES = {
    0: "done",
    1: "failed for a reason of the program's own, or what reads its output went away",
    2: "something you can mend: an argument, a setting, a file, a server; or a finding to look at:\n"
    "       gold answers that cannot be graded, labels that differ from grades",
    130: "interrupted; the same command goes on from the last finished piece",
    143: "terminated; a training has saved a checkpoint first, and the same command goes on",
}
COMPLETION = """\
Tab completes commands, options and files with this line in ~/.bashrc (or zsh's, with zsh):
  eval "$(critique-rl --print-completion bash)\""""


class Overview(Parser):
    """Parser of the options before a command; its help lists all commands."""

    def __init__(self, commands: Mapping[str, Command]) -> None:
        super().__init__(
            prog="critique-rl",
            description="Train critics of language and vision-language models with reinforcement learning.",
            add_help=False,
        )
        from importlib.metadata import version

        self.commands = commands
        self.add_argument("-h", "--help", action="help", help="show this, or of a command what it takes")
        text = f"critique-rl {version('critique_rl')}"
        self.add_argument("--version", action="version", version=text, help="show the version")
        shells = ("bash", "zsh", "fish", "tcsh", "powershell")
        text = f"print a completion script: {', '.join(shells)}"
        self.add_argument("--print-completion", choices=shells, help=text)

    def format_help(self) -> str:
        """Commands by group, then options, examples and exit codes."""
        lines = ["usage: critique-rl COMMAND ...", "", f"{self.description}"]
        for group in dict.fromkeys(command.group for command in self.commands.values()):
            lines += ["", f"{group}:"]
            lines += [f"  {name:<15}{c.text}" for name, c in self.commands.items() if c.group == group]
        lines += ["", "Options:"]
        lines += [f"  {', '.join(a.option_strings):<20}{a.help}" for a in self._actions if a.option_strings]
        examples = ("run experiments/configs/tiny.yaml", "run experiments/configs/tiny.yaml --dry-run")
        lines += ["", "Examples:", *(f"  critique-rl {example}" for example in (*examples, "COMMAND --help"))]
        lines += ["", COMPLETION]
        lines += ["", "Exit codes:", *(f"  {code:<5}{text}" for code, text in EXIT_CODES.items())]
        return "\n".join(lines) + "\n"

    def completion(self, shell: str) -> str:
        """Script that completes commands, options, values and files in a shell, without starting Python."""
        import shtab

        files = {
            "config": shtab.glob("*.yaml", "*.yml"),
            "records": shtab.glob("*.jsonl"),
            "recorded": shtab.glob("*.jsonl", "*.json", "*.parquet"),
            "source": shtab.FILE,
            **dict.fromkeys(("output", "run", "other"), shtab.DIRECTORY),
        }
        parsers = self.add_subparsers(parser_class=Parser)
        for name, command in self.commands.items():
            parser, _ = command_parser(name, command)
            for action in parser._actions:
                if action.dest in files and action.choices is None:
                    action.complete = files[action.dest]  # type: ignore[attr-defined]
            parsers.add_parser(name, help=command.text, parents=[parser], add_help=False)
        script: str = shtab.complete(self, shell)
        return script
