"""The process that runs `compare.judge`: length-prefixed JSON from stdin to stdout, until stdin closes."""

from __future__ import annotations

import json
import logging
import os
import resource
import signal
import sys
from typing import BinaryIO

from critique_rl.grading.workers import HEADER


def _read(stream: BinaryIO) -> dict[str, str] | None:
    """Return the next request, `None` at the end of the input."""
    header = stream.read(HEADER.size)
    if len(header) < HEADER.size:
        return None
    return json.loads(stream.read(HEADER.unpack(header)[0]))


def _write(stream: BinaryIO, answer: dict[str, object]) -> None:
    body = json.dumps(answer).encode()
    stream.write(HEADER.pack(len(body)) + body)
    stream.flush()


def _grow_at_most(byte_count: int) -> None:
    """Cap the data segment: a single huge allocation fails at once, before the parent can see it coming."""
    used = 0
    if os.path.exists("/proc/self/statm"):
        with open("/proc/self/statm") as file:
            used = int(file.read().split()[5]) * resource.getpagesize()
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    limit = used + byte_count
    resource.setrlimit(
        resource.RLIMIT_DATA, (limit if hard == resource.RLIM_INFINITY else min(limit, hard), hard)
    )


def main() -> None:
    """Serve until stdin closes. Arguments: seconds for an item before dying unasked, bytes to add."""
    alarm, memory = int(sys.argv[1]), int(sys.argv[2])
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Written to a copy of stdout, so that a stray print of a library cannot break the protocol.
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    requests = sys.stdin.buffer
    logging.disable(logging.CRITICAL)
    try:
        from critique_rl.grading.compare import judge
    except ImportError as error:
        _write(out, {"failed": f"{type(error).__name__}: {error}"})
        return
    judge("math", "x+1", "1+x")  # builds the parser's tables now and not on the clock of the first item
    _grow_at_most(memory)
    _write(out, {"ready": os.getpid()})
    while (request := _read(requests)) is not None:
        # If the parent is killed while an item runs for ever, nothing stops it but an unhandled SIGALRM.
        signal.alarm(alarm)
        answer: dict[str, object]
        try:
            answer = {"equal": judge(request["task"], request["gold"], request["answer"])}
        except MemoryError:
            answer = {"failed": "memory limit"}
        except Exception as error:  # noqa: BLE001 - the boundary: sympy can raise anything, the reason is kept
            answer = {"failed": f"{type(error).__name__}: {error}"[:300]}
        signal.alarm(0)
        _write(out, answer)


if __name__ == "__main__":
    main()
