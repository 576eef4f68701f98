"""`evaluate`, `pool` and `eval` spread over the processes of a launch, with the files of one process."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from datasets import load_from_disk
from helpers import CONFIGS, environment

from critique_rl.cli.commands import main
from critique_rl.config.run import load_config
from critique_rl.runs.folder import MARKER, shipped_directory
from critique_rl.runs.run import Run


def in_two_processes(*words: str) -> str:
    """Give a command to two processes; returns what they print."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", "--standalone"]
    done = subprocess.run(
        [*launcher, "-m", "critique_rl.cli", *words],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def tiny(path: Path, **settings: Any) -> dict[str, Any]:
    """Write `tiny` with other settings; returns the only task that it evaluates."""
    config = yaml.safe_load((CONFIGS / "tiny.yaml").read_text(encoding="utf-8"))
    [task] = config["evaluation"]["tasks"]
    path.write_text(yaml.safe_dump(config | {"threads": 1, **settings}), encoding="utf-8")
    return dict(task)


@pytest.mark.slow
def test_the_records_are_those_of_one_process(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    evaluation = {
        "rows": ["no_critic", "sft"],
        "tasks": [tiny(path) | {"limit": 150}],
        "protocol": {"response_temperature": 0.7, "critique_temperature": 1.0, "samples": 4},
    }
    tiny(path, evaluation=evaluation)
    in_two_processes("evaluate", str(path), "--set", f"output={tmp_path / 'two'}")
    Run(load_config(path, [f"output={tmp_path / 'one'}"])).execute(["evaluate"])
    one, two = (sorted((tmp_path / name).rglob("records.jsonl")) for name in ("one", "two"))
    assert [path.read_bytes() for path in one] == [path.read_bytes() for path in two] and len(one) == 2
    assert not list((tmp_path / "two").rglob("*.rank*"))


@pytest.mark.slow
def test_the_pool_is_that_of_one_process(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    tiny(path, pool={"problems": 40, "samples": 3})
    in_two_processes("pool", str(path), "--set", f"output={tmp_path / 'two'}")
    Run(load_config(path, [f"output={tmp_path / 'one'}"])).execute(["pool"])
    one, two = (tmp_path / name / "seed0" / "pool" for name in ("one", "two"))
    files = sorted(path.relative_to(one) for path in one.rglob("*.json*") if path.parent.name != "table")
    assert [str(file) for file in files if file.parent.name == "rounds"] == [
        f"rounds/{sample}.jsonl" for sample in range(3)
    ]
    for file in (f for f in files if f.name != MARKER):
        assert (one / file).read_bytes() == (two / file).read_bytes(), file
    pools = [load_from_disk(str(folder / "table")).to_list() for folder in (one, two)]
    assert pools[0] == pools[1] and len(pools[0]) > 20


@pytest.mark.slow
def test_eval_writes_the_records_of_one_process_and_reports_once(tmp_path: Path) -> None:
    models = shipped_directory("assets/tiny")
    how = ["--task", "modular_chain", "--split", "test", "--limit", "80", "--prompts", "compact"]
    how += ["--actor", str(models / "actor"), "--critic", str(models / "sft"), "--tokens", "24", "48", "24"]
    how += ["--samples", "5", "--temperature", "0.7"]
    printed = in_two_processes("eval", str(tmp_path / "two"), *how)
    assert printed.count("results:") == 1
    assert main(["eval", str(tmp_path / "one"), *how, "--quiet"]) == 0
    records = [tmp_path / name / "records.jsonl" for name in ("one", "two")]
    assert records[0].read_bytes() == records[1].read_bytes()
    assert sorted(p.name for p in (tmp_path / "one").iterdir()) == sorted(
        p.name for p in (tmp_path / "two").iterdir()
    )
