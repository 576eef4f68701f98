"""TODO docstring."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from critique_rl.config.reading import differences
from critique_rl.records import is_first_process, wait_for
from critique_rl.types import UserError

MARKER = "step.json"

KINDS = ("base", "actor", "sft", "pool", "train", "evaluate", "judge")

TRAINING_KINDS = ("base", "actor", "sft", "train")  # these use every process of a distributed launch


@dataclass(frozen=True)
class Step:
    """One step of a run.

    Attributes:
        name: As the command line calls it, e.g. `seed0/stage1`.
        kind: One of `KINDS`; the subcommand that runs it.
        directory: Its artifact.
        settings: All that determines it; inputs are named by their digest.
        inputs: Names of the steps whose artifacts it reads.
        run: Makes the artifact; called again after an interruption, it goes on where it can.
    """

    name: str
    kind: str
    directory: Path
    settings: dict[str, Any]
    inputs: tuple[str, ...]
    run: Callable[[], None]

    @property
    def digest(self) -> str:
        """Hash of the settings, which stands for the artifact in the settings of later steps."""
        return hashlib.sha256(json.dumps(self.settings, sort_keys=True).encode()).hexdigest()[:16]

    def finished(self) -> bool:
        """Whether the artifact is there.

        Raises:
            UserError: It, or a part of it, was made with other settings.
        """
        marker = self.directory / MARKER
        if not marker.exists():
            return False
        made = json.loads(marker.read_text(encoding="utf-8"))
        changed = differences(made["settings"], self.settings)
        if changed:
            raise UserError(
                f"step '{self.name}': {self.directory} was made with other settings:\n  "
                + "\n  ".join(changed)
                + "\nDelete that folder to make it anew, or give the run another `output`."
            )
        return bool(made["finished"])

    def execute(self) -> None:
        """Make the artifact. Of several processes all train, the first does the rest and others wait for it."""
        if not is_first_process():
            if self.kind in TRAINING_KINDS:
                self.run()
            wait_for(self.finished)
            return
        self.directory.mkdir(parents=True, exist_ok=True)
        finished, spent, started = False, self._spent(), time.monotonic()
        self._mark(finished=False, seconds=spent)
        try:
            self.run()
            finished = True
        finally:
            self._mark(finished=finished, seconds=spent + time.monotonic() - started)

    def _spent(self) -> float:
        """Seconds before an interruption; those before a kill are not known."""
        marker = self.directory / MARKER
        return float(json.loads(marker.read_text("utf-8")).get("seconds", 0.0)) if marker.exists() else 0.0

    def _mark(self, *, finished: bool, seconds: float) -> None:
        content = {"name": self.name, "settings": self.settings, "finished": finished, "seconds": seconds}
        text = json.dumps(content, indent=1)
        temporary = self.directory / f"{MARKER}.{os.getpid()}"
        temporary.write_text(text, encoding="utf-8")
        os.replace(temporary, self.directory / MARKER)
