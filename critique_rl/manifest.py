"""Finished folders: which files they hold, with size and checksum, and a lock that keeps a second process out.

One mechanism for checkpoints of a training and for steps of a run. Checksums are those of `sha256sum`.
"""

from __future__ import annotations

import contextlib
import fnmatch
import hashlib
import json
import os
import socket
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from critique_rl.types import UserError

MANIFEST = "manifest.json"
"""File of a checkpoint that lists all others; it is written last."""
LOCK = "run.lock"
"""File that the process holds which writes into a folder."""
UNWATCHED = ("README.md", "events.out.tfevents.*", "*.new", "step.json*", MANIFEST, LOCK)
"""Names of files that may change in a finished folder: a report adds figures to the cards, logs are for people."""
Files = Mapping[str, Mapping[str, Any]]
"""By path relative to the folder: `bytes`, `sha256` and `mtime_ns`, the date in nanoseconds."""


def write_atomically(path: Path, content: str | bytes, *, sync: bool = True) -> None:
    """Write a file so that after a kill or a power loss the path holds either the old content or the new one.

    Without `sync` that holds after a kill alone.
    """
    temporary = path.with_name(f"{path.name}.new")
    with temporary.open("wb") as file:
        file.write(content.encode() if isinstance(content, str) else content)
        file.flush()
        if sync:
            os.fsync(file.fileno())
    os.replace(temporary, path)
    if sync:
        sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Bring the names in a folder to the disk; without effect where the system cannot."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def watched(folder: Path, leave_out: Sequence[str] = ()) -> list[Path]:
    """Files below a folder that must not change once it is finished, in order.

    Args:
        folder: The folder.
        leave_out: Patterns of names of folders, directly inside, that are not looked at.
    """
    found = []
    for path in sorted(folder.rglob("*")):
        top = path.relative_to(folder).parts[0]
        if any(fnmatch.fnmatch(path.name, name) for name in UNWATCHED) or not path.is_file():
            continue
        if path.parent == folder or not any(fnmatch.fnmatch(top, name) for name in leave_out):
            found.append(path)
    return found


def describe(folder: Path, leave_out: Sequence[str] = ()) -> dict[str, dict[str, Any]]:
    """Size, checksum and date of each watched file, which is brought to the disk; see `watched`."""
    files = {}
    for path in watched(folder, leave_out):
        with path.open("rb") as file:
            checksum = hashlib.file_digest(file, "sha256").hexdigest()
            status = os.fstat(file.fileno())
            os.fsync(file.fileno())
        files[path.relative_to(folder).as_posix()] = {
            "bytes": status.st_size,
            "sha256": checksum,
            "mtime_ns": status.st_mtime_ns,
        }
    for place in {(folder / name).parent for name in files} | {folder}:
        sync_folder(place)
    return files


def damages(folder: Path, files: Files, *, trust_dates: bool) -> list[str]:
    """In words, what differs from a description; empty if nothing does. Further files do not count.

    Args:
        folder: The folder.
        files: Its description, as `describe` gives it.
        trust_dates: Whether a file whose size and date are as before is not read again.
    """
    found = []
    for name, expected in files.items():
        path = folder / name
        try:
            status = path.stat()
            if status.st_size != expected["bytes"]:
                found.append(f"{name} has {status.st_size:,} bytes, not {expected['bytes']:,}")
            elif not (trust_dates and status.st_mtime_ns == expected["mtime_ns"]):
                with path.open("rb") as file:
                    if hashlib.file_digest(file, "sha256").hexdigest() != expected["sha256"]:
                        found.append(f"{name} has other content")
        except FileNotFoundError:
            found.append(f"{name} is missing")
    return found


def in_short(found: Sequence[str], most: int = 3) -> str:
    """Damages on one line, the first few in full.

    >>> in_short(["a is missing", "b is missing", "c is missing"], most=1)
    'a is missing; and 2 more'
    """
    more = [f"and {len(found) - most} more"] if len(found) > most else []
    return "; ".join([*found[:most], *more])


def seal(folder: Path, **more: Any) -> None:
    """Write the manifest of a folder whose files are all there; `more` are further entries of it."""
    write_atomically(folder / MANIFEST, json.dumps({**more, "files": describe(folder)}, indent=1) + "\n")


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """The manifest of a folder; None where there is none.

    Raises:
        ValueError: It is no manifest.
    """
    try:
        content = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    if not isinstance(content, dict) or not is_description(content.get("files")):
        raise ValueError("it lists no files")
    return content


def is_description(files: Any) -> bool:
    """Whether a value read from JSON has the form that `describe` gives."""
    keys = {"bytes", "sha256", "mtime_ns"}
    return isinstance(files, dict) and all(isinstance(f, dict) and keys <= set(f) for f in files.values())


@contextlib.contextmanager
def only_process(folder: Path) -> Iterator[None]:
    """Keep other processes out of a folder, which is made if it is missing.

    The system lets go of the lock when its process ends, however it ends.

    Raises:
        UserError: Another process holds the folder; the message names it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / LOCK, timeout=0)
    try:
        lock.acquire()
    except Timeout as error:
        raise UserError(
            f"{folder} is in use by {_owner(folder)}: wait for its end, or give this run another `output`."
        ) from error
    try:
        (folder / LOCK).write_text(json.dumps({"pid": os.getpid(), "host": socket.gethostname()}), "utf-8")
        yield
    finally:
        lock.release()


def _owner(folder: Path) -> str:
    try:
        owner = json.loads((folder / LOCK).read_text(encoding="utf-8"))
        return f"process {owner['pid']} on {owner['host']}"
    except (OSError, ValueError, TypeError, KeyError):
        return "another process"
