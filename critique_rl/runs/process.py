"""Settings of the whole process: exit codes, the hub that is out of reach, the libraries' messages, threads."""

from __future__ import annotations

import ctypes
import os
import socket
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from critique_rl.redact import redacted
from critique_rl.types import UserError

if TYPE_CHECKING:
    from critique_rl.config.run import RunConfig

MALLOC = {-3: 2**25, -1: 2**31 - 1, -2: 2**26}
"""Bytes by parameter of glibc's mallopt: M_MMAP_THRESHOLD, M_TRIM_THRESHOLD, M_TOP_PAD."""


def guarded(command: Callable[[], object]) -> int:
    """Run a command; a `UserError` or an interruption becomes a message and an exit code."""
    try:
        code = command()
        return code if isinstance(code, int) else 0
    except UserError as error:
        sys.stderr.write(f"error: {redacted(str(error))}\n")
        return 2
    except KeyboardInterrupt:
        sys.stderr.write("interrupted; the same command goes on from the last finished piece.\n")
        return 130


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
