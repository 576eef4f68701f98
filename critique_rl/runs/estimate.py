"""The hours of a run before they are spent: what the steps that are still to do will take on this machine."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from textwrap import shorten
from typing import NamedTuple

from critique_rl.runs.context import Context
from critique_rl.runs.launch import DEFAULT_GPU, GPUS, Gpu, Launch
from critique_rl.runs.roofline import Limits, quick_limits
from critique_rl.runs.sizes import Size
from critique_rl.runs.step import Step
from critique_rl.runs.workload import Workload
from critique_rl.types import UserError, first_line, redacted

LABELS = {"base": "base SFT", "actor": "actor SFT", "sft": "critic SFT", "evaluate": "evaluation"}
"""Parts by kind of step, where they have another name."""


class Part(NamedTuple):
    """Steps of one kind: their number, and their hours or why these are unknown."""

    name: str
    steps: int
    hours: float | None
    why: str = ""

    def __str__(self) -> str:
        return f"{self.name} ({self.steps} step{'s' * (self.steps > 1)})"


class Estimate(NamedTuple):
    """Hours of all parts, the limits that they come from by type and device, and whether a server writes texts.

    `place` says where they are spent, `source` where the limits come from, and `assumed` that lengths are unknown.
    """

    parts: list[Part]
    limits: dict[str, Limits]
    served: bool
    place: str = "on this machine"
    source: str = "measured now"
    assumed: bool = False

    def lines(self) -> list[str]:
        """Text: the source, a line for each part and for all, and what is missing; none without parts."""
        hours = {str(part): part.hours for part in self.parts if part.hours}  # 0 where there is nothing to do
        lines = [f"  {name}: about {span(each)} {self.place}" for name, each in hours.items()]
        if hours:
            lines.append(f"  in all: about {span(sum(hours.values()))} {self.place}")
        gaps: dict[str, list[str]] = {}
        for part in self.parts:
            if part.hours is None:
                gaps.setdefault(part.why, []).append(str(part))
        lines += [f"  not estimated: {', '.join(names)}: {why}" for why, names in gaps.items()]
        lines += ["  texts that a server writes are not counted"] * self.served
        lines += [
            "  problems that cannot be read here: all texts are half as long as their limits"
        ] * self.assumed
        measured = ", ".join(
            f"{limits.flop / 1e9:,.0f} GFLOP/s in {name}, {limits.bandwidth / 1e9:,.0f} GB/s of memory"
            for name, limits in self.limits.items()
        )
        source = f", an estimate within about a factor of two from {measured}, {self.source}" if hours else ""
        return [f"time{source}:", *lines] if lines else []


def span(hours: float) -> str:
    """Hours in words, minutes where they are few."""
    if hours < 1.5:
        return f"{max(1.0, 60 * hours):.0f} min"
    return f"{hours:,.1f} h" if hours < 10 else f"{hours:,.0f} h"


def estimate(
    context: Context,
    steps: Sequence[Step],
    *,
    size: Size | None = None,
    measure: Callable[[str, str], Limits] = quick_limits,
    launch: Launch | None = None,
    gpu: Gpu = GPUS[DEFAULT_GPU],
) -> Estimate:
    """Hours of the steps among `steps` that are not finished; a part that cannot be estimated says why.

    Args:
        context: Problems and configuration of the run.
        steps: Steps of the run.
        size: Size of the base; None reads it.
        measure: Gives the limits of a kind of device in a type.
        launch: Launch to plan for; None is one process on this machine.
        gpu: Its cards.
    """
    work, parts = Workload(context, size, measure, launch, gpu), dict[str, Part]()
    for step in steps:
        if step.finished():
            continue
        label = LABELS.get(step.kind, step.kind.replace("_", " "))
        if step.kind == "train":
            label = f"{step.subject}, {context.config.stages[step.subject].label}"
        hours, why = None, ""
        try:
            hours = work.seconds(step) / 3600
        except UserError as error:
            why = shorten(first_line(error), 100, placeholder=" ...")
        known = parts.get(label, Part(label, 0, 0.0))
        both = None if hours is None or known.hours is None else known.hours + hours
        parts[label] = Part(label, known.steps + 1, both, why or known.why)
    place, source = ("on this machine", "measured now")
    if launch is not None:
        place, source = f"on {launch.processes} x {gpu.name}", "by data sheet"
    return Estimate(list(parts.values()), work.limits, work.served, place, source, work.assumed)


def time_lines(
    context: Context,
    steps: Sequence[Step],
    size: Size | None = None,
    launch: Launch | None = None,
    gpu: Gpu = GPUS[DEFAULT_GPU],
) -> list[str]:
    """The estimate as text, see `estimate`; where it fails, one line with the reason."""
    try:
        lines = estimate(context, steps, size=size, launch=launch, gpu=gpu).lines()
    except Exception as error:  # noqa: BLE001 - whatever fails here, a run without an estimate is as good
        lines = [f"time not estimated: {first_line(error)}"]
    return [str(redacted(line)) for line in lines]


def plan(context: Context, steps: Sequence[Step]) -> list[str]:
    """What a run prints before the first of its unfinished steps."""
    config, count = context.config, len(steps)
    head = f"run {config.name} -> {config.directory}: {count} step{'s' * (count > 1)} to do"
    return [head, *time_lines(context, steps)]
