"""Differences between a run's settings and the paper's."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from critique_rl.config.reading import as_dict
from critique_rl.config.run import load_config
from critique_rl.reports.settings import CONFIGS, differences_from, paper_config, reward


@pytest.mark.parametrize("name", ["qwen2.5-3b", "qwen2.5-7b", "qwen2.5-vl-7b", "qwen2.5-7b-summarisation"])
def test_the_papers_own_setting_differs_in_nothing(name: str) -> None:
    path = CONFIGS / f"{name}.yaml"
    config = as_dict(load_config(path))
    assert paper_config(config) == path
    assert differences_from(path, config) == []


def test_differences_name_the_stages_and_know_what_a_setting_is_by_default() -> None:
    config = as_dict(load_config(CONFIGS / "tiny.yaml", ["stages.stage2.trainer.beta_1=0.9"]))
    path = paper_config(config)
    assert path == CONFIGS / "qwen2.5-3b.yaml"
    found = {(d.setting, d.stages): (d.paper, d.ours) for d in differences_from(path, config)}
    stages = ("stage1", "stage2", "r_refine_only")
    assert found["warmup_steps", stages] == ("469", "0")  # not set in tiny.yaml
    assert found["gradient_accumulation_steps", stages] == ("2", "1")
    assert found["beta_1", ("stage2",)] == ("0.2", "0.9")
    assert found["rl_steps", ("r_refine_only",)] == ("1000", "130")
    assert found["lengths.critique", ()] == ("1536", "48")
    assert found["train", ()] == ("math (train), gsm8k (train), aqua (train, 7,000)", "modular_chain (train)")
    settings = {setting for setting, _ in found}
    assert not settings & {"use_cpu", "num_iterations", "num_generations", "seeds", "output", "max_grad_norm"}


def test_an_installed_package_has_no_configuration_of_the_paper(tmp_path: Path) -> None:
    assert paper_config(as_dict(load_config(CONFIGS / "tiny.yaml")), tmp_path) is None


@pytest.mark.parametrize(
    ("method", "trainer", "words"),
    [
        ("critique_rl", {}, "r_dis"),
        ("critique_rl", {"signed_dis": True}, "r_dis in {-1, 1}"),
        ("critique_rl", {"refinement_reward": "r_delta", "beta_1": 0.0}, "r_delta"),
        (
            "critique_rl",
            {"refinement_reward": "r_refine", "combination": "gated"},
            "r_refine where the verdict is right, else -1",
        ),
        ("pairwise_critic", {}, "0.9 r_pref + 0.1 r_format"),
        ("mixed", {"alpha": 0.5}, "0.5 (r_pref or r_oracle) + 0.5 r_format"),
        ("star", {}, "–"),
    ],
)
def test_the_reward_in_the_papers_terms(method: str, trainer: Mapping[str, Any], words: str) -> None:
    assert reward({"method": method, "trainer": trainer}) == words
