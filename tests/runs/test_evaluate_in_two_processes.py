"""The command `evaluate` spreads over the processes of a launch; the records are those of one process."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from helpers import CONFIGS, environment

from critique_rl.config.run import load_config
from critique_rl.runs.run import Run


@pytest.mark.slow
def test_the_records_are_those_of_one_process(tmp_path: Path) -> None:
    config = yaml.safe_load((CONFIGS / "tiny.yaml").read_text(encoding="utf-8"))
    [task] = config["evaluation"]["tasks"]
    config["evaluation"] = {
        "rows": ["no_critic", "sft"],
        "tasks": [task | {"limit": 150}],
        "protocol": {"response_temperature": 0.7, "critique_temperature": 1.0, "samples": 4},
    }
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(config | {"threads": 1}), encoding="utf-8")
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", "--standalone"]
    command = ["-m", "critique_rl.cli", "evaluate", str(path), "--set", f"output={tmp_path / 'two'}"]
    done = subprocess.run(
        [*launcher, *command], env=environment(), capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    Run(load_config(path, [f"output={tmp_path / 'one'}"])).execute(["evaluate"])
    one, two = (sorted((tmp_path / name).rglob("records.jsonl")) for name in ("one", "two"))
    assert [path.read_bytes() for path in one] == [path.read_bytes() for path in two] and len(one) == 2
    assert not list((tmp_path / "two").rglob("*.rank*"))
