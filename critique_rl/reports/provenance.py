"""TODO docstring."""

from __future__ import annotations

import functools
import platform
import subprocess
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

PACKAGES = (
    "critique_rl",
    "torch",
    "transformers",
    "trl",
    "peft",
    "datasets",
    "accelerate",
    "math-verify",
    "sympy",
)


def result(
    config: Mapping[str, Any], seeds: Sequence[int], rows: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """A result file's content, with all that is needed to know where its numbers came from."""
    return {"config": dict(config), **origin(), "seeds": list(seeds), "rows": [dict(row) for row in rows]}


def origin() -> dict[str, Any]:
    """Commit and versions, as a result file holds them."""
    return {
        "commit": commit_of(Path(__file__).parent),
        "versions": {"python": platform.python_version(), "device": _device()}
        | {package: _version(package) for package in PACKAGES},
    }


def commit_of(package: Path) -> str | None:
    """Commit of the checkout that a package's folder belongs to, `-dirty` where its code or configurations differ.

    Results and pages do not count: the scripts of a study write them one after the other, and none of them would
    be of a clean checkout but the first.

    Returns:
        None where there is no checkout, as when the package is installed inside that of another project.
    """

    def git(*arguments: str) -> str:
        command = ["git", *arguments]
        return subprocess.run(command, cwd=package, capture_output=True, text=True, check=True).stdout.strip()

    try:
        git("ls-files", "--error-unmatch", "__init__.py")
        head = git("rev-parse", "HEAD")
        changed = git(
            "status", "--porcelain", "--untracked-files=no", "--", ".", ":(top)*.py", ":(top)*.yaml"
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return head + ("-dirty" if changed else "")


@functools.cache  # a card for each checkpoint of each table asks for all of them
def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _device() -> str:
    import torch

    if torch.cuda.is_available():
        return f"{torch.cuda.device_count()} x {torch.cuda.get_device_name()}"
    # Other vector instructions sum floats in another order, and the same seeds then train other critics.
    return f"CPU with {torch.backends.cpu.get_cpu_capability()}, {torch.get_num_threads()} threads"
