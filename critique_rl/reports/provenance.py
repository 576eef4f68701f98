"""Origin of a result: commit, versions and device."""

from __future__ import annotations

import functools
import platform
import subprocess
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from critique_rl.types import redacted

PACKAGES = (
    *("critique_rl", "torch", "transformers", "trl", "peft", "datasets", "accelerate"),
    *("math-verify", "sympy"),
)
"""Packages whose versions a result file names."""


def result(
    config: Mapping[str, Any], seeds: Sequence[int], rows: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """Content of a result file: configuration, origin, seeds and rows."""
    return {"config": redacted(config), **origin(), "seeds": list(seeds), "rows": [dict(row) for row in rows]}


def origin() -> dict[str, Any]:
    """Commit, versions and device, as a result file holds them."""
    return {
        "commit": commit_of(Path(__file__).parent),
        "versions": {"python": platform.python_version(), "device": _device()}
        | {package: _version(package) for package in PACKAGES},
    }


def commit_of(package: Path) -> str | None:
    """Commit of the checkout that holds a package's folder; it ends in `-dirty` where code or YAML files differ.

    None without a checkout, also for a package that is installed inside the checkout of another project. Changed
    results and pages do not count: a study writes them script by script, so only its first would be clean.
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


@functools.cache  # the card of each checkpoint of each table asks for all of them
def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _device() -> str:
    import torch

    if torch.cuda.is_available():
        return f"{torch.cuda.device_count()} x {torch.cuda.get_device_name()}"
    # Vector instructions decide the order of float sums, so the same seed trains another critic on another CPU.
    return f"CPU with {torch.backends.cpu.get_cpu_capability()}, {torch.get_num_threads()} threads"
