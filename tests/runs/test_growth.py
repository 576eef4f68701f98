"""A step on paper for many GPUs."""

from __future__ import annotations

import pytest

from critique_rl.config.data import LengthConfig
from critique_rl.runs.growth import INSIDE, MOVED, Shapes, collective, step
from critique_rl.runs.launch import GPUS
from critique_rl.runs.lengths import assumed_counts
from critique_rl.runs.sizes import PUBLISHED

SEVEN_B, SHAPE = PUBLISHED["Qwen/Qwen2.5-7B"]
TOKENS = assumed_counts(LengthConfig(response=1024, critique=1536, refinement=1024), pictured=False)
WORK = Shapes(critiques=32, group=4, rows=4, passes=2, tokens=TOKENS)
A100, H100 = GPUS["A100-80GB"], GPUS["H100-80GB"]


def test_a_collective_moves_what_others_hold_and_takes_its_hops() -> None:
    assert collective(8e9, layers=28, gpus=1) == 0.0
    assert collective(8e9, layers=0, gpus=8) == pytest.approx(7e9 / (MOVED * INSIDE))
    assert collective(8e9, layers=28, gpus=512) > collective(8e9, layers=28, gpus=64) > collective(8e9, 28, 8)


def test_one_gpu_has_no_network() -> None:
    one = step(SEVEN_B, SHAPE, WORK, 1, A100)
    assert {part.bound for part in one.parts.values()} == {"arithmetic and memory"}
    calls = SHAPE.layers * TOKENS.critique * 1e-3  # of transformers' layers; vLLM's graphs have none
    assert one.by_transformers == pytest.approx(one.parts["critiques"].seconds + calls, rel=0.05)


def test_the_network_takes_longer_on_many_gpus() -> None:
    few, many = (step(SEVEN_B, SHAPE, WORK, gpus, A100) for gpus in (8, 512))
    assert few.parts["update"].bound == "arithmetic and memory"
    assert many.parts["update"].network > 2 * few.parts["update"].network
    assert few.by_transformers > 3 * few.parts["critiques"].seconds


def test_servers_grow_with_the_work_that_they_do_in_the_same_time() -> None:
    few, many = (step(SEVEN_B, SHAPE, WORK, gpus, A100).servers for gpus in (8, 64))
    assert 1 <= few < many <= 16 * few
    longer = WORK._replace(tokens=TOKENS._replace(refinement=4 * TOKENS.refinement))
    assert step(SEVEN_B, SHAPE, longer, 8, A100).servers > few


def test_the_trainer_waits_for_too_few_servers_alone() -> None:
    eight = step(SEVEN_B, SHAPE, WORK, 8, A100)
    assert eight.busy(eight.servers) == 1.0
    assert eight.servers == 1 or eight.busy(eight.servers - 1) < 1.0
    assert eight.busy(0.5) < eight.busy(1)


def test_a_faster_card_takes_less_time_and_leaves_more_to_the_network() -> None:
    a100, h100 = (step(SEVEN_B, SHAPE, WORK, 64, card) for card in (A100, H100))
    assert h100.seconds < a100.seconds
    assert h100.parts["update"].network == a100.parts["update"].network
