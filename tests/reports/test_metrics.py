"""The table of metrics and the colours of methods."""

from __future__ import annotations

import importlib
import importlib.util
import re

import pytest
from helpers import ROOT

from critique_rl.reports.columns import COLUMNS, is_share, label
from critique_rl.reports.curves import DRAWN
from critique_rl.reports.pictures import PALETTE, colours, places
from critique_rl.training.metrics import CURVES, EVALUATION, TRAINING, Metric


@pytest.mark.parametrize("metric", [*TRAINING.values(), *EVALUATION.values()], ids=lambda metric: metric.name)
def test_each_metric_names_a_function_that_exists(metric: Metric) -> None:
    module, _, name = metric.function.rpartition(".")
    place = module if module == "trl" else f"critique_rl.{module}"
    assert hasattr(importlib.import_module(place), name)


def test_panels_have_headings() -> None:
    assert {*DRAWN, *(name for panels in DRAWN.values() for name in panels), "kl", "entropy"} <= {*CURVES}


def test_shares_are_told_from_scores_and_counts() -> None:
    assert all(is_share(name, "percent") for name in COLUMNS)
    assert not any(is_share(name, "score") for name in ("score", "delta", "mae_dis", "tokens"))
    assert is_share("delta", "percent") and is_share("critic_acc_mean_lenient", "score")
    assert not is_share("tokens_at_4", "percent")
    assert label("refinement_at_R") == "Refinement@R" and label("graded_rate") == "graded rate"


def test_a_method_has_one_colour_in_every_picture() -> None:
    assert colours(["Stage I"])["Stage I"] == colours(["mine", "Critique-RL", "Stage I"])["Stage I"]
    of_many = places(["Critique-RL", "Stage I+II", *map(str, range(20))])
    assert len({of_many[name] for name in list(of_many)[: len(PALETTE)]}) == len(PALETTE)
    assert set(of_many.values()) <= set(range(len(PALETTE)))
    css = (ROOT / "critique_rl" / "view" / "page.css").read_text(encoding="utf-8")
    assert tuple(re.findall(r"--c\d: (#\w+);", css)[: len(PALETTE)]) == PALETTE  # dark ones come after
