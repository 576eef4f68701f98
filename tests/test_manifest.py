"""Descriptions of finished folders, and the lock on a folder."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import environment

from critique_rl.manifest import damages, describe, only_process, read_manifest, seal, write_atomically
from critique_rl.types import UserError


def folder(path: Path) -> Path:
    (path / "table").mkdir(parents=True)
    (path / "checkpoint-2").mkdir()
    for name in ("weights", "table/rows", "README.md", "checkpoint-2/optimizer", "step.json.17", "a.new"):
        (path / name).write_bytes(name.encode() * 100)
    return path


def test_a_description_has_size_and_checksum_of_what_must_not_change(tmp_path: Path) -> None:
    files = describe(folder(tmp_path), ["checkpoint-*"])
    assert list(files) == ["table/rows", "weights"]
    content = (tmp_path / "weights").read_bytes()
    assert files["weights"]["bytes"] == 700
    assert files["weights"]["sha256"] == hashlib.sha256(content).hexdigest()
    assert damages(tmp_path, files, trust_dates=False) == []
    (tmp_path / "README.md").write_text("with figures")
    (tmp_path / "report.json").write_text("{}")
    assert damages(tmp_path, files, trust_dates=False) == []


@pytest.mark.parametrize("trust_dates", [True, False])
@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda content: content[:10], "weights has 10 bytes, not 700"),
        (lambda content: b"", "weights has 0 bytes, not 700"),
        (lambda content: None, "weights is missing"),
        (lambda content: bytes([content[0] ^ 1]) + content[1:], "weights has other content"),
    ],
    ids=["cut", "empty", "missing", "bit flip"],
)
def test_a_damaged_file_is_named(tmp_path: Path, damage, words: str, trust_dates: bool) -> None:  # type: ignore[no-untyped-def]
    files = describe(folder(tmp_path))
    left = damage((tmp_path / "weights").read_bytes())
    (tmp_path / "weights").unlink()
    if left is not None:
        (tmp_path / "weights").write_bytes(left)
    assert damages(tmp_path, files, trust_dates=trust_dates) == [words]


def test_a_copy_with_other_dates_is_read_and_accepted(tmp_path: Path) -> None:
    files = describe(folder(tmp_path))
    os.utime(tmp_path / "weights", ns=(0, 0))
    assert damages(tmp_path, files, trust_dates=True) == []


def test_a_manifest_is_read_back_and_a_garbled_one_is_none(tmp_path: Path) -> None:
    assert read_manifest(folder(tmp_path)) is None
    seal(tmp_path, owner="stage1")
    found = read_manifest(tmp_path)
    assert found is not None and found["owner"] == "stage1" and "weights" in found["files"]
    for content in ("", "{", "[]", "{}", '{"files": {"weights": 3}}'):
        (tmp_path / "manifest.json").write_text(content)
        with pytest.raises(ValueError):
            read_manifest(tmp_path)


def test_a_failed_write_leaves_the_old_content(tmp_path: Path) -> None:
    path = tmp_path / "step.json"
    write_atomically(path, "old")
    with pytest.raises(UnicodeEncodeError):
        write_atomically(path, "new \ud800")
    assert path.read_text() == "old"


HOLD = """
import sys
from pathlib import Path
from critique_rl.manifest import only_process
with only_process(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.mark.processes
def test_a_second_process_is_refused_by_name_until_the_first_is_killed(tmp_path: Path) -> None:
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment()
    ) as first:
        assert first.stdout is not None and first.stdout.readline() == "held\n"
        named = rf"{tmp_path} is in use by process {first.pid} on .+: wait"
        with pytest.raises(UserError, match=named), only_process(tmp_path):
            pass
        assert json.loads((tmp_path / "run.lock").read_text())["pid"] == first.pid
        first.kill()
    for _ in range(2):  # a lock that was given back, too
        with only_process(tmp_path):
            assert json.loads((tmp_path / "run.lock").read_text())["pid"] == os.getpid()
