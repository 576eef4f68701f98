"""The benchmark of a step, in a short form: what it covers, never times."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import ROOT, environment


@pytest.mark.processes
def test_a_short_benchmark_compares_both_sides_and_covers_the_step(tmp_path: Path) -> None:
    output, script = tmp_path / "tiny.json", str(ROOT / "experiments" / "bench.py")
    options = ["--prompts", "2", "--repeats", "1", "--new-tokens", "16", "--output", str(output)]
    command = [sys.executable, script, "tiny", *options]
    done = subprocess.run(command, capture_output=True, text=True, env=environment(), check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    content = json.loads(output.read_text(encoding="utf-8"))
    assert {"config", "commit", "versions", "dtype", "device", "limits"} <= set(content)
    for stage, asked in (("stage1", set()), ("stage2", {"refine prefill", "refine decode", "grade"})):
        result = content[stage]
        assert result["ratio"] == result["plain"]["median"] / result["ours"]["median"] > 0
        for side in ("plain", "ours"):
            step = result[side]
            assert {
                "critique prefill",
                "critique decode",
                "forward and backward",
                "optimizer",
            } | asked <= set(step["phases"])
            assert 0.98 <= step["coverage"] <= 1.001
            assert 0 < step["non_padding"] <= 1
            assert step["share_of_limit"].keys() <= step["phases"].keys()
