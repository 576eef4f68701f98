"""Files that one process of a run makes and others wait for."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any


def is_first_process() -> bool:
    """Whether this is the only process of the run, or the first of a distributed launch."""
    return int(os.environ.get("RANK", "0")) == 0


def wait_for(ready: Callable[[], bool]) -> None:
    """Sleep until another process is done; a launcher ends this one if that fails."""
    while not ready():
        time.sleep(1.0)


def written_once(path: Path, make: Callable[[], list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """Rows of a JSON-lines file that the first process makes if it is not there, and others wait for."""
    if is_first_process() and not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(".new")
        temporary.write_text("".join(json.dumps(r, ensure_ascii=False) + "\n" for r in make()), "utf-8")
        os.replace(temporary, path)
    wait_for(path.exists)
    return [json.loads(line) for line in path.read_text("utf-8").split("\n") if line]
