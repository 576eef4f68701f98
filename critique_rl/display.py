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
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

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
            self.console.print(title, markup=False)
            yield
            self.console.print(f"{title}: done in {time.monotonic() - started:.0f} s", markup=False)
            return
        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}", markup=False),
        )
        with Progress(*columns, console=self.console) as self._progress:
            self._task = self._progress.add_task(title, total=None, note="")
            yield
            self._progress.update(self._task, total=1, completed=1)
        self._progress = None

    def advance(self, done: int, total: int, note: str = "") -> None:
        """Show how far the current step is."""
        if self._progress is not None:
            self._progress.update(self._task, completed=done, total=total, note=note)
        elif total and done * 10 // total > self._tenth:
            self._tenth = done * 10 // total
            self.console.print(f"    {done}/{total}  {note}", markup=False)

    def note(self, text: str) -> None:
        """Print a line beside the bar."""
        self.console.print(f"    {text}", markup=False)


class DisplayCallback(TrainerCallback):
    """Shows a stage as it trains: judgment, refinement, KL, and the curve of the stage's own measure.

    Args:
        display: Where to show it.
        block: Optimizer steps of one RL step.
    """

    def __init__(self, display: Display, block: int) -> None:
        self.display, self.block = display, block

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Called by the trainer at every log."""
        rows = [row for row in state.log_history if "critic/acc_dis" in row]
        if not rows or not state.is_world_process_zero:
            return
        last = rows[-1]
        measure = "actor/acc_refine" if "actor/acc_refine" in last else "critic/acc_dis"
        curve = sparkline([row[measure] for row in rows if row.get(measure) is not None])

        def share(key: str) -> str:
            return "-" if last.get(key) is None else f"{100 * last[key]:.0f}"

        note = (
            f"Acc@Dis {share('critic/acc_dis')} (right {share('critic/acc_dis_on_correct')}, "
            f"wrong {share('critic/acc_dis_on_wrong')})"
        )
        if "actor/acc_refine" in last:
            note += f"  Acc@Refine {share('actor/acc_refine')}"
        note += f"  KL {last.get('kl') or 0:.3f}  {curve}"
        self.display.advance(state.global_step // self.block, state.max_steps // self.block, note)
