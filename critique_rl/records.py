"""Files of a run: what one process makes and others wait for, and records that survive a kill."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from critique_rl.types import UserError

Record = TypeVar("Record")


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


def read_records(path: Path, cls: type[Record]) -> list[Record]:
    """Read JSON lines, each the fields of one dataclass; a last line that a kill cut short is dropped.

    Raises:
        UserError: Another line is no such record.
    """
    content = path.read_bytes()  # a line may have been cut inside a character
    whole = content[: content.rfind(b"\n") + 1]
    if len(whole) < len(content):  # the write of the last line was cut off, and an append would join it
        with path.open("r+b") as file:
            file.truncate(len(whole))
    records = []
    for number, line in enumerate(whole.split(b"\n"), start=1):
        if line:
            try:
                records.append(cls(**json.loads(line)))
            except (ValueError, TypeError) as error:  # no JSON or no UTF-8; other fields
                name = cls.__name__.lower()
                raise UserError(f"{path}, line {number} is no {name} record: {error}") from error
    return records


def write(path: Path, content: str | bytes) -> None:
    """Write a file unless it holds that already: a report that says nothing new keeps its date."""
    encoded = content.encode() if isinstance(content, str) else content
    if not path.exists() or path.read_bytes() != encoded:
        path.write_bytes(encoded)
