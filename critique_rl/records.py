"""Files of a run: files that one process writes and others wait for, and records that survive a kill."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Generic, TypeVar

from critique_rl.manifest import write_atomically
from critique_rl.types import UserError

Record = TypeVar("Record")
Key = TypeVar("Key", bound=Hashable)


def is_first_process() -> bool:
    """Whether this is the only process of the run, or rank 0 of a distributed launch."""
    return rank_of_ranks()[0] == 0


def rank_of_ranks() -> tuple[int, int]:
    """Rank of this process and number of processes of a distributed launch; 0 and 1 without one."""
    return int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))


def wait_for(ready: Callable[[], bool]) -> None:
    """Sleep until another process is done; the launcher ends this process if the other one fails."""
    while not ready():
        time.sleep(1.0)


def written_once(
    path: Path, make: Callable[[], list[dict[str, Any]]], *, writer: int = 0
) -> list[dict[str, Any]]:
    """Rows of a JSON-lines file; if it is missing, one process writes it whole and all others wait.

    Args:
        path: The file.
        make: Makes the rows.
        writer: Rank of the process that writes.

    Raises:
        UserError: The file is there, and a line of it is no JSON object or has no end.
    """
    if rank_of_ranks()[0] == writer and not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, "".join(json.dumps(r, ensure_ascii=False) + "\n" for r in make()))
    wait_for(path.exists)
    content = path.read_bytes()
    try:
        if not content.endswith(b"\n") and content:
            raise ValueError("its last line has no end")
        rows = [json.loads(line) for line in content.decode("utf-8").split("\n") if line]
        if not all(isinstance(row, dict) for row in rows):
            raise ValueError("a line is no object")
    except ValueError as error:
        raise UserError(
            f"{path} is damaged: {error}. Delete it, and the same command makes it anew."
        ) from error
    return rows


def read_records(path: Path, cls: type[Record], *, mend: bool = True) -> list[Record]:
    """Read JSON lines, each with the fields of one dataclass.

    A kill can cut the last line short: such a line is dropped, from the file as well unless `mend` is false: a run
    that is still at work may be writing it.

    Raises:
        UserError: Another line is no such record.
    """
    content = path.read_bytes()  # a line may have been cut inside a character
    whole = content[: content.rfind(b"\n") + 1]
    if mend and len(whole) < len(content):  # the next record would be appended to the half line
        os.truncate(path, len(whole))
    records = []
    for number, line in enumerate(whole.split(b"\n"), start=1):
        if line:
            try:
                records.append(cls(**json.loads(line)))
            except (ValueError, TypeError) as error:  # no JSON or no UTF-8; other fields
                name = cls.__name__.lower()
                raise UserError(f"{path}, line {number} is no {name} record: {error}") from error
    return records


def checksum_of(line: bytes) -> str:
    """Checksum of a record's line, as a line of the file `NAME.sums` that stands beside unfinished records."""
    return hashlib.blake2b(line, digest_size=16).hexdigest() + "\n"


def _append(path: Path, content: bytes, *, sync: bool) -> None:
    with path.open("ab") as file:
        file.write(content)
        file.flush()
        if sync:
            os.fsync(file.fileno())


def _sums_of(path: Path) -> Path:
    return path.with_name(f"{path.name}.sums")


def _check_lines(path: Path) -> None:
    """Refuse a line whose checksum was not written before it; a file of earlier versions has none."""
    if not (_sums_of(path).exists() and path.exists()):
        return
    *lines, _ = path.read_bytes().split(b"\n")  # before the checksums: another process may add to both
    known = set(_sums_of(path).read_text().splitlines(keepends=True))
    for number, line in enumerate(lines, start=1):
        if line and checksum_of(line) not in known:
            raise UserError(
                f"{path}, line {number} has changed since it was written: delete that line, and its record is "
                "made anew."
            )


