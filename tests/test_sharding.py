"""Models that are loaded whole beside a training whose weights are shared.

`training/test_several_processes.py` does so in two processes.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest
import torch
from several_processes import LAUNCHES
from transformers.integrations import deepspeed

from critique_rl.sharding import is_dtensor, launched_in_parts, loading_whole, part_here


class Zero3:
    """What `transformers` asks of the configuration of a training under ZeRO-3."""

    config: dict[str, object] = {}  # noqa: RUF012 - nobody changes it

    def is_zero3(self) -> bool:
        return True


@pytest.fixture
def zero3() -> Iterator[Zero3]:
    config = Zero3()
    deepspeed.set_hf_deepspeed_config(config)
    yield config
    deepspeed.unset_hf_deepspeed_config()


def test_inside_nothing_is_cut_and_after_it_all_is_as_before(zero3: Zero3) -> None:
    with pytest.raises(ZeroDivisionError), loading_whole():
        assert not deepspeed.is_deepspeed_zero3_enabled()
        1 / 0  # noqa: B018
    assert deepspeed.is_deepspeed_zero3_enabled()


def test_a_training_that_is_over_is_not_brought_back() -> None:
    deepspeed.set_hf_deepspeed_config(Zero3())
    gc.collect()
    with loading_whole():
        pass
    assert not deepspeed.is_deepspeed_zero3_enabled()


def test_a_plain_weight_is_here_whole() -> None:
    weight = torch.nn.Parameter(torch.ones(3))
    assert part_here(weight).equal(weight) and not part_here(weight).requires_grad
    assert not is_dtensor(weight)


@pytest.mark.parametrize(("launch", "parts"), [("ddp", ""), ("fsdp2", "FSDP"), ("zero3", "ZeRO-3")])
def test_the_launcher_says_what_cuts_weights(
    launch: str, parts: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in LAUNCHES[launch].items():
        monkeypatch.setenv(name, value)
    assert launched_in_parts() == parts
    monkeypatch.setenv("ACCELERATE_DEEPSPEED_ZERO_STAGE", "2")
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "false")
    assert launched_in_parts() == ""
