"""Output of a command: progress and curves on stderr while it works, its result on stdout at the end.

In a terminal a bar moves. Elsewhere (a log file, CI) a line is printed at every tenth of the way. Both show
the time left. Colours are for terminals only, and off where `NO_COLOR` is set (https://no-color.org).
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

_BLOCKS = "▁▂▃▄▅▆▇█"


def sparkline(values: Sequence[float], width: int = 24) -> str:
    """A curve of block characters, scaled to the range of its values.

    >>> sparkline([0.0, 0.5, 1.0])
    '▁▅█'
    """
    if not values:
        return ""
    size = max(1, -(-len(values) // width))
    means = [sum(values[i : i + size]) / len(values[i : i + size]) for i in range(0, len(values), size)]
    low, high = min(means), max(means)
    scale = (len(_BLOCKS) - 1) / (high - low) if high > low else 0.0
    return "".join(_BLOCKS[int((m - low) * scale + 0.5)] for m in means)


@dataclass(frozen=True)
class Outcome:
    """Result of a command, for people or for a script.

    Attributes:
        text: Text for people.
        rows: Rows of the result, as in its result file.
        paths: Files and folders that the command wrote, by name.
        status: The exit code.
        more: Further entries of the JSON document.
    """

    text: str = ""
    rows: Sequence[Mapping[str, Any]] = ()
    paths: Mapping[str, Any] = field(default_factory=dict)
    status: int = 0
    more: Mapping[str, Any] = field(default_factory=dict)

    def document(self, command: str) -> str:
        """One JSON document.

        >>> json.loads(Outcome(rows=[{"acc": 0.5}], paths={"report": "out/report.json"}).document("eval"))
        {'command': 'eval', 'exit_status': 0, 'rows': [{'acc': 0.5}], 'paths': {'report': 'out/report.json'}}
        """
        paths = {name: str(path) for name, path in self.paths.items()}
        content = {"command": command, "exit_status": self.status, "rows": list(self.rows), "paths": paths}
        return json.dumps({**content, **self.more}, indent=1, ensure_ascii=False)


class Display:
    """Shows steps, their progress and notes on stderr.

    Args:
        quiet: Show nothing.
    """

    def __init__(self, *, quiet: bool = False) -> None:
        # Many CI systems set FORCE_COLOR: rich would then move its cursor in a log file as in a terminal.
        interactive = None if sys.stderr.isatty() else False
        self.console = Console(file=sys.stderr, quiet=quiet, highlight=False, force_interactive=interactive)
        self._progress: Progress | None = None
        self._task: Any = None
        self._tenth, self._total = -1, 0

    @contextmanager
    def step(self, name: str, number: int, of: int) -> Iterator[None]:
        """Show one step from its start to its end."""
        title, started, moving = f"[{number}/{of}] {name}", time.monotonic(), self.console.is_interactive
        self._tenth = -1
        if not moving:
            self._print(title)
        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}", markup=False),
            console=self.console,
            disable=not moving,  # it still estimates the time left
            speed_estimate_period=float(
                "inf"
            ),  # rich forgets after 30 s by default; an RL step takes minutes
        )
        try:
            with self._progress:
                self._task = self._progress.add_task(title, total=None, note="")
                yield
                self._progress.update(self._task, total=1, completed=1)
        finally:
            self._progress = None
        if not moving:
            self._print(f"{title}: done in {time.monotonic() - started:.0f} s")

    def advance(self, done: int, total: int, note: str = "") -> None:
        """Show the progress of the current step."""
        if self._progress is not None:
            self._progress.update(self._task, completed=done, total=total, note=note)
            if self.console.is_interactive:
                return
        if total != self._total:  # a step may count several things, one after the other
            self._tenth, self._total = -1, total
        if total and done * 10 // total > self._tenth:
            self._tenth = done * 10 // total
            left = None if self._progress is None else self._progress.tasks[0].time_remaining
            left_text = f"  {timedelta(seconds=left)} left" if left else ""
            self._print(f"    {done}/{total}{left_text}  {note}".rstrip())

    def note(self, text: str) -> None:
        """Print a line beside the bar."""
        self._print(f"    {text}")

    def turn(self, turn: str, texts: int, speed: float | None) -> None:
        """Print what is written now and how many texts; afterwards, the new tokens a second."""
        self.note(
            f"{turn}: writing {texts} texts" if speed is None else f"{turn}: {speed:.0f} tokens a second"
        )

    def _print(self, line: str) -> None:
        # A log file has no width: rich would break lines at 80 characters.
        self.console.print(line, markup=False, soft_wrap=not self.console.is_interactive)