class Journal(Generic[Key, Record]):
    """Finished records in a JSON-lines file: ask for what is missing, append it, go on after a kill.

    Args:
        path: The file; its folder is created.
        cls: Dataclass of a record.
        key: Identity of a record.
        known: Whether a key is one of those that may be in this file.
        others: Description of records with unknown keys, for the message.
        sync_every: Least time in seconds between two syncs to the disk. A power loss, unlike a kill, may take what
            was written since the last one, or damage it.

    Attributes:
        done: Finished records by key.

    Raises:
        UserError: A line of the file is no record or has changed, its key is not known, or a key is there twice.
    """

    def __init__(
        self,
        path: Path,
        cls: type[Record],
        key: Callable[[Record], Key],
        *,
        known: Callable[[Key], bool],
        others: str,
        sync_every: float = 0.0,
    ) -> None:
        self._path, self._cls, self._key, self._known, self._others = path, cls, key, known, others
        self._adopted = False
        self._sync_every, self._synced = sync_every, time.monotonic()
        self._sums = _sums_of(path)
        _check_lines(path)
        records = read_records(path, cls) if path.exists() else []
        self.done = {key(r): r for r in records}
        if len(self.done) < len(records):
            twice = len(records) - len(self.done)
            raise UserError(f"{path} holds {twice:,} records twice: delete it, and they are made anew.")
        self._check_known(path, self.done)
        path.parent.mkdir(parents=True, exist_ok=True)

    def _check_known(self, path: Path, keys: Iterable[Key]) -> None:
        if not all(map(self._known, keys)):
            raise UserError(f"{path} holds {self._others}: delete it, or choose another folder.")

    def adopt(self, paths: Iterable[Path]) -> None:
        """Take over the finished records of other processes' files, which are only read and may still grow.

        `put_in_order` writes them to the file of this journal.

        Raises:
            UserError: A line of a file is no record or has changed, or its key is not known.
        """
        for path in paths:
            try:
                _check_lines(path)
                records = {self._key(r): r for r in read_records(path, self._cls, mend=False)}
            except FileNotFoundError:  # joined by now
                continue
            self._check_known(path, records)
            self._adopted |= not records.keys() <= self.done.keys()
            self.done = records | self.done

    def missing(self, keys: Sequence[Key], size: int) -> list[tuple[Sequence[Key], int]]:
        """Chunks of at most `size` keys without a record, each with the number of `keys` done after it."""
        missing = [key for key in keys if key not in self.done]
        finished = len(keys) - len(missing)
        chunks = [missing[start : start + size] for start in range(0, len(missing), size)]
        return [(chunk, finished + i * size + len(chunk)) for i, chunk in enumerate(chunks)]

    def fill(
        self,
        chunks: Iterable[tuple[Sequence[Key], int]],
        ask: Callable[[int, Sequence[Key]], Iterable[Record]],
        on_progress: Callable[[int, int], None] | None,
        total: int,
    ) -> None:
        """Ask for the missing records of each chunk and append them together.

        Args:
            chunks: Keys of each chunk, and the progress to report after it.
            ask: Makes records from the number of a chunk and its missing keys. Records that are done already are
                dropped. It is not called for a chunk without missing keys.
            on_progress: Called after each chunk with its progress and `total`.
            total: Progress after the last chunk.
        """
        written = self._path.read_bytes() if self._path.exists() else b""
        sums = "".join(map(checksum_of, written.split(b"\n")[:-1]))  # a kill may have cut those in the file
        write_atomically(self._sums, sums, sync=self._is_sync_due())
        for number, (keys, progress) in enumerate(chunks):
            missing = [key for key in keys if key not in self.done]
            if missing:
                fresh = [r for r in ask(number, missing) if self._key(r) not in self.done]
                lines = [json.dumps(asdict(r), ensure_ascii=False).encode() for r in fresh]  # type: ignore[call-overload]
                sync = self._is_sync_due()
                sums = "".join(map(checksum_of, lines))
                _append(self._sums, sums.encode(), sync=sync)  # first: no record lacks its checksum
                _append(self._path, b"".join(line + b"\n" for line in lines), sync=sync)
                self._synced = time.monotonic() if sync else self._synced
                self.done |= {self._key(r): r for r in fresh}
            if on_progress is not None:
                on_progress(progress, total)
        self._sums.unlink(missing_ok=True)  # a finished step lists the whole file

    def _is_sync_due(self) -> bool:
        return time.monotonic() - self._synced >= self._sync_every

    def put_in_order(self, keys: Sequence[Key]) -> None:
        """Write the file anew if it lacks records, or has them in another order than `keys`.

        Some were adopted, or lost and made again.
        """
        if self._adopted or list(self.done) != list(keys):
            self.done = {key: self.done[key] for key in keys}
            rows = (json.dumps(asdict(r), ensure_ascii=False) + "\n" for r in self.done.values())  # type: ignore[call-overload]
            write_atomically(self._path, "".join(rows))


def write(path: Path, content: str | bytes) -> None:
    """Write a file unless it has that content already, so that an unchanged report keeps its date."""
    encoded = content.encode() if isinstance(content, str) else content
    if not path.exists() or path.read_bytes() != encoded:
        write_atomically(path, encoded)


def read_object(path: Path, advice: str) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        FileNotFoundError: There is no such file.
        UserError: It cannot be read or is no object; the message names the file and ends in `advice`.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise
    except (OSError, ValueError) as error:
        raise UserError(f"{path} is damaged: {error}. {advice}") from error
    if not isinstance(content, dict):
        raise UserError(f"{path} is damaged: it is no object. {advice}")
    return content
