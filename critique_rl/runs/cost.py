"""Cost of a step: tokens, floating-point operations as an estimate, hours of wall clock."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from critique_rl.runs.folder import Artifact, read_marker, training_state


@dataclass(frozen=True)
class Cost:
    """Cost of a part of a run, summed over its steps.

    Attributes:
        part: Label of a stage, or kind of the step.
        kind: Kind of the steps, see `StepKind.command`.
        steps: Number of steps.
        trained: Tokens trained on; None where a step did not record them, as below.
        generated: Tokens read and written in generation.
        flops: Floating-point operations, estimated.
        hours: Hours of wall clock.
    """

    part: str
    kind: str
    steps: int
    trained: int | None
    generated: int | None
    flops: float | None
    hours: float | None


def time_alone(kind: str, artifact: Artifact) -> Cost:
    """Cost of a step that records nothing but its time."""
    return Cost(kind, kind, 1, None, None, None, hours(artifact.directory))


def supervised(kind: str, artifact: Artifact, part: str, parameters: int | None) -> Cost:
    """Cost of supervised training; its tokens are unknown where its log is missing."""
    state, spent = training_state(artifact.directory), hours(artifact.directory)
    seen = [entry["num_tokens"] for entry in state.get("log_history", ()) if entry.get("num_tokens")]
    if not seen:
        return Cost(part, kind, 1, None, None, None, spent)
    trained = int(max(seen))
    estimate = None if parameters is None else 6.0 * parameters * trained
    flops = state.get("total_flos") or estimate  # transformers counts those of supervised training
    return Cost(part, kind, 1, trained, 0, flops, spent)


def hours(directory: Path) -> float | None:
    """Hours of the step that wrote a folder; None where its marker does not hold them, as older ones."""
    seconds = (read_marker(directory) or {}).get("seconds")
    return None if seconds is None else round(seconds / 3600, 4)
