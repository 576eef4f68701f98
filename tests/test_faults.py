"""The script that kills runs and damages their files, in a short form."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import ROOT, environment


@pytest.mark.processes
def test_a_run_that_is_killed_twice_is_the_unbroken_one(tmp_path: Path) -> None:
    output = tmp_path / "faults.json"
    script = ROOT / "experiments" / "faults.py"
    options = ["--runs", "1", "--kills", "2", "--damages", "5", "--seed", "1"]
    command = [sys.executable, str(script), *options, "--folder", str(tmp_path), "--output", str(output)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment(), check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    content = json.loads(output.read_text(encoding="utf-8"))
    [run] = content["kills"]
    assert len(run["killed_in"]) == 2 and run["differences"] == []
    outcomes = {case["outcome"] for case in content["damages"]}
    assert len(content["damages"]) == 5 and outcomes <= {"refused, named", "mended, named", "mended"}
    assert {"config", "commit", "versions", "seeds"} <= set(content) and str(
        tmp_path
    ) not in output.read_text()
