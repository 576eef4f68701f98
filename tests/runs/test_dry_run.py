"""What a plan refuses although it loads nothing."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers import ROOT

from critique_rl.config.run import load_config
from critique_rl.runs.dry_run import describe
from critique_rl.types import UserError


def test_a_base_that_is_not_there_is_refused(tmp_path: Path) -> None:
    config = load_config(
        str(ROOT / "experiments/configs/tiny.yaml"), [f"output={tmp_path}", f"base={tmp_path / 'absent'}"]
    )
    with pytest.raises(UserError, match=r"base: no model at .*absent: not a directory"):
        describe(config, from_scratch=True)


@pytest.mark.parametrize(
    ("base", "size"),
    [("nobody/nothing", "size unknown"), ("nobody/nothing-1.5b", "1.50 B parameters by its name")],
)
def test_a_base_that_may_be_on_the_hub_is_said_to_be_unchecked(tmp_path: Path, base: str, size: str) -> None:
    config = load_config(
        str(ROOT / "experiments/configs/tiny.yaml"), [f"output={tmp_path}", f"base={base}", "seeds=[0]"]
    )
    remark = "not checked: no such folder, none in the local cache, and the hub is not asked (offline)"
    assert f"base: {base}, {size}, {remark}" in describe(config, from_scratch=True).splitlines()


def test_an_unknown_split_is_refused_out_of_the_hubs_reach(tmp_path: Path) -> None:
    tasks = "evaluation.tasks=[{name: gsm8k, split: tset}]"
    with pytest.raises(UserError, match="tset"):
        describe(load_config(str(ROOT / "experiments/configs/tiny.yaml"), [f"output={tmp_path}", tasks]))
