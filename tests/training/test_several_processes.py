"""Two processes on CPU train, save, resume and evaluate like one: data parallelism, FSDP2 and ZeRO-3."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
import several_processes
from datasets import Dataset
from helpers import chat_completion, environment, follow_critique, png, serving
from safetensors.torch import load_file
from several_processes import JOBS, LAUNCHES, measure, work

from critique_rl.adapters import is_adapter
from critique_rl.tasks import load_task

TOLERANCE = 1e-6
"""Largest difference of a weight after four optimizer steps of 3e-4: float32 adds up in another order."""


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """A server whose refinements end in the number that the critique explains."""
    with serving(lambda body: chat_completion(follow_critique(body["messages"]))) as server:
        yield server.url


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the rows of the trainings, right and wrong responses in turn, and a picture."""
    rows = [
        {
            "question": p.question,
            "answer": p.answer,
            "kind": p.kind,
            "response": f"{p.solution}\nThe answer is {(int(p.answer) + i % 2) % 10}",
            "response_correct": i % 2 == 0,
        }
        for i, p in enumerate(load_task("modular_chain", size=2000)[:24])
    ]
    folder = tmp_path_factory.mktemp("processes")
    Dataset.from_list(rows).save_to_disk(str(folder / "pool"))
    (folder / "picture.png").write_bytes(png())
    return folder


@pytest.fixture(scope="module", params=JOBS)
def job(request: pytest.FixtureRequest) -> str:
    """Name of a list of trainings."""
    return str(request.param)


@pytest.fixture(scope="module")
def alone(shared: Path, url: str, job: str) -> Path:
    """Results of one process with the same batch."""
    folder = shared / job
    folder.mkdir()
    (folder / "pool").symlink_to(shared / "pool")
    (folder / "picture.png").symlink_to(shared / "picture.png")
    work(job, folder / "alone", "ddp", url)
    return folder / "alone"


def difference(one: Path, other: Path) -> float:
    """Largest difference between two saved models or adapters; FSDP also saves a head that is the embedding."""
    weights = "adapter_model.safetensors" if is_adapter(one) else "model.safetensors"
    a, b = (load_file(folder / weights) for folder in (one, other))
    assert b.keys() - a.keys() <= {"lm_head.weight"} and a.keys() <= b.keys()
    return max((a[name] - b[name]).abs().max().item() for name in a)


@pytest.mark.slow
@pytest.mark.parametrize("launch", LAUNCHES)
def test_two_processes_do_as_one(launch: str, job: str, alone: Path, url: str) -> None:
    if launch == "zero3" and find_spec("deepspeed") is None:
        pytest.skip("deepspeed is not installed")
    folder = alone.parent / launch
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", "--standalone"]
    done = subprocess.run(
        [*command, str(several_processes.__file__), job, str(folder), launch, url],
        env=environment(GLOO_SOCKET_IFNAME="lo", **LAUNCHES[launch]),
        capture_output=True,
        text=True,
        timeout=1200,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    assert difference(alone / "stage1", alone / "stage2") > 5e-4, "nothing is learned, so nothing is compared"
    for name in sorted(path.name for path in alone.iterdir() if path.is_dir()):
        assert difference(alone / name, folder / name) < TOLERANCE, name
    for resumed in alone.glob("*_resumed"):
        name = resumed.name.removesuffix("_resumed")
        assert difference(folder / name, folder / resumed.name) < TOLERANCE, name
    records = alone.parent / f"{launch}.jsonl"
    measure(folder, records)
    assert (folder / "records.jsonl").read_bytes() == records.read_bytes()
    assert not list(folder.glob("records.rank*"))
