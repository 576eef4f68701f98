"""The benchmarks of a step, in a short form: what they cover and that both sides do the same work, never times."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from helpers import ROOT, environment

PHASES = {
    *("data", "batches", "critique texts", "critique prefill", "critique decode", "reward", "advantages"),
    *("old and reference log-probabilities", "forward and backward", "optimizer", "log", "rest"),
}
OF_STAGE2 = {"refine texts", "refine prefill", "refine decode", "grade"}


def run(script: str, output: Path, *options: str) -> dict[str, Any]:
    command = [sys.executable, str(ROOT / "experiments" / script), *options, "--output", str(output)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment(), check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    content: dict[str, Any] = json.loads(output.read_text(encoding="utf-8"))
    assert {"config", "commit", "versions", "device"} <= set(content)
    return content


@pytest.mark.processes
def test_a_short_benchmark_gives_both_sides_the_same_work_and_names_the_phases(tmp_path: Path) -> None:
    rows = [
        {
            "question": f"Start with {i}. Add 3.",
            "response": f"{i} + 3 = {i + 3 + i % 2}",
            "answer": str(i + 3),
        }
        | {"kind": "number", "response_correct": i % 2 == 0}
        for i in range(6)  # of three turns
    ]
    (tmp_path / "rows.json").write_text(json.dumps(rows), encoding="utf-8")
    options = ["--rows", str(tmp_path / "rows.json"), "--prompts", "2", "--k", "2", "--repeats", "2"]
    options += ["--new-tokens", "16", "--park", "--share-prompts", "--set", "actor.batch_size=8"]
    content = run("bench.py", tmp_path / "tiny.json", "tiny", *options)
    assert content["config"]["ours"] == {"actor.batch_size": 8, "share_prompts": True}
    assert all(rate > 0 for rate in content["limits"]["flop_per_second"].values())
    for stage, phases in (("stage1", PHASES), ("stage2", PHASES | OF_STAGE2)):
        result = content[stage]
        assert result["ratio"] == result["plain"]["median"] / result["ours"]["median"] > 0
        assert phases <= result["ratio_of_phases"].keys()
        assert all(0 < ratio < math.inf for ratio in result["ratio_of_phases"].values())
        for side in (result["plain"], result["ours"]):
            assert sum(side["phases"].values()) == pytest.approx(sum(side["all"]) / 2)
            assert 0.95 <= side["named_share"] <= 1  # of steps of 0.1 s; more where steps are longer
            assert 0 < side["non_padding"] <= 1
            assert {"critique decode", "forward and backward"} <= side["share_of_limit"].keys() <= phases
            assert side["weights_moved"] and side["peak_bytes"] >= side["held_bytes"] > 0
        for texts in ("critiques", *(["refinements"] if stage == "stage2" else [])):
            written = [result[side]["texts"][texts]["rows"] for side in ("plain", "ours")]
            assert written == [8, 8]  # two turns of two prompts with two critiques
            # Both draw with one seed and start alike; only rounding may end a text elsewhere.
            assert result["ratio_of_tokens"][texts] == pytest.approx(1, abs=0.2)
    for side in ("plain", "ours"):  # the timed turns do not grade what a cache knows from earlier ones
        graded = content["stage2"][side]["graded"]
        assert graded["texts"] == 8 and graded["new"] > graded["distinct"] / 2


@pytest.mark.processes
def test_short_growth_curves_have_points_and_a_picture(tmp_path: Path) -> None:
    options = ("--shapes", "tiny", "--curves", "k", "--points", "2", "--repeats", "1", "--steps", "4")
    content = run("growth.py", tmp_path / "growth.json", *options)
    assert list(content["shapes"]["tiny"]) == ["k"]
    found = content["shapes"]["tiny"]["k"]
    assert found["x"] == [2, 4] and len(found["seconds"]) == len(found["points"]) == 2
    assert all(math.isfinite(found[name]) for name in ("exponent", "of_making"))
    written = [point["tokens"]["critiques"] for point in found["points"]]
    assert all(0 < tokens <= content["config"]["base"]["new_tokens"] for tokens in written)
    assert len(content["memory"]["some"]) == 4 and math.isfinite(content["memory"]["bytes_per_step"])
    assert {"import of the command", "load", "first token"} <= content["start"]["parts"].keys()
    assert all(seconds > 0 for seconds in content["start"]["parts"].values())
    assert (tmp_path / "growth.png").read_bytes().startswith(b"\x89PNG")
