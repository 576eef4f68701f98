"""Ends of the whole process: signals and files that the system refuses."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers import environment, hear_ctrl_c

from critique_rl.runs.process import guarded

WAIT = """
import sys, time
from critique_rl.runs.process import guarded

def work():
    try:
        print("working", flush=True)
        time.sleep(60)
    finally:
        print("ending", flush=True)
        time.sleep(float(sys.argv[1]))

sys.exit(guarded(work))
"""


@pytest.mark.processes
@pytest.mark.parametrize(
    ("signals", "code", "words"),
    [
        ([signal.SIGTERM], 143, "terminated; the same command goes on"),
        ([signal.SIGINT], 130, "interrupted; the same command goes on"),
        ([signal.SIGINT, signal.SIGINT], 130, "interrupted twice: ended at once; the same command goes on"),
    ],
    ids=["SIGTERM", "Ctrl-C", "double Ctrl-C"],
)
def test_an_end_from_outside_has_a_code_and_a_word(
    signals: list[signal.Signals], code: int, words: str
) -> None:
    command = [sys.executable, "-c", WAIT, "60" if len(signals) > 1 else "0"]
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
        preexec_fn=hear_ctrl_c,
    ) as process:
        assert process.stdout is not None
        for number, line in zip(signals, ("working", "ending"), strict=False):
            assert process.stdout.readline().strip() == line
            process.send_signal(number)
        error = process.communicate(timeout=30)[1]
    assert process.returncode == code
    assert len(error.splitlines()) == 1 and error.startswith(words)


def test_handlers_are_given_back() -> None:
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    assert guarded(lambda: 0) == 0
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before


FULL = """
import resource, sys
from pathlib import Path
import torch
from datasets import Dataset, disable_progress_bars
from safetensors.torch import save_file
from critique_rl.runs.process import guarded

disable_progress_bars()
ways = {
    "text": lambda path: path.write_text("x" * 200_000),
    "torch": lambda path: torch.save(torch.zeros(50_000), path),
    "safetensors": lambda path: save_file({"w": torch.zeros(50_000)}, path),
    "datasets": lambda path: Dataset.from_dict({"x": list(range(50_000))}).save_to_disk(str(path)),
}
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
sys.exit(guarded(lambda: ways[sys.argv[1]](Path(sys.argv[2]))))
"""


@pytest.mark.processes
@pytest.mark.parametrize("way", ["text", "torch", "safetensors", "datasets"])
def test_a_file_that_finds_no_room_ends_in_one_line(tmp_path: Path, way: str) -> None:
    command = [sys.executable, "-c", FULL, way, str(tmp_path / "file")]
    done = subprocess.run(command, capture_output=True, text=True, env=environment(), check=False)
    assert done.returncode == 2, done.stderr
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert done.stderr.startswith("error: a file cannot be written or read: ") and "goes on" in done.stderr


def full(path: Path) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))


def through_libraries(path: Path) -> None:
    try:
        full(path)
    except OSError as error:
        raise RuntimeError("the table could not be saved") from error


@pytest.mark.parametrize(
    "write",
    [
        full,
        through_libraries,
        lambda path: (path / "below").mkdir(parents=True),
    ],
    ids=["full", "full, told by a library", "a file in place of a folder"],
)
def test_a_refused_file_is_named_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], write: Callable[[Path], None]
) -> None:
    path = tmp_path / "file"
    path.write_text("")
    assert guarded(lambda: write(path)) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_other_failures_keep_their_traceback() -> None:
    with pytest.raises(ZeroDivisionError):
        guarded(lambda: 1 // 0)
