"""Settings of the whole process: exit codes, the hub that is out of reach, the libraries' messages, threads."""

from __future__ import annotations

import ctypes
import errno
import gc
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from critique_rl.types import Terminated, UserError, redacted

if TYPE_CHECKING:
    from critique_rl.config.run import RunConfig

MALLOC = {-3: 2**25, -1: 2**31 - 1, -2: 2**26}
"""Bytes by parameter of glibc's mallopt: M_MMAP_THRESHOLD, M_TRIM_THRESHOLD, M_TOP_PAD."""


GOES_ON = "the same command goes on from the last finished piece."
UNUSABLE = {
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EROFS,
    errno.EFBIG,
    errno.EACCES,
    errno.ENOTDIR,
    errno.EEXIST,
    errno.EIO,
}
"""Errors of the system where a file cannot be written or read."""
UNUSABLE_WORDS = (
    "os error 28",
    "os error 27",
    "os error 30",
    "No space left",
    "File too large",
    "inline_container",
)
"""What safetensors, pyarrow and torch say then."""


def release_memory() -> None:
    """Free the models of a step that is over; a trainer is part of reference cycles, which Python keeps a while.

    On a GPU the next step would load its models beside them.
    """
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()


def guarded(command: Callable[[], object]) -> int:
    """Run a command; what the user can mend, and an end from outside, become a message and an exit code.

    Ctrl-C and SIGTERM end it, see `cli.overview.EXIT_CODES`. A second Ctrl-C ends it at once, also on its way out.
    """
    handlers = _hear_ends()
    code = _outcome(command)
    if code not in (130, 143):
        for number, handler in handlers.items():
            signal.signal(number, handler)
    return code


def _outcome(command: Callable[[], object]) -> int:
    try:
        code = command()
        return code if isinstance(code, int) else 0
    except UserError as error:
        sys.stderr.write(f"error: {redacted(str(error))}\n")
        return 2
    except Terminated:
        sys.stderr.write(f"terminated; {GOES_ON}\n")
        return 143
    except KeyboardInterrupt:
        sys.stderr.write(f"interrupted; {GOES_ON}\n")
        return 130
    except Exception as error:
        detail = unusable_file(error)
        if detail is None:
            raise
        sys.stderr.write(
            f"error: a file cannot be written or read: {detail}. Make room, or mend its folder; {GOES_ON}\n"
        )
        return 2


def unusable_file(error: BaseException | None) -> str | None:
    """Why a file could not be written or read, if an error, or its cause, says that; otherwise None."""
    while error is not None:
        words = " ".join(str(error).split())[:300]
        if isinstance(error, OSError) and error.errno in UNUSABLE:
            return words
        if any(known in words for known in UNUSABLE_WORDS):
            return words
        error = error.__cause__
    return None


def _hear_ends() -> dict[int, Any]:
    """Hear SIGTERM, and a second Ctrl-C, unless somebody else does; returns the handlers from before."""
    if threading.current_thread() is not threading.main_thread():
        return {}

    def terminate(number: int, frame: object) -> None:
        raise Terminated

    def interrupt(number: int, frame: object) -> None:
        signal.signal(signal.SIGINT, end)
        raise KeyboardInterrupt

    def end(number: int, frame: object) -> None:
        os.write(2, f"interrupted twice: ended at once; {GOES_ON}\n".encode())
        os._exit(130)

    handlers: dict[int, Any] = {}
    if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        handlers[signal.SIGTERM] = signal.signal(signal.SIGTERM, terminate)
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        handlers[signal.SIGINT] = signal.signal(signal.SIGINT, interrupt)
    return handlers


def go_offline_without_hub() -> None:
    """Set HF_HUB_OFFLINE where the hub cannot be reached: the libraries would try each file for half a minute.

    Call it before they are imported. Behind a proxy nothing is tested and nothing is set.
    """
    names = ("HF_HUB_OFFLINE", "HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy")
    if any(os.environ.get(name) for name in names):
        return
    hub = urlsplit(os.environ.get("HF_ENDPOINT", "https://huggingface.co"))
    try:
        socket.create_connection((hub.hostname or "", hub.port or 443), timeout=5).close()
    except OSError:
        os.environ["HF_HUB_OFFLINE"] = "1"


def quiet_libraries() -> None:
    """Silence progress bars and warnings of the libraries, which would write between the lines of our display."""
    import warnings

    import datasets
    import huggingface_hub
    import transformers

    huggingface_hub.utils.logging.set_verbosity_error()

    datasets.disable_progress_bars()
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")


def set_threads(config: RunConfig) -> None:
    """Set the threads of torch as configured, and let glibc keep freed memory.

    By default glibc returns freed memory after each step of a small model, and the kernel clears it for the next.
    """
    if config.threads is None:
        return
    import torch

    torch.set_num_threads(config.threads)
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "mallopt"):  # musl has none
        for option, size in MALLOC.items():
            libc.mallopt(option, size)
