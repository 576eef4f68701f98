"""A step of a run and its marker file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from critique_rl.runs.step import Step


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
