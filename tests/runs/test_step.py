"""A step of a run and its marker file."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from helpers import environment

from critique_rl.records import wait_for
from critique_rl.runs.step import Step
from critique_rl.types import UserError


def test_a_step_adds_up_its_time_over_an_interruption(tmp_path: Path) -> None:
    calls = []

    def work() -> None:
        calls.append(1)
        if len(calls) == 1:
            raise KeyboardInterrupt

    step = Step("s", tmp_path / "s", kind="pool", command="pool", settings={})
    with pytest.raises(KeyboardInterrupt):
        step.execute(work)
    assert not step.finished()
    content = json.loads((tmp_path / "s" / "step.json").read_text(encoding="utf-8"))
    (tmp_path / "s" / "step.json").write_text(json.dumps(content | {"seconds": 5.0}), encoding="utf-8")
    step.execute(work)
    assert step.finished()
    assert 5.0 <= json.loads((tmp_path / "s" / "step.json").read_text(encoding="utf-8"))["seconds"] < 6.0


def finished(folder: Path, **settings: int) -> Step:
    step = Step("seed0/pool", folder, kind="pool", command="pool", settings=settings)

    def work() -> None:
        for name in ("rounds/0.jsonl", "table/data.arrow", "checkpoint-2/optimizer.pt"):
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_bytes(name.encode())

    step.execute(work)
    return step


@pytest.mark.parametrize("name", ["rounds/0.jsonl", "table/data.arrow"])
def test_a_finished_step_whose_files_have_changed_is_refused_with_what_to_delete(
    tmp_path: Path, name: str
) -> None:
    step = finished(tmp_path)
    shutil.rmtree(tmp_path / "checkpoint-2")  # nobody reads it
    (tmp_path / "README.md").write_text("figures of the report")
    assert step.finished() and not step.unchecked()
    path = tmp_path / name
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    with pytest.raises(
        UserError, match=rf"step 'seed0/pool': .*{name} has other content. Delete that folder"
    ):
        step.finished()
    path.unlink()
    with pytest.raises(UserError, match=rf"{name} is missing. Delete"):
        step.finished()


def test_a_step_that_an_earlier_version_finished_is_taken_as_it_is(tmp_path: Path) -> None:
    step = finished(tmp_path)
    marker = json.loads((tmp_path / "step.json").read_text())
    del marker["files"]
    (tmp_path / "step.json").write_text(json.dumps(marker))
    (tmp_path / "rounds/0.jsonl").write_text("other")
    assert step.finished() and step.unchecked()


@pytest.mark.parametrize(
    "content", ["", '{"name": "s", "sett', "[]", "{}", '{"settings": {}, "finished": 1}']
)
def test_a_damaged_marker_is_named_with_what_to_delete(tmp_path: Path, content: str) -> None:
    step = finished(tmp_path)
    (tmp_path / "step.json").write_text(content)
    with pytest.raises(UserError, match=rf"step.json is damaged: .* Delete {tmp_path} to make"):
        step.finished()


def test_markers_that_a_killed_process_left_are_removed(tmp_path: Path) -> None:
    (tmp_path / "step.json.123").write_text("half")
    finished(tmp_path)
    assert [path.name for path in tmp_path.glob("step.json*")] == ["step.json"]


def test_an_attempt_that_wrote_nothing_binds_nobody_to_its_settings(tmp_path: Path) -> None:
    def fail() -> None:
        raise UserError("no such model")

    with pytest.raises(UserError, match="no such model"):
        Step("s", tmp_path, kind="pool", command="pool", settings={"actor": 1}).execute(fail)
    other = Step("s", tmp_path, kind="pool", command="pool", settings={"actor": 2})
    assert not other.finished()
    (tmp_path / "records.jsonl").write_text("{}\n")
    with pytest.raises(UserError, match="actor: 1 -> 2"):
        other.finished()


RANK_1 = """
import sys
from pathlib import Path
from critique_rl.runs.step import Step

folder = Path(sys.argv[1])
step = Step("s", folder, kind="train", command="train", settings={"a": 1}, all_ranks=True)
step.execute(lambda: (folder / "rank1").touch())
"""


def test_a_rank_works_once_rank_0_has_begun_and_waits_for_its_end(tmp_path: Path) -> None:
    def step(**settings: int) -> Step:
        return Step("s", tmp_path, kind="train", command="train", settings=settings, all_ranks=True)

    def fail() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        step(a=2).execute(fail)  # an attempt that wrote nothing: its settings bind nobody
    other = subprocess.Popen([sys.executable, "-c", RANK_1, str(tmp_path)], env=environment(RANK="1"))
    time.sleep(2.0)
    assert not (tmp_path / "rank1").exists() and not step(a=1).finished()
    step(a=1).execute(lambda: wait_for((tmp_path / "rank1").exists))
    assert other.wait(timeout=30) == 0 and step(a=1).finished()
