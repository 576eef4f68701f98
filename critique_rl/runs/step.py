"""One step of a run: its artifact, the settings that determine it, and the marker that says it is finished."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from critique_rl.config.reading import differences
from critique_rl.manifest import damages, describe, in_short, watched, write_atomically
from critique_rl.records import is_first_process, wait_for
from critique_rl.runs.folder import MARKER, Artifact, read_marker
from critique_rl.types import UserError

NOT_NEEDED = ("checkpoint-*", "completions")
"""Folders of a finished training that no later step reads: they may be deleted."""


@dataclass(frozen=True, kw_only=True)
class Step(Artifact):
    """One step of a run.

    Attributes:
        kind: Name of its kind in `critique_rl.runs.steps.STEP_KINDS`.
        command: Subcommand that runs it.
        settings: All settings that determine the artifact; inputs are named by their digest.
        inputs: Names of the steps whose artifacts it reads.
        all_ranks: Whether it uses every process of a distributed launch.
    """

    kind: str
    command: str
    settings: dict[str, Any]
    inputs: tuple[str, ...] = ()
    all_ranks: bool = False

    @property
    def digest(self) -> str:
        """Hash of the settings, which stands for the artifact in the settings of later steps."""
        return hashlib.sha256(json.dumps(self.settings, sort_keys=True).encode()).hexdigest()[:16]

    def finished(self) -> bool:
        """Whether the artifact is complete, with the files that were there when it was finished.

        An attempt that failed before it wrote anything binds nobody to its settings.

        Raises:
            UserError: The artifact, or a part of it, was made with other settings, or files of it have changed.
        """
        marker = read_marker(self.directory)
        if marker is None:
            return False
        changed = differences(marker["settings"], self.settings)
        if changed and (marker["finished"] or watched(self.directory)):
            raise UserError(
                f"step '{self.name}': {self.directory} was made with other settings:\n  "
                + "\n  ".join(changed)
                + "\nDelete that folder to make it anew, or give the run another `output`."
            )
        if marker["finished"] and is_first_process():
            found = damages(self.directory, marker.get("files", {}), trust_dates=True)
            if found:
                raise UserError(
                    f"step '{self.name}': {self.directory} is not as the step left it: {in_short(found)}. "
                    "Delete that folder to make it anew, or bring the files back."
                )
        return bool(marker["finished"])

    def unchecked(self) -> bool:
        """Whether the step was finished by a version that did not list its files, so that no change is noticed."""
        marker = read_marker(self.directory)
        return marker is not None and marker["finished"] and "files" not in marker

    def execute(self, work: Callable[[], None]) -> None:
        """Make the artifact; rank 0 marks it. Where the step does not use all ranks, the others wait for its end.

        Args:
            work: Makes the artifact; called again after an interruption, it goes on where it can.
        """
        if not is_first_process():
            if self.all_ranks:
                wait_for(self._begun)  # or rank 0 could take what this rank writes for another attempt's
                work()
            wait_for(self.finished)
            return
        self.directory.mkdir(parents=True, exist_ok=True)
        for left in self.directory.glob(f"{MARKER}.*"):  # of a process that was killed
            left.unlink()
        before = (read_marker(self.directory) or {}).get("seconds", 0.0)  # a kill leaves no time of its own
        finished, started = False, time.monotonic()
        self._mark(finished=False, seconds=before)
        try:
            work()
            finished = True
        finally:
            self._mark(finished=finished, seconds=before + time.monotonic() - started)

    def _begun(self) -> bool:
        marker = read_marker(self.directory)
        return marker is not None and not differences(marker["settings"], self.settings)

    def _mark(self, *, finished: bool, seconds: float) -> None:
        content = {"name": self.name, "settings": self.settings, "finished": finished, "seconds": seconds}
        if finished:
            content["files"] = describe(self.directory, NOT_NEEDED)
        write_atomically(self.directory / MARKER, json.dumps(content, indent=1))
