"""Pool of worker processes; killing one is the only limit that holds for C code, big integers and recursion."""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import select
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

HEADER = struct.Struct(">I")
"""Length in bytes of the JSON text that follows, in both directions."""

_START_LIMIT_S = 120.0  # importing sympy takes a second, and much longer on a crowded machine
_POLL_S = 0.05


def message(content: Mapping[str, object]) -> bytes:
    """Encode one message of the protocol: the header, then the JSON text."""
    body = json.dumps(content).encode()
    return HEADER.pack(len(body)) + body


class WorkerLost(Exception):
    """End of a worker before its answer; the text is the reason, for instance `memory limit`."""


class _Worker:
    """One worker process; one thread at a time uses it."""

    def __init__(self, limit_s: float, memory_bytes: int) -> None:
        root = str(Path(__file__).resolve().parents[2])
        path = os.pathsep.join(p for p in (root, os.environ.get("PYTHONPATH", "")) if p)
        arguments = [str(int(limit_s) + 5), str(2 * memory_bytes)]
        self._memory_bytes = memory_bytes
        self._process = subprocess.Popen(
            # -P: Python must not import a stray sympy.py from the working directory
            [sys.executable, "-P", "-m", "critique_rl.grading.worker", *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=os.environ | {"PYTHONPATH": path},
            start_new_session=True,  # Ctrl-C is for the parent, which then closes its workers
            bufsize=0,
        )
        try:
            self._baseline = 0
            hello = self._receive(_START_LIMIT_S)
            if "ready" not in hello:
                raise RuntimeError(f"the grading worker could not start: {hello.get('failed')}")
            self._baseline = self._resident()
        except BaseException:
            self.kill()
            raise

    def _resident(self) -> int:
        """Return the memory in use in bytes, 0 if the system has no such file."""
        try:
            fields = Path(f"/proc/{self._process.pid}/statm").read_text().split()
        except OSError:
            return 0
        return int(fields[1]) * os.sysconf("SC_PAGE_SIZE") if len(fields) > 1 else 0

    def _receive(self, limit_s: float) -> dict[str, object]:
        """Wait for one message; raise `WorkerLost` at the time or memory limit, or when the process ends."""
        deadline = time.monotonic() + limit_s
        output = self._process.stdout
        assert output is not None
        poll = select.poll()  # select.select fails on descriptors from 1,024 on
        poll.register(output.fileno(), select.POLLIN | select.POLLHUP)
        data = b""
        while True:
            left = deadline - time.monotonic()
            if left <= 0:
                raise WorkerLost(f"time limit {limit_s:g} s")
            if not poll.poll(1000 * min(left, _POLL_S) + 1):
                if self._baseline and self._resident() > self._baseline + self._memory_bytes:
                    raise WorkerLost("memory limit")
                continue
            chunk = os.read(output.fileno(), 65536)
            if not chunk:
                raise WorkerLost("worker died")
            data += chunk
            if len(data) >= HEADER.size and len(data) >= HEADER.size + HEADER.unpack_from(data)[0]:
                return json.loads(data[HEADER.size :])

    def ask(self, request: dict[str, str], limit_s: float) -> dict[str, object]:
        """Send one request and return its answer."""
        try:
            assert self._process.stdin is not None
            self._process.stdin.write(message(request))  # a few kilobytes: a pipe takes them without blocking
        except OSError as error:
            raise WorkerLost("worker died") from error
        return self._receive(limit_s)

    def _close_pipes(self) -> None:
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()

    def kill(self) -> None:
        """End the process at once and wait for its end."""
        self._process.kill()
        self._close_pipes()
        self._process.wait()

    def abandon(self) -> None:
        """Let go of a worker in a forked child; the worker belongs to the parent and goes on."""
        self._close_pipes()
        self._process.returncode = 0  # else Popen warns and waits for a process that is not its child


@dataclass
class Pool:
    """A few workers, started when needed; any thread may call `ask`.

    Attributes:
        size: Most workers at a time.
        limit_s: Wall-clock seconds for one item; then its worker is killed.
        memory_bytes: Resident memory that an item may add, checked every 50 ms; above it, its worker is killed.
            An allocation beyond twice this limit fails inside the worker.
    """

    size: int = field(default_factory=lambda: min(4, os.cpu_count() or 1))
    limit_s: float = 5.0
    memory_bytes: int = 2**30
    _idle: list[_Worker] = field(default_factory=list, init=False, repr=False)
    _busy: set[_Worker] = field(default_factory=set, init=False, repr=False)
    _free: threading.Semaphore = field(init=False, repr=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False, repr=False)

    def __post_init__(self) -> None:
        if self.size < 1 or self.limit_s <= 0 or self.memory_bytes <= 0:
            raise ValueError(f"size, limit_s and memory_bytes must be positive, not {self}")
        self._free = threading.Semaphore(self.size)

    def ask(self, task: str, gold: str, answer: str) -> tuple[bool | None, str]:
        """Return `(equal, reason)`; `equal` is `None` after a limit or a failed comparison."""
        request = {"task": task, "gold": gold, "answer": answer}
        with self._free:
            for _ in range(2):
                with self._lock:
                    idle = self._idle.pop() if self._idle else None
                worker = idle or _Worker(self.limit_s, self.memory_bytes)
                with self._lock:
                    self._busy.add(worker)
                try:
                    reply = worker.ask(request, self.limit_s)
                except WorkerLost as lost:
                    worker.kill()
                    if str(lost) == "worker died" and idle:
                        continue  # an idle worker may have died for another reason: ask a new one
                    return None, str(lost)
                except BaseException:  # Ctrl-C: the late answer would be taken for that of the next item
                    worker.kill()
                    raise
                else:
                    with self._lock:
                        self._idle.append(worker)
                    equal = reply.get("equal")
                    if isinstance(equal, bool):
                        return equal, "equal" if equal else "different"
                    return None, str(reply.get("failed"))
                finally:
                    with self._lock:
                        self._busy.discard(worker)
        return None, "worker died"

    def close(self) -> None:
        """Kill all workers. A later `ask` starts new ones."""
        with self._lock:
            workers, self._idle = [*self._idle, *self._busy], []
        for worker in workers:
            worker.kill()

    def abandon(self) -> None:
        """Drop the workers in a forked child; the parent goes on with them."""
        for worker in [*self._idle, *self._busy]:
            worker.abandon()
        self._idle.clear()


class _Shared:
    """The pool of this process; a forked child gets a new pool with new locks."""

    def __init__(self) -> None:
        self.pool = Pool()
        atexit.register(lambda: self.pool.close())
        os.register_at_fork(after_in_child=self.renew)

    def renew(self) -> None:
        old, self.pool = self.pool, Pool()
        old.abandon()


SHARED = _Shared()
