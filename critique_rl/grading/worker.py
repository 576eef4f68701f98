"""Worker process around `compare.judge`: length-prefixed JSON from stdin to stdout, until stdin closes."""

from __future__ import annotations

import json
import logging
import os
import resource
import signal
import sys
from typing import BinaryIO

from critique_rl.grading.workers import HEADER, message


def _read(stream: BinaryIO) -> dict[str, str] | None:
    """Return the next request, `None` at the end of the input."""
    header = stream.read(HEADER.size)
    if len(header) < HEADER.size:
        return None
    return json.loads(stream.read(HEADER.unpack(header)[0]))


def _write(stream: BinaryIO, answer: dict[str, object]) -> None:
    stream.write(message(answer))
    stream.flush()


def _grow_at_most(byte_count: int) -> None:
    """Cap the data segment: one huge allocation fails at once, sooner than the parent could see it."""
    limit = byte_count
    if os.path.exists("/proc/self/statm"):
        with open("/proc/self/statm") as file:
            limit += int(file.read().split()[5]) * resource.getpagesize()
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    if hard != resource.RLIM_INFINITY:
        limit = min(limit, hard)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, hard))


def main() -> None:
    """Serve until stdin closes. Arguments: seconds after which an item ends this process, bytes it may add."""
    alarm, memory = int(sys.argv[1]), int(sys.argv[2])
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Answers go to a copy of stdout, so that a stray print of a library cannot break the protocol.
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    requests = sys.stdin.buffer
    logging.disable(logging.CRITICAL)
    try:
        from critique_rl.grading.compare import judge
    except ImportError as error:
        _write(out, {"failed": f"{type(error).__name__}: {error}"})
        return
    judge("math", "x+1", "1+x")  # builds the parser's tables before the clock of the first item starts
    _grow_at_most(memory)
    _write(out, {"ready": os.getpid()})
    while (request := _read(requests)) is not None:
        # If the parent dies while an item runs for ever, only an unhandled SIGALRM ends this process.
        signal.alarm(alarm)
        answer: dict[str, object]
        try:
            answer = {"equal": judge(request["task"], request["gold"], request["answer"])}
        except MemoryError:
            answer = {"failed": "memory limit"}
        except Exception as error:  # noqa: BLE001 - sympy can raise anything; the answer says what
            answer = {"failed": f"{type(error).__name__}: {error}"[:300]}
        signal.alarm(0)
        _write(out, answer)


if __name__ == "__main__":
    main()
