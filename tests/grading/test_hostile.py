"""A short form of experiments/hostile.py."""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "experiments" / "hostile.py"


@pytest.mark.processes
def test_no_hostile_reply_is_graded_right_runs_code_or_hangs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "hostile.json"
    monkeypatch.setattr(
        sys, "argv", [str(SCRIPT), "--strings", "300", "--seed", "1", "--output", str(output)]
    )
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(SCRIPT), run_name="__main__")
    outcome: dict[str, Any] = json.loads(output.read_text("utf-8"))
    assert outcome["violations"] == [] and outcome["canaries"] == [] and outcome["missed"] == {}
    assert outcome["right"]["right"] == outcome["groups"]["right"] > 10
    assert outcome["groups"]["wrong"] > 50 and "wrong" not in outcome["right"]
    assert outcome["parsers_megabyte_s"] < 20
    assert end.value.code == 0
