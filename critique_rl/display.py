"""What a person sees while a run works: a progress bar and the growing curve, on stderr.

In a terminal the bar moves; elsewhere (a log file, CI) a line is printed every tenth of the way.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

_BLOCKS = "▁▂▃▄▅▆▇█"


def sparkline(values: Sequence[float], width: int = 24) -> str:
    """A curve of block characters, scaled to its own range.

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


class Display:
    """Shows steps, their progress and notes.

    Args:
        quiet: Show nothing.
    """

    def __init__(self, *, quiet: bool = False) -> None:
        self.console = Console(file=sys.stderr, quiet=quiet, highlight=False)
        self._progress: Progress | None = None
        self._task: Any = None
        self._tenth = -1

    @contextmanager
    def step(self, name: str, number: int, of: int) -> Iterator[None]:
        """Show one step from its start to its end."""
        title, started = f"[{number}/{of}] {name}", time.monotonic()
        self._tenth = -1
        if not self.console.is_terminal:
            self._print(title)
            yield
            self._print(f"{title}: done in {time.monotonic() - started:.0f} s")
            return
        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}", markup=False),
        )
        try:
            with Progress(*columns, console=self.console) as self._progress:
                self._task = self._progress.add_task(title, total=None, note="")
                yield
                self._progress.update(self._task, total=1, completed=1)
        finally:
            self._progress = None

    def advance(self, done: int, total: int, note: str = "") -> None:
        """Show how far the current step is."""
        if self._progress is not None:
            self._progress.update(self._task, completed=done, total=total, note=note)
        elif total and done * 10 // total > self._tenth:
            self._tenth = done * 10 // total
            self._print(f"    {done}/{total}  {note}".rstrip())

    def note(self, text: str) -> None:
        """Print a line beside the bar."""
        self._print(f"    {text}")

    def _print(self, line: str) -> None:
        # A log file has no width: rich would break lines at 80 characters.
        self.console.print(line, markup=False, soft_wrap=not self.console.is_terminal)
