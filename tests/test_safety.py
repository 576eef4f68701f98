"""Nothing that a checkpoint brings along is run: no remote code, no pickled weights."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SOURCES = [
    p
    for room in ("critique_rl", "experiments", "examples", "notebooks")
    for p in ROOT.joinpath(room).rglob("*.py")
]


def test_remote_code_is_never_trusted_and_weights_are_safetensors() -> None:
    assert len(SOURCES) > 200
    lines = [(p.name, line) for p in SOURCES for line in p.read_text("utf-8").splitlines()]
    assert [at for at in lines if re.search(r"trust_remote_code\s*[=:]\s*True", at[1])] == []
    assert [at for at in lines if re.search(r"safe_serialization\s*=\s*False|pickle\.loads?\(", at[1])] == []
    loads = [at for at in lines if re.search(r"torch\.load\(", at[1])]
    assert [at for at in loads if "weights_only=True" not in at[1]] == []
